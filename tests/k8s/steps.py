"""The steps of the test, in order."""

import gzip
import hashlib
import json
import os
import re
import subprocess
import time

from clusters import Failed, sh, until
from load import Load
from rows import Api, differences

SYSTEM = "telemetry-system"
SHARED = "shared-infrastructure"
DOMAIN = "shared-infra.company.com"
TOKEN = "a token of the test"
EDGE = "telemetry-edge"
CENTRAL = "telemetry-central"


def bash(test, text, check=True, show=True, **variables):
    """A command as a user types it: shown, and run where the guide's paths are."""
    if show:
        test.report.command(text)
    env = {**os.environ, **test.passwords, "KUBECONFIG": str(test.work / "kubeconfig"), "HELM_CACHE_HOME": str(test.work / "helm"), **variables}
    result = subprocess.run(["bash", "-euo", "pipefail", "-c", text], cwd=test.home, env=env, capture_output=True, text=True, check=False)
    if check and result.returncode:
        raise Failed(f"exit code {result.returncode}\n{result.stdout}{result.stderr}")
    return result


def is_ready(pod):
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod.get("status", {}).get("conditions", []))


def settled(test, cluster, namespace, **wanted):
    """Until each component has as many pods as are wanted, all ready, and none that goes."""
    def done():
        for component, count in wanted.items():
            pods = cluster.pods_of(namespace, f"app.kubernetes.io/component={component.replace('_', '-')}")
            for pod in pods:
                for status in pod.get("status", {}).get("containerStatuses", []):
                    if status["restartCount"]:
                        name = pod["metadata"]["name"]
                        raise AssertionError(f"{name} was restarted:\n" + cluster.kubectl("--namespace", namespace, "logs", name, "--tail", 20, check=False).stdout)
            if len(pods) != count or not all(is_ready(p) and "deletionTimestamp" not in p["metadata"] for p in pods):
                return False
        for kind in ("deployments", "daemonsets", "statefulsets"):
            for workload in cluster.get(kind, "--namespace", namespace):
                status = workload["status"]
                total = workload["spec"].get("replicas", status.get("desiredNumberScheduled"))
                updated = status.get("updatedReplicas", status.get("updatedNumberScheduled", 0))
                if status.get("observedGeneration") != workload["metadata"]["generation"] or updated != total:
                    return False
        return True

    until(done, f"{wanted} are ready in {namespace} of {cluster.name}", 240, 0.5)


def exact(test, what, cluster=None, release=CENTRAL, rows=None, token=True):
    """The API has exactly the rows that were written."""
    api = Api(cluster or test.central, release, test.token if token else None)
    rows = rows or test.rows
    wanted = rows.count()
    found = until(lambda: (lambda f: f if sum(c.total() for c in f.values()) >= wanted else None)(api.rows()), f"{wanted} rows {what}", 120, 1)
    wrong = differences(rows, found)
    test.report.check(not wrong, f"{what}: the API has exactly the {wanted} rows that were written", "; ".join(wrong))


def contexts(test):
    """One kubeconfig with the three contexts"""
    paths = ":".join(str(c.work / "admin.kubeconfig") for c in test.clusters)
    merged = sh("kubectl", "config", "view", "--flatten", env={**os.environ, "KUBECONFIG": paths}).stdout
    (test.work / "kubeconfig").write_text(merged)
    nodes = bash(test, "for c in edge-cluster central-cluster shared-infra-cluster; do kubectl --context $c get nodes -L node-type,topology.kubernetes.io/zone; done")
    test.report.quote(nodes.stdout)


def certificate(test, authority, name):
    """Redis' certificate, with the names of all nodes."""
    names = [f"redis-cluster-{n}" for n in range(6)]
    names = [f"{n}.{DOMAIN}" for n in names] + [f"{n}.redis-cluster-headless.{SHARED}.svc.cluster.local" for n in names]
    names += [f"redis.{DOMAIN}", "redis-cluster", f"redis-cluster.{SHARED}", f"redis-cluster.{SHARED}.svc", "localhost"]
    return authority.issue(name, "/CN=redis", names, ["127.0.0.1"])


