"""Steps that change what runs, while rows come."""

import json
import re

from clusters import Authority, sh, until
from common import CENTRAL, EDGE, SHARED, SYSTEM, bash, quiet, settled, starts
from install import certificate, helm_central, helm_edge


def scale(test):
    """Collectors 3, 5, 1, while rows come"""
    for count in (3, 5, 1):
        helm_central(test, f"--set collector.replicaCount={count} --wait --timeout 4m")
        settled(test, test.central, SYSTEM, collector=count, api_gateway=2, postgresql=1, network_probe=1)
        quiet(test, f"{count} collectors")


def upgrade(test):
    """A rolling upgrade of everything while rows come, and a rollback"""
    helm_central(test, "--wait --timeout 4m")
    for release, context in ((CENTRAL, "central-cluster"), (EDGE, "edge-cluster")):
        history = json.loads(bash(test, f"helm history {release} --namespace {SYSTEM} --kube-context {context} --output json", show=False).stdout)
        test.report.say(f"   ({release} is at revision {history[-1]['revision']})")
    former = {c.name: {p["metadata"]["name"] for p in c.pods_of(SYSTEM)} for c in (test.edge, test.central)}
    annotations = "--set-string streamer.podAnnotations.generation=2 --set-string probe.podAnnotations.generation=2"
    helm_edge(test, f"--set image.tag=0.1.1 {annotations} --wait --timeout 4m")
    helm_central(test, "--set image.tag=0.1.1 --set-string collector.podAnnotations.generation=2 --wait --timeout 4m")
    settled(test, test.edge, SYSTEM, streamer=3, network_probe=1)
    settled(test, test.central, SYSTEM, collector=5, api_gateway=2, postgresql=1, network_probe=1)
    kept = {p["metadata"]["name"] for c in (test.edge, test.central) for p in c.pods_of(SYSTEM)} & set.union(*former.values())
    kept = {name for name in kept if "postgresql" not in name and "streamer-check" not in name and not name.endswith("-check")}
    test.report.check(not kept, "every pod but PostgreSQL's was replaced", str(kept))
    quiet(test, "rolling upgrade")
    bash(test, f"helm rollback {EDGE} --namespace {SYSTEM} --kube-context edge-cluster --wait --timeout 4m\n"
         f"helm rollback {CENTRAL} --namespace {SYSTEM} --kube-context central-cluster --wait --timeout 4m")
    settled(test, test.edge, SYSTEM, streamer=3, network_probe=1)
    settled(test, test.central, SYSTEM, collector=5, api_gateway=2, postgresql=1, network_probe=1)
    images = {c["image"] for cl in (test.edge, test.central) for p in cl.pods_of(SYSTEM) for c in p["spec"]["containers"] if "telemetry" in c["image"] and not p["metadata"]["name"].endswith("-check")}
    test.report.check(images == {"telemetry:0.1.0"}, f"the former image is back: {images}")
    quiet(test, "rollback")


def passwords(test):
    """Passwords change while rows come: at Redis and then at each side, and at PostgreSQL"""
    before = starts(test)
    test.passwords |= {"ADMIN_PASSWORD": 'admin "pass\\', "EDGE_PASSWORD": "edge-2/w#rd?@%", "CENTRAL_PASSWORD": "central-2:pass%word", "DB_PASSWORD": "store-2/pass'word"}
    apply = "--dry-run=client --output yaml | kubectl apply --server-side --force-conflicts -f -"
    bash(test, f"""kubectl config use-context shared-infra-cluster
kubectl --namespace {SHARED} create secret generic redis-auth --from-literal=password="$REDIS_PASSWORD" \\
  --from-literal=admin-password="$ADMIN_PASSWORD" --from-literal=edge-password="$EDGE_PASSWORD" --from-literal=central-password="$CENTRAL_PASSWORD" {apply}
kubectl config use-context edge-cluster
kubectl --namespace {SYSTEM} create secret generic redis-edge --from-literal=password="$EDGE_PASSWORD" {apply}
kubectl config use-context central-cluster
kubectl --namespace {SYSTEM} create secret generic redis-central --from-literal=password="$CENTRAL_PASSWORD" {apply}
kubectl --namespace {SYSTEM} exec telemetry-central-postgresql-0 -- psql --username telemetry --command "ALTER ROLE telemetry PASSWORD '${{DB_PASSWORD//\\'/\\'\\'}}'"
kubectl --namespace {SYSTEM} create secret generic telemetry-db --from-literal=password="$DB_PASSWORD" {apply}""")

    def changed():
        for node in range(6):
            said = bash(test, f"kubectl --context shared-infra-cluster --namespace {SHARED} exec redis-cluster-{node} --container redis -- sh -c "
                        f"'. /etc/redis/config/common.sh; ask /etc/redis/tls edge \"$(cat /etc/redis/auth/edge-password)\" 127.0.0.1 6379 PING'", show=False, check=False)
            if "PONG" not in said.stdout:
                return False
        return True

    until(changed, "each node of Redis takes the edge's new password", 60, 1)
    test.report.good("each node of Redis takes the new password; nobody was restarted")
    quiet(test, "passwords changed")
    said = bash(test, f"kubectl --context central-cluster --namespace {SYSTEM} exec deployment/telemetry-central-collector -- telemetry check", show=True)
    test.report.quote("\n".join(line for line in said.stdout.splitlines() if "login" in line or "works" in line))
    test.report.check(starts(test) == before, "no container was started for it")


