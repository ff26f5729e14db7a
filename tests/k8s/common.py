"""What all steps use: commands as a user types them, and waiting until pods and rows are what they should be."""

import os
import subprocess

from clusters import Failed, until
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


def quiet(test, what):
    """Stops the load for long enough to compare every row."""
    test.load.pause()
    exact(test, what)
    test.load.go_on()


def starts(test):
    """How often containers of the three releases were started."""
    return sum(1 for c in test.clusters for line in c.journal() if line["what"] == "start" and not line["pod"].endswith("-check"))
