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
from policies import End, allowed
from rows import Api, Rows, differences

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


def ends(cluster, namespace):
    """The pods of a namespace by component."""
    found = {}
    for pod in cluster.pods_of(namespace):
        labels = pod["metadata"]["labels"]
        ports = [(p["name"], p["containerPort"]) for c in pod["spec"]["containers"] for p in c.get("ports", []) if "name" in p]
        found[labels.get("app.kubernetes.io/component")] = End(pod["status"]["podIP"], labels, ports)
    return found


def policies(test):
    """NetworkPolicies, judged by the rules of Kubernetes for the pods and addresses that are there (nothing enforces them here)"""
    balancers = [i["ip"] for s in test.shared.get("services", "--namespace", SHARED) for i in s.get("status", {}).get("loadBalancer", {}).get("ingress", [])]
    redis_nodes = [End(ip) for ip in balancers]
    outside, dns = End("1.1.1.1"), End(test.edge.dns)
    edge, central = ends(test.edge, SYSTEM), ends(test.central, SYSTEM)
    edge_rules, central_rules = (c.get("networkpolicies", "--namespace", SYSTEM) for c in (test.edge, test.central))
    store = central["postgresql"]
    asked = []

    def ask(rules, source, name, to, what, port, wanted, protocol="TCP"):
        asked.append((allowed(rules, source, to, port, protocol) == wanted, f"{name} {'to' if wanted else 'not to'} {what}:{port}/{protocol}"))

    for rules, pods, names in ((edge_rules, edge, ["streamer", "network-probe", "streamer-check"]),
                               (central_rules, central, ["collector", "api-gateway", "network-probe", "collector-check", "api-gateway-check"])):
        for name in names:
            if name not in pods:
                continue
            for node in redis_nodes:
                ask(rules, pods[name], name, node, f"Redis at {node.address}", 6379, True)
                ask(rules, pods[name], name, node, f"Redis at {node.address}", 16379, False)
            for protocol in ("UDP", "TCP"):
                ask(rules, pods[name], name, dns, "DNS", 53, True, protocol)
            ask(rules, pods[name], name, outside, "the world", 443, False)
            if not name.endswith("-check"):
                ask(rules, outside, "Prometheus", pods[name], name, 9464, True)
            ask(rules, outside, "the world", pods[name], name, 22, False)
            if rules is edge_rules:
                ask(rules, pods[name], name, End(store.address), "central's PostgreSQL", 5432, False)
            else:
                ask(rules, pods[name], name, store, "PostgreSQL", 5432, "probe" not in name)
    ask(central_rules, outside, "users", central["api-gateway"], "the API", 8080, True)
    ask(central_rules, outside, "the world", store, "PostgreSQL", 5432, False)
    wrong = [text for good, text in asked if not good]
    test.report.check(not wrong and len(balancers) == 7, f"{len(asked)} ways are open or closed as they should be ({len(edge_rules)} policies at the edge, {len(central_rules)} in central)", "; ".join(wrong))