def certificates(test):
    """Redis' authority and certificate change while rows come: both trusted, then the new one shown, then the new one trusted alone"""
    before = starts(test)
    other = Authority(test.work / "other", "other-authority")
    both = test.home / "both.crt"
    both.write_text(test.authority.certificate.read_text() + other.certificate.read_text())
    pair = certificate(test, other, "redis-2")
    apply = "--dry-run=client --output yaml | kubectl apply --server-side --force-conflicts -f -"

    def trust(path):
        for context in ("edge-cluster", "central-cluster"):
            bash(test, f'kubectl --context {context} --namespace {SYSTEM} create secret generic redis-ca --from-file=ca.crt="$TRUSTED" --dry-run=client --output yaml |\n'
                 f"  kubectl --context {context} apply --server-side --force-conflicts -f -", TRUSTED=str(path))

    trust(both)
    bash(test, f"""kubectl config use-context shared-infra-cluster
kubectl --namespace {SHARED} create secret generic redis-tls --from-file=ca.crt="$BOTH" --from-file=tls.crt="$CERT" --from-file=tls.key="$KEY" {apply}""",
         BOTH=str(both), CERT=str(pair[0]), KEY=str(pair[1]))

    def shown():
        addresses = [f"203.0.113.{n}" for n in range(2, 8)]
        said = [sh("openssl", "s_client", "-connect", f"{a}:6379", "-servername", "redis", check=False, stdin="").stdout for a in addresses]
        return all("issuer=CN = other-authority" in text for text in said)

    until(shown, "every node shows the new certificate", 60, 1)
    test.report.good("every node shows the new certificate")
    trust(other.certificate)
    test.authority = other
    until(lambda: "signed by CN=other-authority" in re.sub(r"\s+", " ", bash(
        test, f"kubectl --context edge-cluster --namespace {SYSTEM} exec daemonset/telemetry-edge-streamer -- telemetry check", show=False, check=False).stdout),
        "the edge trusts the new authority", 60, 2)
    quiet(test, "certificate and authority changed")
    test.report.check(starts(test) == before, "no container was started for it")


def drain(test):
    """Nodes are drained while rows come: one with collectors, and one with a master of Redis"""
    test.report.quote(bash(test, "kubectl --context central-cluster drain cpu-2 --ignore-daemonsets --delete-emptydir-data --timeout 120s").stdout)
    settled(test, test.central, SYSTEM, collector=5, api_gateway=2, postgresql=1, network_probe=1)
    test.report.check(not [p for p in test.central.pods_of(SYSTEM) if p["spec"].get("nodeName") == "cpu-2" and not p["metadata"]["name"].endswith("-check")], "nothing is left on cpu-2")
    master = until(lambda: next(p for p in test.shared.pods_of(SHARED, "app.kubernetes.io/component=redis") if "role:master" in bash(
        test, f"kubectl --context shared-infra-cluster --namespace {SHARED} exec {p['metadata']['name']} --container redis -- sh -c '. /etc/redis/config/common.sh; ask_here INFO replication'",
        show=False).stdout), "a master")
    node = master["spec"]["nodeName"]
    test.report.say(f"   ({master['metadata']['name']} on {node} is a master)")
    test.report.quote(bash(test, f"kubectl --context shared-infra-cluster drain {node} --ignore-daemonsets --delete-emptydir-data --timeout 120s").stdout)
    settled(test, test.shared, SHARED, redis=6)
    hook = [line for line in test.shared.journal() if line["what"] == "preStop" and line["pod"] == master["metadata"]["name"]]
    test.report.check(hook and hook[-1]["result"] == "done", f"it handed over to its replica before it ended, in {hook[-1]['took']:.1f} s" if hook else "it handed over")
    bash(test, f"kubectl --context central-cluster uncordon cpu-2\nkubectl --context shared-infra-cluster uncordon {node}")
    quiet(test, "nodes drained")
