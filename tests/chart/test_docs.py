"""docs/deployment.md: its helm commands and values are rendered as they stand, its kubectl commands that need no cluster are run."""

import os
import re
import shlex

import pytest

from support import HELMS, PIPELINE, REDIS_CLUSTER, ROOT, objects, one, render, run

TEXT = (ROOT / "docs/deployment.md").read_text()
VARIABLES = {"REDIS_PASSWORD": "redis secret", "DB_PASSWORD": "db secret", "ADMIN_PASSWORD": "a", "EDGE_PASSWORD": "b", "CENTRAL_PASSWORD": "c", "API_TOKEN": "t"}


def commands(text):
    """The commands of the bash blocks, lines that go on joined."""
    for block in re.findall(r"```bash\n(.*?)```", text, re.S):
        for line in block.replace("\\\n", " ").splitlines():
            if line.strip() and not line.startswith("#"):
                yield line.strip()


HELM_COMMANDS = [c for c in commands(TEXT) if c.startswith(("helm upgrade", "helm template"))]
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
    assert len(HELM_COMMANDS) >= 10 and len(KUBECTL_CREATE) >= 6 and len(VALUES) >= 7


@pytest.mark.parametrize("command", KUBECTL_CREATE, ids=range(len(KUBECTL_CREATE)))
def test_secrets_and_config_maps(command, tmp_path):
    for name in ("ca.crt", "gpus.csv", "tokens"):
        (tmp_path / name).write_text("x")
    words = shlex.split(re.sub(r"\$\{(\w+)\}", lambda m: VARIABLES[m[1]], command))
    made = objects(run(*words, "--dry-run=client", "--output", "yaml", cwd=tmp_path, env={**os.environ, "KUBECONFIG": "/dev/null"}).stdout)
    assert made[0]["kind"] in ("Secret", "ConfigMap")


@pytest.mark.parametrize("chart, text", VALUES, ids=range(len(VALUES)))
def test_values(chart, text, tmp_path):
    file = tmp_path / "values.yaml"
    file.write_text(text)
    assert render(ROOT / "charts" / chart, {"postgresql.auth.password": "db"}, files=[file])


def test_names_in_commands_are_those_of_the_releases():
    """What is asked by kubectl is what the releases make."""
    docs = render(PIPELINE, {}, release="telemetry-edge", files=[PIPELINE / "values-edge.yaml", ROOT / "examples/kubernetes/scenario-3-edge.yaml"])
    docs += render(PIPELINE, {}, release="telemetry-central", files=[PIPELINE / "values-central.yaml", ROOT / "examples/kubernetes/scenario-3-central.yaml"])
    docs += render(REDIS_CLUSTER, {}, release="redis-cluster", files=[ROOT / "examples/kubernetes/shared-infrastructure.yaml"])
    there = {f"{d['kind'].lower()}/{d['metadata']['name']}" for d in docs} | {f"secret/{d['spec']['secretName']}" for d in docs if d["kind"] == "Certificate"}
    asked = re.findall(r"\b((?:deployment|daemonset|service|job)/[a-z-]+[a-z])", " ".join(c for c in commands(TEXT)))
    asked += [f"secret/{name}" for name in re.findall(r"get secret ([a-z-]+)", TEXT)]
    assert len(asked) >= 6 and set(asked) <= there, set(asked) - there


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