def monitoring(test):
    """ServiceMonitors and rules: each monitor finds its Service, its pods and their metrics; autoscalers, as far as that goes without a source of metrics"""
    for cluster in (test.edge, test.central):
        pods = {p["status"].get("podIP"): p for p in cluster.pods_of(SYSTEM)}
        for monitor in cluster.get("servicemonitors", "--namespace", SYSTEM):
            name = monitor["metadata"]["name"]
            labels = monitor["spec"]["selector"]["matchLabels"]
            services = [s for s in cluster.get("services", "--namespace", SYSTEM) if labels.items() <= s["metadata"].get("labels", {}).items()]
            targets = []
            for service in services:
                for endpoint in monitor["spec"]["endpoints"]:
                    for part in cluster.get("endpointslices", "--namespace", SYSTEM, "--selector", f"kubernetes.io/service-name={service['metadata']['name']}"):
                        for port in part.get("ports") or []:
                            if port["name"] == endpoint["port"]:
                                targets += [(a, port["port"], endpoint.get("path", "/metrics")) for e in part.get("endpoints") or [] for a in e["addresses"]]
            texts = [sh("curl", "--silent", "--fail", "--max-time", 10, f"http://{a}:{p}{path}").stdout for a, p, path in targets if a in pods]
            test.report.check(texts and all("telemetry_" in t or "message_queue_connection_status" in t for t in texts), f"{cluster.name}: {name} finds {len(texts)} pods, which have metrics")
        alerts = [r["alert"] for rule in cluster.get("prometheusrules", "--namespace", SYSTEM) for g in rule["spec"]["groups"] for r in g["rules"] if "alert" in r]
        test.report.check(alerts, f"{cluster.name}: the API server takes the rules: {', '.join(alerts)}")
    probe = test.edge.get("services", "--namespace", SYSTEM, "--selector", "app=network-probe")
    test.report.check(probe and any(p["name"] == "metrics" for p in probe[0]["spec"]["ports"]), "the guide's ServiceMonitor finds app=network-probe and its port metrics")
    helm_central(test, "--set autoscaling.enabled=true")
    scalers = test.central.get("horizontalpodautoscalers", "--namespace", SYSTEM)
    for scaler in scalers:
        to = scaler["spec"]["scaleTargetRef"]
        target = test.central.get(to["kind"].lower(), "--namespace", SYSTEM, to["name"])
        test.report.good(f"HorizontalPodAutoscaler {scaler['metadata']['name']} owns {to['kind']} {to['name']} ({target['spec']['replicas']} now, {scaler['spec']['minReplicas']} to {scaler['spec']['maxReplicas']})")
    test.report.check(len(scalers) == 2, "autoscalers: validated by the API server and by what they point to; no metrics API serves them here")
    helm_central(test, "--wait --timeout 4m")
    test.report.check(not test.central.get("horizontalpodautoscalers", "--namespace", SYSTEM), "they are gone when they are switched off")
    settled(test, test.central, SYSTEM, collector=5, api_gateway=2, postgresql=1, network_probe=1)
    quiet(test, "autoscalers on and off")


