"""Steps that look: at policies and monitors, and at what bad input gets."""

import ipaddress
import re

from clusters import sh, until
from common import DOMAIN, SHARED, SYSTEM, bash, quiet, settled
from install import helm_central
from policies import End, allowed


def ends(cluster, namespace):
    """The pods of a namespace by component."""
    found = {}
    for pod in cluster.pods_of(namespace):
        labels = pod["metadata"]["labels"]
        ports = [(p["name"], p["containerPort"]) for c in pod["spec"]["containers"] for p in c.get("ports", []) if "name" in p]
        found[labels.get("app.kubernetes.io/component")] = End(pod["status"]["podIP"], labels, ports)
    return found


def policies(test):
    """NetworkPolicies: judged by the rules of Kubernetes for the pods and addresses that are there, and tried (the kubelet's nodes enforce them)"""
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
    tried = []
    for cluster, rules, pods, ways in (
        (test.edge, edge_rules, edge, [("streamer", redis_nodes[0], 6379), ("network-probe", redis_nodes[1], 6379), ("streamer", edge["network-probe"], 9464)]),
        (test.central, central_rules, central, [("collector", store, 5432), ("api-gateway", store, 5432), ("network-probe", store, 5432), ("collector", redis_nodes[2], 6379),
                                                ("collector", central["api-gateway"], 8080), ("postgresql", central["collector"], 9464)]),
    ):
        for name, to, port in ways:
            there = reaches(cluster, pods[name], to, port)
            tried.append((there == allowed(rules, pods[name], to, port), f"{cluster.name}: {name} {'reaches' if there else 'does not reach'} {to.address}:{port}"))
    wrong = [text for good, text in tried if not good]
    test.report.quote("\n".join(text for _, text in tried))
    test.report.check(not wrong, f"{len(tried)} ways were tried, and are as judged", "; ".join(wrong))


def reaches(cluster, source, to, port):
    """Whether a connection from inside a pod's network is made."""
    name = f"{cluster.name}-{int(ipaddress.ip_address(source.address)):08x}"
    return sh("nsenter", f"--net=/run/netns/{name}", "timeout", 2, "bash", "-c", f"exec 3<>/dev/tcp/{to.address}/{port}", check=False).returncode == 0


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
