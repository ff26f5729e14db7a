"""The steps of the test, in order."""

import json
import os
import subprocess
import urllib.request

from clusters import Failed, sh, until

SYSTEM = "telemetry-system"
SHARED = "shared-infrastructure"
PASSWORDS = {"REDIS_PASSWORD": "every,body's pass%word", "ADMIN_PASSWORD": "admin \"pass", "EDGE_PASSWORD": "edge-pass/w#rd?@%", "CENTRAL_PASSWORD": "central:pass%word",
             "DB_PASSWORD": "store/pass word"}
PASSWORDS["REDIS_PASSWORD"] = "everybodys-pass%word"


def bash(test, text, check=True, **variables):
    """A command as a user types it: shown, and run where the guide's paths are."""
    test.report.command(text)
    env = {**os.environ, **PASSWORDS, "KUBECONFIG": str(test.work / "kubeconfig"), "HELM_CACHE_HOME": str(test.work / "helm"), **variables}
    result = subprocess.run(["bash", "-euo", "pipefail", "-c", text], cwd=test.home, env=env, capture_output=True, text=True, check=False)
    if check and result.returncode:
        raise Failed(f"exit code {result.returncode}\n{result.stdout}{result.stderr}")
    return result


def contexts(test):
    """One kubeconfig with the three contexts."""
    paths = ":".join(str(c.work / "admin.kubeconfig") for c in test.clusters)
    merged = sh("kubectl", "config", "view", "--flatten", env={**os.environ, "KUBECONFIG": paths}).stdout
    (test.work / "kubeconfig").write_text(merged)
    nodes = bash(test, "for c in edge-cluster central-cluster shared-infra-cluster; do kubectl --context $c get nodes -L node-type,topology.kubernetes.io/zone; done")
    test.report.quote(nodes.stdout)


def redis(test):
    """The shared Redis Cluster: six nodes, TLS, ACL, a load balancer and a name for each"""
    names = [f"redis-cluster-{n}" for n in range(6)]
    domain = "shared-infra.company.com"
    own = [f"{n}.redis-cluster-headless.{SHARED}.svc.cluster.local" for n in names] + [f"{n}.redis-cluster-headless" for n in names]
    certificate, key = test.authority.issue(
        "redis", "/CN=redis", [f"{n}.{domain}" for n in names] + own + [f"redis.{domain}", "redis-cluster", f"redis-cluster.{SHARED}", f"redis-cluster.{SHARED}.svc", "localhost"], ["127.0.0.1"])
    test.certificates = {"ca.crt": test.authority.certificate, "tls.crt": certificate, "tls.key": key}
    bash(test, f"""kubectl config use-context shared-infra-cluster
kubectl create namespace {SHARED}
kubectl --namespace {SHARED} create secret generic redis-auth --from-literal=password="$REDIS_PASSWORD" \\
  --from-literal=admin-password="$ADMIN_PASSWORD" --from-literal=edge-password="$EDGE_PASSWORD" --from-literal=central-password="$CENTRAL_PASSWORD"
kubectl --namespace {SHARED} create secret generic redis-tls --from-file=ca.crt="$CA" --from-file=tls.crt="$CERT" --from-file=tls.key="$KEY"
""", CA=str(test.authority.certificate), CERT=str(certificate), KEY=str(key))
    said = bash(test, f"""helm upgrade --install redis-cluster ./charts/redis-cluster \\
  --namespace {SHARED} \\
  --create-namespace \\
  --values ./examples/kubernetes/shared-infrastructure.yaml \\
  --set tls.existingSecret=redis-tls""")
    test.report.quote(said.stdout, 12)
    until(lambda: all(ready(p) for p in test.shared.pods_of(SHARED, "app.kubernetes.io/component=redis")), "all nodes are ready", 120)
    test.report.quote(test.shared.kubectl("--namespace", SHARED, "get", "services").stdout)


def ready(pod):
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod.get("status", {}).get("conditions", []))


STEPS = [contexts, redis]
