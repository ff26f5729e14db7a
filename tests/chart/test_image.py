"""The Dockerfile cannot be built here; what can be said without building is."""

import fnmatch
import re
import shutil

from support import ROOT, TOOLS, run


def test_hadolint():
    run(TOOLS / "venv/bin/hadolint", ROOT / "Dockerfile")


def test_scripts_are_clean():
    scripts = [*sorted((ROOT / "charts/redis-cluster/scripts").glob("*.sh")), ROOT / "tests/chart/setup", *sorted((ROOT / "examples/kubernetes").glob("*.sh"))]
    run(TOOLS / "venv/bin/shellcheck", "--external-sources", "--source-path", ROOT / "charts/redis-cluster/scripts", *scripts)


def test_the_context_has_what_the_build_reads(tmp_path):
    """Every file that cargo and the sources name is copied by the Dockerfile, and let in by .dockerignore."""
    wanted = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    dockerfile = (ROOT / "Dockerfile").read_text()
    copied = [p for line in re.findall(r"^COPY (?!--from)(.*) \S+$", dockerfile, re.M) for p in line.split()]
    for path in copied:
        assert any(path == w or path.startswith(f"{w}/") for w in wanted), f"{path} is not let in by .dockerignore"
        source, target = ROOT / path, tmp_path / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=lambda _, names: [n for n in names if fnmatch.fnmatch(n, "node_modules")], dirs_exist_ok=True)
        else:
            shutil.copy(source, target)
    # Fails where a target of Cargo.toml has no file.
    run("cargo", "metadata", "--no-deps", "--offline", "--format-version", "1", "--manifest-path", tmp_path / "Cargo.toml")
    for source in (tmp_path / "src").rglob("*.rs"):
        for name in re.findall(r'include_(?:str|bytes)!\("([^"]+)"\)', source.read_text()):
            assert (source.parent / name).exists(), f"{source.relative_to(tmp_path)} reads {name}"


def test_the_image_runs_as_the_chart_says():
    text = (ROOT / "Dockerfile").read_text().rsplit("FROM scratch", 1)[1]
    assert "USER 65532:65532" in text and 'ENTRYPOINT ["/usr/local/bin/telemetry"]' in text and "ENV PATH=/usr/local/bin" in text
    assert "ca-certificates.crt" in text