def redis(test):
    """The shared Redis Cluster, in a cluster of its own: six nodes, TLS, ACL, a load balancer and a name for each"""
    pair = certificate(test, test.authority, "redis")
    bash(test, f"""kubectl config use-context shared-infra-cluster
kubectl create namespace {SHARED}
kubectl --namespace {SHARED} create secret generic redis-auth --from-literal=password="$REDIS_PASSWORD" \\
  --from-literal=admin-password="$ADMIN_PASSWORD" --from-literal=edge-password="$EDGE_PASSWORD" --from-literal=central-password="$CENTRAL_PASSWORD"
kubectl --namespace {SHARED} create secret generic redis-tls --from-file=ca.crt="$CA" --from-file=tls.crt="$CERT" --from-file=tls.key="$KEY"
""", CA=str(test.authority.certificate), CERT=str(pair[0]), KEY=str(pair[1]))
    said = bash(test, f"""helm upgrade --install redis-cluster ./charts/redis-cluster \\
  --namespace {SHARED} \\
  --create-namespace \\
  --values ./examples/kubernetes/shared-infrastructure.yaml \\
  --set tls.existingSecret=redis-tls""")
    test.report.quote(said.stdout, 9)
    until(lambda: all(is_ready(p) for p in test.shared.pods_of(SHARED, "app.kubernetes.io/component=redis")), "all nodes are ready", 120)
    said = bash(test, f"kubectl --namespace {SHARED} logs job/redis-cluster-grow\n"
                f"kubectl --namespace {SHARED} exec redis-cluster-0 --container redis -- sh -c '. /etc/redis/config/common.sh; ask_here CLUSTER NODES'\n"
                f"kubectl --namespace {SHARED} get services,persistentvolumeclaims")
    test.report.quote(said.stdout, 40)
    masters = [line for line in said.stdout.splitlines() if "master" in line and "connected" in line]
    test.report.check(len(masters) == 3 and "10922-16383" in said.stdout, "three masters have all slots")


def guide(test):
    """The guide's commands: an edge whose CSV is a ConfigMap, and central"""
    export = sh(test.telemetry, "generate", "--gpus", 4, "--duration", "40s", "--seed", 1).stdout
    big = sh(test.telemetry, "generate", "--gpus", 8, "--duration", "2m", "--seed", 2).stdout.replace("gpu-node-", "gpu-node-9")
    (test.home / "gpus.csv").write_text(export)
    (test.home / "more.csv.gz").write_bytes(gzip.compress(big.encode()))
    for text in (export, big):
        test.rows.add(EDGE, text)
    bash(test, f"kubectl config use-context edge-cluster\nkubectl create namespace {SYSTEM}\n"
         f"kubectl --namespace {SYSTEM} create configmap {EDGE}-csv --from-file=gpus.csv --from-file=more.csv.gz")
    said = bash(test, f"""# Deploy to edge cluster
kubectl config use-context edge-cluster

helm upgrade --install telemetry-edge ./deployments/helm/telemetry-pipeline \\
  --namespace {SYSTEM} \\
  --create-namespace \\
  --values ./deployments/helm/telemetry-pipeline/values-edge.yaml \\
  --set redis.external.host="redis.{DOMAIN}" \\
  --set redis.external.password="${{REDIS_PASSWORD}}\"""")
    test.report.quote(said.stdout, 40)
    test.report.say("   (central's values file has no host of its own: it is given as the edge's is)")
    said = bash(test, f"""# Deploy to central cluster
kubectl config use-context central-cluster

helm upgrade --install telemetry-central ./deployments/helm/telemetry-pipeline \\
  --namespace {SYSTEM} \\
  --create-namespace \\
  --values ./deployments/helm/telemetry-pipeline/values-central.yaml \\
  --set redis.external.host="redis.{DOMAIN}" \\
  --set postgresql.auth.password="${{DB_PASSWORD}}" \\
  --set redis.external.password="${{REDIS_PASSWORD}}\"""")
    test.report.quote(said.stdout, 40)
    settled(test, test.edge, SYSTEM, streamer=3, network_probe=1)
    settled(test, test.central, SYSTEM, collector=5, api_gateway=2, postgresql=1, network_probe=1)
    exact(test, "CSV from a ConfigMap")
    said = bash(test, f"""kubectl --context edge-cluster --namespace {SYSTEM} get pods --output wide
kubectl --context central-cluster --namespace {SYSTEM} get pods --output wide
kubectl --context central-cluster --namespace {SYSTEM} exec deployment/telemetry-central-collector -- telemetry audit
kubectl --context edge-cluster --namespace {SYSTEM} logs deployment/telemetry-edge-streamer --container streamer | grep Redis""")
    test.report.quote(said.stdout, 60)


