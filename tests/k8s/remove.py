"""Steps that end: removal, the scenarios of one cluster in the place that has become free, and what must have held all the time."""

import json

from clusters import sh, until
from common import CENTRAL, EDGE, SHARED, SYSTEM, bash, exact, settled
from rows import Rows


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
    test.report.check("is accounted for, once" in said.stdout, "telemetry audit closes")
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
    journal = [line for c in test.clusters for line in c.journal() if line["namespace"] not in ("bad", "default")]
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
    begun, late = {}, []
    for line in journal:
        key = line["cluster"], line["namespace"], line["pod"], line["container"]
        if line["what"] == "start":
            begun[key] = line["time"]
        elif line["what"] == "probe" and line["time"] - begun[key] > 30:
            late.append(line)
    alive = [line for line in late if line["kind"] == "Liveness"]
    test.report.check(not alive, "no liveness probe failed later than 30 s after a start", "; ".join(f"{a['pod']}: {a['error']}" for a in alive[:5]))
    for container in sorted({line["container"] for line in late}):
        these = [line["error"] for line in late if line["container"] == container]
        test.report.say(f"   | {container}: {len(these)} readiness probes failed while it ran, such as: {these[0][:200]}")
    dead = [line for c in test.clusters for line in c.alive()]
    test.report.check(not dead, "every API server, etcd, controller, scheduler and kubelet is still the one that was started", str(dead))