def bad(test):
    """What a user sees who gives bad input"""
    base = "--kube-context edge-cluster --namespace bad --create-namespace --values ./charts/telemetry-pipeline/values-edge.yaml --set streamer.replicaCount=1,probe.enabled=false"
    host = f"--set redis.external.host=redis.{DOMAIN} --set redis.tls.existingSecret=redis-ca"
    bash(test, """kubectl --context edge-cluster create namespace bad
kubectl --context edge-cluster --namespace bad create secret generic redis-ca --from-file=ca.crt="$TRUSTED\"""", TRUSTED=str(test.authority.certificate))

    def refused(title, text, *wanted):
        test.report.say(f"   -- {title}")
        said = bash(test, text, check=False)
        test.report.quote(said.stderr, 12)
        test.report.check(said.returncode != 0 and all(w in said.stderr for w in wanted), f"{title}: refused, and said so")

    refused("values that contradict each other", f"helm upgrade --install bad ./charts/telemetry-pipeline {base} --set redis.tls.enabled=false", "redis.external.tls=true and redis.tls.enabled=false", "redis.external.host")
    refused("the guide's ${REDIS_PASSWORD} in a values file", f"helm upgrade --install bad ./charts/telemetry-pipeline {base} {host} --set-literal 'redis.external.password=${{REDIS_PASSWORD}}'", "redis.external.password", "--set")

    def installed(title, more, wanted, logs=True, prepare=""):
        """Installs, and shows what kubectl says until it says what is wanted."""
        test.report.say(f"   -- {title}")
        bash(test, prepare + f"helm upgrade --install bad ./charts/telemetry-pipeline {base} {more}")
        seen = {}

        def told():
            pods = bash(test, "kubectl --context edge-cluster --namespace bad get pods", show=False).stdout
            events = bash(test, "kubectl --context edge-cluster --namespace bad get events --sort-by=.lastTimestamp --output 'custom-columns=TYPE:.type,REASON:.reason,MESSAGE:.message' "
                          "--field-selector type=Warning", show=False).stdout
            log = bash(test, "kubectl --context edge-cluster --namespace bad logs deployment/bad-streamer --tail 8", show=False, check=False)
            seen["all"] = pods + events + (log.stdout + log.stderr if logs else "")
            return re.search(wanted, seen["all"])

        try:
            until(told, wanted, 60, 1)
            test.report.quote(seen["all"], 24)
            test.report.good(title + ": said")
        except AssertionError:
            test.report.quote(seen.get("all", ""), 60)
            test.report.check(False, f"{title}: {wanted} is not said")

    def checked(title, wanted):
        said = bash(test, "helm test bad --namespace bad --kube-context edge-cluster --logs --timeout 60s", check=False)
        test.report.quote(said.stdout[said.stdout.find("POD LOGS"):] + said.stderr, 24)
        test.report.check(said.returncode != 0 and re.search(wanted, said.stdout + said.stderr), f"{title}: helm test fails, and says what to do")

    def gone():
        bash(test, "helm uninstall bad --kube-context edge-cluster --namespace bad --wait\nkubectl --context edge-cluster --namespace bad delete pods,events --all --wait", show=False)

    installed("a Secret that is not there", f"{host} --set redis.external.existingSecret=nope", 'secret "nope" not found', logs=False)
    gone()
    installed("a wrong password", f"{host} --set redis.external.password=wrong", "(?i)password")
    checked("a wrong password", "(?i)password")
    gone()
    installed("a name that does not exist", f"--set redis.external.host=nobody.{DOMAIN} --set redis.external.password=x", f"nobody.{DOMAIN}")
    checked("a name that does not exist", f"nobody.{DOMAIN}")
    gone()
    installed("a Redis that nobody reaches", "--set redis.external.host=203.0.113.14 --set redis.external.password=x", "203.0.113.14")
    checked("a Redis that nobody reaches", "203.0.113.14")
    gone()
    installed("a CSV that is empty", f'{host} --set redis.external.password="$REDIS_PASSWORD"', "0 rows",
              prepare="kubectl --context edge-cluster --namespace bad create configmap bad-csv --from-literal=gpus.csv=\n")
    settled(test, test.edge, "bad", streamer=1)
    test.report.good("a CSV that is empty: the streamer is ready, and waits for rows")
    gone()
    bash(test, "kubectl --context edge-cluster delete namespace bad --wait")


def leftovers(test, cluster, namespace, release):
    """What of a release is there, by label or by Helm's annotation."""
    kinds = bash(test, f"kubectl --context {cluster.context} api-resources --verbs=list --namespaced --output name", show=False).stdout.split()
    kinds = [k for k in kinds if not k.startswith("events")]
    everything = json.loads(bash(test, f"kubectl --context {cluster.context} --namespace {namespace} get {','.join(kinds)} --output json", show=False).stdout)["items"]
    found = []
    for item in everything:
        meta = item["metadata"]
        if meta.get("labels", {}).get("app.kubernetes.io/instance") == release or meta.get("annotations", {}).get("meta.helm.sh/release-name") == release \
                or meta["name"].startswith((f"sh.helm.release.v1.{release}.", f"{release}-")) and meta["name"] != f"{EDGE}-csv":
            found.append(f"{item['kind']}/{meta['name']}")
    return sorted(found)


