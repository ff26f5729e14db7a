"""docs/deployment.md: its helm commands and values are rendered as they stand, its kubectl commands that need no cluster are run, and of the
others everything that they name is looked up: objects, containers, ports, commands and flags of the program."""

import os
import re
import shlex

import pytest

from support import HELMS, PIPELINE, REDIS_CLUSTER, ROOT, TELEMETRY, TOOLS, find, objects, one, pods, render, run

TEXT = (ROOT / "docs/deployment.md").read_text()
VARIABLES = {"REDIS_PASSWORD": "redis secret", "DB_PASSWORD": "db secret", "ADMIN_PASSWORD": "a", "EDGE_PASSWORD": "b", "CENTRAL_PASSWORD": "c", "API_TOKEN": "t"}


def commands(text):
    """The commands of the bash blocks, lines that go on joined."""
    for block in re.findall(r"```bash\n(.*?)```", text, re.S):
        for line in block.replace("\\\n", " ").splitlines():
            if line.strip() and not line.startswith("#"):
                yield line.strip()


README = [c for c in re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.S) if c.startswith("helm ")]
HELM_COMMANDS = [c for c in [*commands(TEXT), *(c.replace("\\\n", " ").strip() for c in README)] if c.startswith(("helm upgrade", "helm template"))]
KUBECTL_CREATE = [c for c in commands(TEXT) if c.startswith("kubectl") and " create " in c]
VALUES = re.findall(r"```yaml\n# values: (\S+)\n(.*?)```", TEXT, re.S)


@pytest.mark.parametrize("helm", HELMS)
@pytest.mark.parametrize("command", HELM_COMMANDS, ids=range(len(HELM_COMMANDS)))
def test_helm_commands(command, helm):
    words = shlex.split(re.sub(r"\$\{(\w+)\}", lambda m: VARIABLES[m[1]], command))
    words = [w for w in words if w not in ("--install", "--create-namespace")]
    assert words[1] in ("upgrade", "template")
    done = run(HELMS[helm], "template", *words[2:], "--kube-version", "1.32.0", cwd=ROOT)
    assert objects(done.stdout)


def test_there_are_commands_to_test():
    assert len(HELM_COMMANDS) >= 11 and len(KUBECTL_CREATE) >= 6 and len(VALUES) >= 7 and len(README) == 1
    # Of each block it is known what it is: none is passed over.
    assert {kind for kind in re.findall(r"^```(\w+)", TEXT, re.M)} == {"bash", "yaml", "mermaid"}
    assert len(VALUES) == TEXT.count("```yaml\n")


def test_every_command_is_one_that_is_looked_at():
    known = ("helm upgrade ", "helm template ", "helm test ", "helm uninstall ", "kubectl config use-context ", "make image ", "printf 'sha256:")
    for command in commands(TEXT):
        words = command.split()
        asked = words[0] == "kubectl" and (words[3:4] or [""])[0] in ("create", "get", "logs", "exec", "port-forward", "delete")
        assert command.startswith(known) or asked, f"no test knows: {command}"


@pytest.mark.parametrize("command", KUBECTL_CREATE, ids=range(len(KUBECTL_CREATE)))
def test_secrets_and_config_maps(command, tmp_path):
    for name in ("ca.crt", "gpus.csv", "tokens"):
        (tmp_path / name).write_text("x")
    words = shlex.split(re.sub(r"\$\{(\w+)\}", lambda m: VARIABLES[m[1]], command))
    assert words[0] == "kubectl"
    made = objects(run(TOOLS / "bin/kubectl", *words[1:], "--dry-run=client", "--output", "yaml", cwd=tmp_path, env={**os.environ, "KUBECONFIG": "/dev/null"}).stdout)
    assert made[0]["kind"] in ("Secret", "ConfigMap")


@pytest.mark.parametrize("chart, text", VALUES, ids=range(len(VALUES)))
def test_values(chart, text, tmp_path):
    file = tmp_path / "values.yaml"
    file.write_text(text)
    assert render(ROOT / "charts" / chart, {"postgresql.auth.password": "db"}, files=[file])


# What docs/deployment.md installs, where.
RELEASES = {
    "telemetry-edge": (PIPELINE, "telemetry-system", ["charts/telemetry-pipeline/values-edge.yaml", "examples/kubernetes/scenario-3-edge.yaml"]),
    "telemetry-central": (PIPELINE, "telemetry-system", ["charts/telemetry-pipeline/values-central.yaml", "examples/kubernetes/scenario-3-central.yaml"]),
    "redis-cluster": (REDIS_CLUSTER, "shared-infrastructure", ["examples/kubernetes/shared-infrastructure.yaml"]),
}


@pytest.fixture(scope="module")
def installed():
    docs = {}
    for release, (chart, namespace, files) in RELEASES.items():
        docs.setdefault(namespace, []).extend(render(chart, {}, release=release, namespace=namespace, files=[ROOT / file for file in files]))
    return docs


ASKING = [c for c in commands(TEXT) if c.startswith("kubectl --namespace") and c not in KUBECTL_CREATE]