def helm_test(test):
    """helm test, on both sides"""
    for context, release in (("edge-cluster", EDGE), ("central-cluster", CENTRAL)):
        said = bash(test, f"helm test {release} --namespace {SYSTEM} --logs --kube-context {context}")
        test.report.quote(said.stdout, 80)
        phases = re.findall(r"Phase:\s+(\w+)", said.stdout)
        test.report.check(phases and set(phases) == {"Succeeded"}, f"{release}: {len(phases)} checks have succeeded")


def quiet(test, what):
    """Stops the load for long enough to compare every row."""
    test.load.pause()
    exact(test, what)
    test.load.go_on()


CENTRAL_VALUES = """
clusterName: central
apiGateway:
  auth:
    existingSecret: api-tokens
redis:
  external:
    host: redis.shared-infra.company.com
    username: central
    existingSecret: redis-central
  tls:
    existingSecret: redis-ca
postgresql:
  auth:
    existingSecret: telemetry-db
networkPolicy:
  enabled: true
  redis:
    cidrs: ["203.0.113.0/28"]
monitoring:
  serviceMonitor:
    enabled: true
  prometheusRule:
    enabled: true
  dashboard:
    enabled: true
"""


def helm_edge(test, more=""):
    return bash(test, f"""helm upgrade --install telemetry-edge ./charts/telemetry-pipeline \\
  --kube-context edge-cluster --namespace {SYSTEM} \\
  --create-namespace \\
  --values ./charts/telemetry-pipeline/values-edge.yaml \\
  --values ./examples/kubernetes/scenario-3-edge.yaml \\
  --set clusterName=edge-a {more}""")


def helm_central(test, more=""):
    return bash(test, f"""helm upgrade --install telemetry-central ./charts/telemetry-pipeline \\
  --kube-context central-cluster --namespace {SYSTEM} \\
  --create-namespace \\
  --values ./charts/telemetry-pipeline/values-central.yaml \\
  --values ./central.yaml {more}""")


def sides(test):
    """Both sides move to users of their own, Secrets, tokens, network policies and monitors; the edge to exports of its GPU nodes, which grow"""
    test.load = Load(test, "edge-a", ["gpu-1", "gpu-2", "gpu-3"], 240).start()
    (test.home / "central.yaml").write_text(CENTRAL_VALUES)
    (test.home / "tokens").write_text(f"sha256:{hashlib.sha256(TOKEN.encode()).hexdigest()} test\n")
    (test.home / "ca.crt").write_text(test.authority.certificate.read_text())
    bash(test, f"""kubectl config use-context edge-cluster
kubectl --namespace {SYSTEM} create secret generic redis-edge --from-literal=password="${{EDGE_PASSWORD}}"
kubectl --namespace {SYSTEM} create secret generic redis-ca --from-file=ca.crt
kubectl config use-context central-cluster
kubectl --namespace {SYSTEM} create secret generic redis-central --from-literal=password="${{CENTRAL_PASSWORD}}"
kubectl --namespace {SYSTEM} create secret generic redis-ca --from-file=ca.crt
kubectl --namespace {SYSTEM} create secret generic api-tokens --from-file=tokens
kubectl --namespace {SYSTEM} create secret generic telemetry-db --from-literal=password="${{DB_PASSWORD}}\"""")
    test.token = TOKEN
    helm_edge(test)
    helm_central(test)
    test.report.say(f"   (central: values in a file of the test, since there is no CloudNativePG here; PostgreSQL is the chart's own:\n{CENTRAL_VALUES.rstrip()})")
    settled(test, test.edge, SYSTEM, streamer=3, network_probe=1)
    settled(test, test.central, SYSTEM, collector=5, api_gateway=2, postgresql=1, network_probe=1)
    placed = {p["spec"]["nodeName"] for p in test.edge.pods_of(SYSTEM, "app.kubernetes.io/component=streamer")}
    test.report.check(placed == {"gpu-1", "gpu-2", "gpu-3"}, f"streamers are on each GPU node: {', '.join(sorted(placed))}")
    quiet(test, "CSV from the nodes' directories, as users edge and central")


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
    test.passwords |= {"EDGE_PASSWORD": "edge-2/w#rd?@%", "CENTRAL_PASSWORD": "central-2:pass%word", "DB_PASSWORD": "store-2/pass'word"}
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


def starts(test):
    """How often containers of the three releases were started."""
    return sum(1 for c in test.clusters for line in c.journal() if line["what"] == "start" and not line["pod"].endswith("-check"))


def certificates(test):
    """Redis' authority and certificate change while rows come: both trusted, then the new one shown, then the new one trusted alone"""
    from clusters import Authority

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


STEPS = [contexts, redis, guide, helm_test, sides, scale, upgrade, passwords, certificates, drain]
