"""Steps that install: the shared Redis Cluster, an edge and central, as the guide and docs/deployment.md have it."""

import gzip
import hashlib
import json
import os
import re

from clusters import sh, until
from common import CENTRAL, DOMAIN, EDGE, SHARED, SYSTEM, TOKEN, bash, exact, quiet, settled
from load import Load


def contexts(test):
    """One kubeconfig with the three contexts"""
    paths = ":".join(str(c.work / "admin.kubeconfig") for c in test.clusters)
    merged = sh("kubectl", "config", "view", "--flatten", env={**os.environ, "KUBECONFIG": paths}).stdout
    (test.work / "kubeconfig").write_text(merged)
    nodes = bash(test, "for c in edge-cluster central-cluster shared-infra-cluster; do kubectl --context $c get nodes -L node-type,topology.kubernetes.io/zone; done")
    test.report.quote(nodes.stdout)


def kubelet(test):
    """A pod that asks for what a kubelet does: variables, volumes, a token, an init container, a restart, an image that is not there"""
    shell = {"image": "redis:7.2-alpine", "securityContext": {"runAsUser": 1234, "readOnlyRootFilesystem": True}}
    pod = {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "asks", "namespace": "default", "labels": {"app": "asks"}},
        "spec": {
            "restartPolicy": "OnFailure", "securityContext": {"fsGroup": 4321}, "volumes": [{"name": "kept", "emptyDir": {}}, {"name": "settings", "configMap": {"name": "settings"}}],
            "initContainers": [{"name": "first", **shell, "command": ["sh", "-c", "echo first > /kept/first"], "volumeMounts": [{"name": "kept", "mountPath": "/kept"}]}],
            "containers": [{
                "name": "asks", **shell, "volumeMounts": [{"name": "kept", "mountPath": "/kept"}, {"name": "settings", "mountPath": "/etc/settings", "readOnly": True}],
                "env": [{"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}, {"name": "URL", "value": "http://$(IP):1"}],
                "command": ["sh", "-c", "echo \"$(id -u):$(id -G) $URL $(cat /kept/first) $(cat /etc/settings/a) $(hostname) $(touch /x 2>&1)\"; "
                            "[ -e /kept/again ] || { touch /kept/again; exit 3; }; exec sleep 1000"],
            }],
        },
    }
    missing = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "no-image", "namespace": "default"}, "spec": {"containers": [{"name": "c", "image": "nobody/nothing:1"}]}}
    cluster = test.edge
    cluster.kubectl("create", "configmap", "settings", "--from-literal=a=one")
    until(lambda: cluster.kubectl("get", "serviceaccount", "default").returncode == 0, "the ServiceAccount default")
    for manifest in (pod, missing):
        cluster.kubectl("create", "-f", "-", stdin=json.dumps(manifest))
    status = until(lambda: (lambda s: s if s["restartCount"] == 1 and "running" in s["state"] else None)(cluster.get("pod", "asks")["status"]["containerStatuses"][0]), "it runs again", 60)
    ip = cluster.get("pod", "asks")["status"]["podIP"]
    said = cluster.kubectl("logs", "asks").stdout.splitlines()
    wanted = f"1234:0 4321 http://{ip}:1 first one asks touch: cannot touch '/x': Read-only file system"
    test.report.check(said == [wanted, wanted] and status["lastState"]["terminated"]["exitCode"] == 3, f"it says twice: {wanted}", str(said))
    cluster.kubectl("patch", "configmap", "settings", "--patch", '{"data": {"a": "two"}}')
    until(lambda: cluster.kubectl("exec", "asks", "--", "cat", "/etc/settings/a").stdout == "two", "the mounted file changes")
    test.report.good("a mounted file changes with its ConfigMap")
    token = cluster.kubectl("exec", "asks", "--", "cat", "/var/run/secrets/kubernetes.io/serviceaccount/token").stdout
    direct = ("kubectl", "--kubeconfig", "/dev/null", "--server", f"https://127.0.0.1:{cluster.port}", "--certificate-authority", cluster.authority.certificate, "--token", token)
    who = sh(*direct, "auth", "whoami", "--output", "jsonpath={.status.userInfo.username}").stdout
    may = sh(*direct, "auth", "can-i", "get", "secrets", check=False).stdout.strip()
    test.report.check(who == "system:serviceaccount:default:default" and may == "no", f"its token is {who}'s, who may read no secrets", f"{who} {may}")
    reason = until(lambda: cluster.get("pod", "no-image")["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == "ErrImagePull", "the image is not there")
    test.report.check(reason, "an image that is not there: ErrImagePull")
    failed = sh("kubectl", "--kubeconfig", cluster.work / "admin.kubeconfig", "exec", "asks", "--", "sh", "-c", "exit 7", check=False)
    test.report.check(failed.returncode == 7, "kubectl exec gives the exit code of its command", failed.stderr)
    cluster.kubectl("delete", "pod", "asks", "no-image", "--grace-period", 2)
    cluster.kubectl("delete", "configmap", "settings")


def certificate(test, authority, name):
    """Redis' certificate, with the names of all nodes."""
    names = [f"redis-cluster-{n}" for n in range(6)]
    names = [f"{n}.{DOMAIN}" for n in names] + [f"{n}.redis-cluster-headless.{SHARED}.svc.cluster.local" for n in names]
    names += [f"redis.{DOMAIN}", "redis-cluster", f"redis-cluster.{SHARED}", f"redis-cluster.{SHARED}.svc", "localhost"]
    return authority.issue(name, "/CN=redis", names, ["127.0.0.1"])


def redis(test):
    """The shared Redis Cluster, in a cluster of its own: by the guide's command, then as the edges need it, with users, load balancers and names"""
    pair = certificate(test, test.authority, "redis")
    bash(test, f"""kubectl config use-context shared-infra-cluster
kubectl create namespace {SHARED}
kubectl --namespace {SHARED} create secret generic redis-auth --from-literal=password="$REDIS_PASSWORD" \\
  --from-literal=admin-password="$ADMIN_PASSWORD" --from-literal=edge-password="$EDGE_PASSWORD" --from-literal=central-password="$CENTRAL_PASSWORD"
kubectl --namespace {SHARED} create secret generic redis-tls --from-file=ca.crt="$CA" --from-file=tls.crt="$CERT" --from-file=tls.key="$KEY"
""", CA=str(test.authority.certificate), CERT=str(pair[0]), KEY=str(pair[1]))
    test.report.say("   (the guide's command, with the chart of this repository; the certificate is the test's, where cert-manager would make one)")
    said = bash(test, f"""helm upgrade --install redis-cluster ./charts/redis-cluster \\
  --namespace {SHARED} \\
  --create-namespace \\
  --set auth.password="${{REDIS_PASSWORD}}" \\
  --set tls.enabled=true \\
  --set persistence.enabled=true \\
  --set persistence.size=50Gi \\
  --set tls.existingSecret=redis-tls""")
    test.report.quote(said.stdout[said.stdout.find("NOTES"):], 30)
    settled(test, test.shared, SHARED, redis=6)
    first = {p["metadata"]["uid"] for p in test.shared.pods_of(SHARED, "app.kubernetes.io/component=redis")}
    bash(test, f"""helm upgrade --install redis-cluster ./charts/redis-cluster \\
  --namespace {SHARED} \\
  --create-namespace \\
  --values ./examples/kubernetes/shared-infrastructure.yaml \\
  --set tls.existingSecret=redis-tls \\
  --set networkPolicy.enabled=true \\
  --set "networkPolicy.cidrs={{{test.edge.pods},{test.central.pods}}}\"""")
    settled(test, test.shared, SHARED, redis=6)
    now = {p["metadata"]["uid"] for p in test.shared.pods_of(SHARED, "app.kubernetes.io/component=redis")}
    test.report.check(not first & now, "all six nodes were replaced, one after the other")
    said = bash(test, f"kubectl --namespace {SHARED} logs job/redis-cluster-grow\n"
                f"kubectl --namespace {SHARED} exec redis-cluster-0 --container redis -- sh -c '. /etc/redis/config/common.sh; ask_here CLUSTER NODES'\n"
                f"kubectl --namespace {SHARED} get services,persistentvolumeclaims")
    test.report.quote(said.stdout, 40)
    view = [line.split() for line in said.stdout.splitlines() if re.match("[0-9a-f]{40} ", line)]
    masters = [line for line in view if "master" in line[2]]
    slots = sum(int(r.split("-")[-1]) - int(r.split("-")[0]) + 1 for line in masters for r in line[8:])
    test.report.check(len(view) == 6 and len(masters) == 3 and slots == 16384, "three masters have all slots, and a replica each")


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