@pytest.mark.parametrize("command", ASKING, ids=range(len(ASKING)))
def test_what_is_asked_of_a_cluster_is_there(command, installed):
    words = shlex.split(command.split(" | ")[0])
    docs, verb, rest = installed[words[2]], words[3], words[4:]
    workloads = {f"{d['kind'].lower()}/{d['metadata']['name']}": d for d in docs}
    if verb == "get" and rest[0] == "secret":
        assert rest[1] in [d["spec"]["secretName"] for d in find(docs, "Certificate")]
        return
    if verb == "get":
        key, value = rest[rest.index("--selector") + 1].split("=")
        assert rest[0] == "pods" and any(d["spec"]["template"]["metadata"]["labels"].get(key) == value for d in docs if d["kind"] in ("Deployment", "DaemonSet"))
        return
    if verb == "delete":
        # What `helm uninstall` leaves of a release has its label; kinds are as kubectl calls them.
        key, value = rest[rest.index("--selector") + 1].split("=")
        assert set(rest[0].split(",")) <= {"pods", "jobs", "persistentvolumeclaims"}
        assert value in RELEASES and any(d["metadata"].get("labels", {}).get(key) == value for d in docs)
        return
    name = next(word for word in rest if "/" in word or re.search(r"-\d+$", word))
    if verb == "port-forward":
        service = workloads[name]
        assert int(rest[-1].split(":")[1]) in [port["port"] for port in service["spec"]["ports"]]
        return
    # The pod of a StatefulSet is called by its number.
    spec = (workloads.get(name) or workloads[f"statefulset/{name.rsplit('-', 1)[0]}"])["spec"]["template"]["spec"]
    containers = [c["name"] for c in spec["containers"]]
    assert "--container" not in rest or rest[rest.index("--container") + 1] in containers
    if "--" in rest and rest[rest.index("--") + 1] == "telemetry":
        arguments = rest[rest.index("--") + 2:]
        said = run(TELEMETRY, *arguments, "--help").stdout
        assert f"telemetry {arguments[0]}" in said
        if "--config" in arguments:
            path = arguments[arguments.index("--config") + 1]
            assert any(path.startswith(m["mountPath"]) for m in spec["containers"][0]["volumeMounts"])


def test_helm_test_has_something_to_run(installed):
    for command in commands(TEXT):
        if command.startswith("helm test "):
            _, _, release, _, namespace, *_ = shlex.split(command)
            assert [d for d in find(installed[namespace], "Pod") if d["metadata"]["annotations"]["helm.sh/hook"] == "test" and d["metadata"]["name"].startswith(release)]


def test_what_is_uninstalled_is_what_was_installed():
    for command in commands(TEXT):
        if command.startswith("helm uninstall "):
            _, _, release, _, namespace, *_ = shlex.split(command)
            assert RELEASES[release][1] == namespace


def test_the_tokens_are_taken(tmp_path):
    """The file that the documented command writes is one that the gateway reads."""
    command = next(c for c in commands(TEXT) if c.startswith("printf 'sha256:"))
    run("sh", "-c", command, cwd=tmp_path, env={**os.environ, **VARIABLES})
    env = {"PATH": os.environ["PATH"], "TELEMETRY_API_TOKENS_FILE": str(tmp_path / "tokens"), "DATABASE_URL": "postgres://127.0.0.1:1/x"}
    assert re.fullmatch(r"sha256:[0-9a-f]{64} grafana\n", (tmp_path / "tokens").read_text())
    assert run(TELEMETRY, "config", "check", env=env, ok=False).returncode == 0


def test_the_image_that_is_built_is_the_one_that_is_run():
    command = next(c for c in commands(TEXT) if c.startswith("make image "))
    image = re.search(r"IMAGE=(\S+):(\S+)", command)
    docs = render(PIPELINE, {"postgresql.auth.password": "db"}, "--set", f"image.repository={image[1]}")
    assert f"{image[1]}:{image[2]}" in {spec["containers"][0]["image"] for _, spec in pods(docs)}
    assert "image:" in (ROOT / "Makefile").read_text()


def test_links_lead_somewhere():
    for name in ("deployment.md", "managed-redis.md"):
        for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", (ROOT / "docs" / name).read_text()):
            assert (ROOT / "docs" / link).exists(), f"docs/{name}: {link}"


def rights():
    rules = one(render(REDIS_CLUSTER, {"auth.password": "x"}), "ConfigMap")["data"]["acl.rules"]
    for user in ("edge", "central"):
        nested = next(line for line in rules.splitlines() if line.startswith(f"{user} "))
        flat = [w.strip("()") for w in nested.split() if w.strip("()").startswith("+")]
        yield user, nested.split(" ", 1)[1], " ".join(["~{telemetry:*", *dict.fromkeys(flat)])


def test_managed_redis_gets_the_same_rights():
    text = (ROOT / "docs/managed-redis.md").read_text()
    for user, nested, flat in rights():
        for line in (f"ACL SETUSER {user} on >PASSWORD resetchannels {nested}", f"ACL SETUSER {user} on >PASSWORD resetchannels {flat}"):
            assert line in text.splitlines(), f"docs/managed-redis.md must say:\n{line}"