def removed(test, cluster, namespace, release):
    """Uninstalls a release and what Helm leaves of it on purpose; nothing else may be left."""
    bash(test, f"helm uninstall {release} --namespace {namespace} --kube-context {cluster.context} --wait")
    # Helm does not wait for pods that take their time to end.
    until(lambda: not [p for p in cluster.pods_of(namespace, f"app.kubernetes.io/instance={release}") if p["status"]["phase"] == "Running"], "pods have ended", 60)
    left = leftovers(test, cluster, namespace, release)
    unexpected = [x for x in left if not x.startswith(("PersistentVolumeClaim/data-", "Job/")) and not x.endswith("-check") and not x.startswith((f"Pod/{release}-grow", f"Pod/{release}-shrink"))]
    test.report.check(not unexpected, f"helm uninstall {release} leaves only what it is to leave: {', '.join(left) or 'nothing'}", str(unexpected))
    bash(test, f"kubectl --context {cluster.context} --namespace {namespace} delete pods,jobs,persistentvolumeclaims --selector app.kubernetes.io/instance={release}")
    left = leftovers(test, cluster, namespace, release)
    test.report.check(not left, f"nothing of {release} is left", str(left))


def uninstall(test):
    """Both sides are uninstalled: nothing is left but what is said"""
    test.load.stop()
    exact(test, "before the end")
    said = bash(test, f"kubectl --context central-cluster --namespace {SYSTEM} exec deployment/telemetry-central-collector -- telemetry audit")
    test.report.quote(said.stdout)
    test.report.check("stands somewhere, once" in said.stdout, "telemetry audit closes")
    removed(test, test.edge, SYSTEM, EDGE)
    removed(test, test.central, SYSTEM, CENTRAL)


def placed(test, cluster, component):
    return sorted(p["spec"]["nodeName"] for p in cluster.pods_of(SYSTEM, f"app.kubernetes.io/component={component}"))


def scenario_1(test):
    """Scenario 1, different nodes of one cluster: streamers on GPU nodes, everything else on CPU nodes"""
    bash(test, f"""kubectl config use-context edge-cluster
helm upgrade --install telemetry ./charts/telemetry-pipeline \\
  --namespace {SYSTEM} \\
  --create-namespace \\
  --values ./examples/kubernetes/scenario-1.yaml \\
  --set postgresql.auth.password="${{DB_PASSWORD}}\"""")
    settled(test, test.edge, SYSTEM, streamer=3, collector=2, api_gateway=1, redis=1, postgresql=1)
    test.report.check(placed(test, test.edge, "streamer") == ["gpu-1", "gpu-2", "gpu-3"], "streamers are on the GPU nodes, which others may not use")
    others = [n for c in ("collector", "api-gateway", "redis", "postgresql") for n in placed(test, test.edge, c)]
    test.report.check(all(n.startswith("cpu") for n in others), f"all others are on CPU nodes: {', '.join(sorted(set(others)))}")
    rows = Rows()
    for path, _, _ in test.load.files:
        rows.add("main", path.read_text())
    exact(test, "scenario 1", test.edge, "telemetry", rows, token=False)
    removed(test, test.edge, SYSTEM, "telemetry")


