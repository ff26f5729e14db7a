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


def exact(test, what):
    """The API has exactly the rows that were written."""
    api = Api(test, test.token)
    wanted = test.rows.count()
    found = until(lambda: (lambda f: f if sum(c.total() for c in f.values()) >= wanted else None)(api.rows()), f"{wanted} rows {what}", 120, 1)
    wrong = differences(test.rows, found)
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


STEPS = [contexts, redis, guide, helm_test]