def scenario_2(test):
    """Scenario 2, availability zones: streamers in one, collectors in another"""
    bash(test, f"""kubectl --namespace {SYSTEM} apply -f - <<'EOF'
apiVersion: v1
kind: PersistentVolumeClaim
metadata:
  name: dcgm-exports
spec:
  accessModes: [ReadWriteMany]
  resources: {{requests: {{storage: 1Gi}}}}
EOF""")
    claim = until(lambda: (lambda c: c if c["status"].get("phase") == "Bound" else None)(test.edge.get("pvc", "--namespace", SYSTEM, "dcgm-exports")), "the claim is bound")
    directory = test.edge.run / "volumes" / claim["spec"]["volumeName"]
    directory.mkdir(parents=True, exist_ok=True)
    rows = Rows()
    for seed in (31, 32):
        text = sh(test.telemetry, "generate", "--gpus", 8, "--duration", "1m", "--seed", seed).stdout.replace("gpu-node-", f"zone-{seed}-")
        (directory / f"{seed}.csv").write_text(text)
        rows.add("main", text)
    bash(test, f"""helm upgrade --install telemetry ./charts/telemetry-pipeline \\
  --namespace {SYSTEM} \\
  --create-namespace \\
  --values ./examples/kubernetes/scenario-2.yaml \\
  --set postgresql.auth.password="${{DB_PASSWORD}}\"""")
    settled(test, test.edge, SYSTEM, streamer=2, collector=2, api_gateway=3, redis=1, postgresql=1)
    zones = {n["metadata"]["name"]: n["metadata"]["labels"]["topology.kubernetes.io/zone"] for n in test.edge.get("nodes")}
    for component, wanted in (("streamer", {"us-west-2a"}), ("collector", {"us-west-2b"}), ("api-gateway", {"us-west-2a", "us-west-2b"})):
        found = {zones[n] for n in placed(test, test.edge, component)}
        test.report.check(found == wanted, f"{component}: {', '.join(sorted(found))}")
    exact(test, "scenario 2", test.edge, "telemetry", rows, token=False)
    removed(test, test.edge, SYSTEM, "telemetry")
    bash(test, f"kubectl --namespace {SYSTEM} delete persistentvolumeclaim dcgm-exports")


def clean(test):
    """Redis is uninstalled, and the namespaces deleted: no volume, process, address or rule is left"""
    removed(test, test.shared, SHARED, "redis-cluster")
    bash(test, f"""kubectl --context shared-infra-cluster delete namespace {SHARED} --wait
for c in edge-cluster central-cluster; do kubectl --context $c delete namespace {SYSTEM} --wait; done""")
    for cluster in test.clusters:
        until(lambda: not cluster.get("persistentvolumes"), f"the volumes of {cluster.name} are gone", 60)
        until(lambda: not list((cluster.run / "pods").iterdir()) and not list((cluster.run / "volumes").iterdir()), f"the directories of {cluster.name} are gone", 60)
    until(lambda: not sh("ip", "netns", "list").stdout.strip(), "all network namespaces are gone", 60)
    test.report.good("no volume, no directory and no network namespace of a pod is left")


def held(test):
    """What must hold all the time: restarts, shutdowns, probes"""
    journal = [line for c in test.clusters for line in c.journal() if line["namespace"] != "bad"]
    stopped = [line for line in journal if line["what"] == "stopped"]
    killed = [line for line in stopped if line["sigkill"]]
    test.report.check(not killed, f"{len(stopped)} containers were stopped, each before the end of its grace period", "; ".join(f"{k['cluster']} {k['pod']} {k['container']}" for k in killed))
    slowest = {}
    for line in stopped:
        slowest[line["container"]] = max(slowest.get(line["container"], (0, 0)), (round(line["took"], 1), line["grace"]))
    for container, (took, grace) in sorted(slowest.items()):
        test.report.say(f"   | {container:14} took at most {took:5.1f} s of {grace} s to stop")
    again = [line for line in journal if line["what"] == "exit" and line["again"]]
    test.report.check(not again, "no container was restarted", "; ".join(f"{a['pod']} {a['container']} code {a['code']} {a['why'] or ''}" for a in again))
    bad_ends = [line for line in journal if line["what"] == "exit" and line["code"] != 0]
    test.report.check(not bad_ends, f"all {sum(1 for line in journal if line['what'] == 'exit')} containers that ended did so with exit code 0", "; ".join(f"{a['pod']} {a['container']} code {a['code']}" for a in bad_ends))
    dead = [line for c in test.clusters for line in c.alive()]
    test.report.check(not dead, "every API server, etcd, controller, scheduler and kubelet is still the one that was started", str(dead))


STEPS = [contexts, redis, guide, helm_test, sides, scale, upgrade, passwords, certificates, drain, policies, monitoring, bad, uninstall, scenario_1, scenario_2, clean, held]
