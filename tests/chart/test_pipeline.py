"""charts/telemetry-pipeline: what its values come to, and whether the program takes it."""

import ipaddress
import os
import re

import pytest

from support import HELMS, PIPELINE, TELEMETRY, Authority, find, materialize, objects, one, pods, refused, relocate, render, run, sets
from test_render import CASES, rendered

EDGE = {"collector.enabled": False, "apiGateway.enabled": False, "postgresql.enabled": False, "redis.enabled": False, "redis.external.host": "redis.example.com"}
BOTH = {"postgresql.auth.password": "db"}


def container(docs, name, kind="Deployment"):
    spec = one(docs, kind, name)["spec"]["template"]["spec"]
    return spec, spec["containers"][0]


def variables(container):
    return {v["name"]: v.get("value", v.get("valueFrom")) for v in container["env"]}


# What contradicts itself, or is missing: the values → what must be said. The guide's own mistakes come first.
REFUSED = [
    ({**BOTH, "redis.enabled": False, "redis.external.host": "h", "redis.external.password": "${REDIS_PASSWORD}"},
     ["redis.external.password", '--set redis.external.password="${NAME}"', "existingSecret"]),
    ({**BOTH, "redis.enabled": False, "redis.external.host": "${REDIS_HOST}"}, ["redis.external.host", "does not expand"]),
    ({"postgresql.auth.password": "${DB_PASSWORD}"}, ["postgresql.auth.password"]),
    ({**BOTH, "clusterName": "${CLUSTER}"}, ["clusterName"]),
    ({**BOTH, "streamer.csv.patterns": ["${X}/*.csv"]}, ["streamer.csv.patterns[0]"]),
    ({**BOTH, "redis.enabled": False}, ["redis.external.host", "redis.enabled=true", "streamer, collector"]),
    ({}, ["postgresql.auth.password", "postgresql.auth.existingSecret"]),
    ({"postgresql.enabled": False}, ["postgresql.external.host", "collector, apiGateway"]),
    ({**EDGE, "redis.external.tls": True, "redis.tls.enabled": False}, ["redis.external.tls=true", "redis.tls.enabled=false", "contradict"]),
    ({**EDGE, "redis.external.password": "p", "redis.external.existingSecret": "s"}, ["redis.external.password", "redis.external.existingSecret"]),
    ({**BOTH, "redis.external.host": "h"}, ["redis.external.host", "redis.enabled=false"]),
    ({**BOTH, "redis.external.password": "p"}, ["redis.external.password", "redis.auth.password"]),
    ({**EDGE, "redis.auth.password": "p"}, ["redis.auth.password", "redis.external.password"]),
    ({**EDGE, "redis.external.username": "edge"}, ["redis.external.username", "password"]),
    ({**EDGE, "redis.external.host": "rediss://h"}, ["redis.external.host", "scheme"]),
    ({**EDGE, "redis.external.host": "h:6379"}, ["redis.external.host", "redis.external.port"]),
    ({**EDGE, "redis.external.host": "10.0.0.1", "redis.external.externalNameService": "redis"}, ["externalNameService", "host name"]),
    ({**EDGE, "redis.tls.ca": "x"}, ["redis.tls.ca", "redis.tls.enabled=true"]),
    ({**EDGE, "redis.tls.enabled": True, "redis.tls.cert": "x"}, ["redis.tls.cert", "redis.tls.key"]),
    ({**EDGE, "redis.tls.enabled": True, "redis.tls.existingSecret": "s", "redis.tls.ca": "x"}, ["redis.tls.existingSecret", "redis.tls.ca"]),
    ({**EDGE, "redis.tls.enabled": True, "redis.tls.existingSecret": "s", "redis.tls.existingSecretKeys.cert": "tls.crt"}, ["existingSecretKeys.key"]),
    ({**EDGE, "redis.tls.enabled": True, "redis.tls.certificate.create": True}, ["redis.tls.certificate.issuerRef.name"]),
    ({**BOTH, "redis.tls.enabled": True}, ["no certificate", "redis.tls.existingSecret"]),
    ({**BOTH, "postgresql.external.host": "h"}, ["postgresql.external.host", "postgresql.enabled=false"]),
    ({"postgresql.auth.password": "p", "postgresql.auth.existingSecret": "s"}, ["postgresql.auth.password", "postgresql.auth.existingSecret"]),
    ({"postgresql.enabled": False, "postgresql.external.host": "h", "postgresql.external.tls.ca": "x"}, ["postgresql.external.sslmode"]),
    ({"postgresql.enabled": False, "postgresql.external.host": "h", "postgresql.external.sslmode": "verify"}, ["/postgresql/external/sslmode", "verify-full"]),
    ({**EDGE, "streamer.csv.source": "hostPath"}, ["streamer.csv.hostPath.path"]),
    ({**EDGE, "streamer.csv.source": "persistentVolumeClaim"}, ["streamer.csv.persistentVolumeClaim.claimName"]),
    ({**EDGE, "streamer.csv.source": "volume"}, ["streamer.csv.volume"]),
    ({**EDGE, "streamer.csv.hostPath.path": "/x"}, ["streamer.csv.source=hostPath"]),
    ({**EDGE, "streamer.csv.source": "nfs"}, ["/streamer/csv/source", "persistentVolumeClaim"]),
    ({**EDGE, "streamer.csv.configMap.name": "a", "streamer.csv.configMap.data": {"a.csv": "x"}}, ["streamer.csv.configMap.name", "data"]),
    ({**EDGE, "streamer.csv.patterns": ["/etc/passwd"]}, ["streamer.csv.patterns"]),
    ({**EDGE, "streamer.enabled": False}, ["nothing is enabled"]),
    ({**EDGE, "streamer.replicaCount": "3"}, ["/streamer/replicaCount"]),
    ({**EDGE, "redis.external.pasword": "x"}, ["/redis/external", "pasword"]),
    ({**EDGE, "streamers": {}}, ["streamers"]),
    ({**EDGE, "apiGateway.ingress.enabled": True}, ["apiGateway.ingress.enabled", "apiGateway.enabled"]),
    ({**BOTH, "apiGateway.ingress.enabled": True}, ["apiGateway.ingress.hosts"]),
    ({**BOTH, "apiGateway.tls.enabled": True}, ["apiGateway.tls.existingSecret"]),
    ({**BOTH, "apiGateway.trustedProxies": ["proxy.example.com"]}, ["/apiGateway/trustedProxies/0"]),
    ({**BOTH, "apiGateway.trustedProxies": ["10.0.0.0/8"], "config": {"http": {"trusted_proxies": ["10.0.0.0/8"]}}}, ["apiGateway.trustedProxies", "http.trusted_proxies"]),
    ({**BOTH, "apiGateway.tls.existingSecret": "x"}, ["apiGateway.tls.enabled=true"]),
    ({**BOTH, "apiGateway.terminationGracePeriodSeconds": 12}, ["apiGateway.terminationGracePeriodSeconds", "15"]),
    ({**BOTH, "autoscaling.keda.enabled": True}, ["autoscaling.keda.serverAddress"]),
    ({**BOTH, "autoscaling.collector.minReplicas": 9}, ["autoscaling.collector.minReplicas"]),
    ({**BOTH, "config": {"redis": {"url": "redis://x"}}}, ["config.redis.url", "redis.external.host"]),
    ({**BOTH, "collector.config": {"postgres": {"password": "x"}}}, ["collector.config.postgres.password", "existingSecret"]),
    ({**BOTH, "config": {"redis": {"tls": {"ca": "x"}}}}, ["config.redis.tls", "redis.tls"]),
    ({**BOTH, "config": {"shutdown": {"deadline": "1m"}}}, ["config.shutdown.deadline", "terminationGracePeriodSeconds"]),
    ({**BOTH, "postgresql.external.password": "p"}, ["postgresql.external.password", "postgresql.auth.password"]),
    ({"postgresql.enabled": False, "postgresql.external.host": "h", "postgresql.auth.password": "p"}, ["postgresql.auth.password", "postgresql.external.password"]),
    ({**EDGE, "redis.external.password": "one\ntwo"}, ["redis.external.password", "line break"]),
    ({**EDGE, "streamer.extraEnv": [{"name": "REDIS_URL", "value": "rediss://edge:${PASSWORD}@h"}]}, ["streamer.extraEnv[0].value", "does not expand"]),
    ({**EDGE, "streamer.extraEnv": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]}, ["streamer.extraEnv", "A twice"]),
    ({**EDGE, "streamer.csv.configMap.data": {"a.txt": "x"}}, ["streamer.csv.configMap.data.a.txt", "streamer.csv.patterns"]),
    ({**EDGE, "streamer.csv.configMap.data": {"a/b.csv": "x"}}, ["/streamer/csv/configMap/data"]),
    ({**BOTH, "apiGateway.service.nodePort": 30080}, ["apiGateway.service.nodePort", "NodePort"]),
    ({**BOTH, "apiGateway.service.loadBalancerSourceRanges": ["10.0.0.0/8"]}, ["loadBalancerSourceRanges", "LoadBalancer"]),
    ({**BOTH, "networkPolicy.enabled": True, "networkPolicy.redis.cidrs": ["10.0.0.0/8"]}, ["networkPolicy.redis", "redis.enabled=true"]),
    ({**BOTH, "monitoring.prometheusRule.disabled": ["TelemetryLagg"]}, ["TelemetryLagg", "TelemetryQueueLag"]),
    ({**BOTH, "nameOverride": "My name"}, ["/nameOverride"]),
    # Nothing where something must be: a template would take it for 0, or no section.
    ({**BOTH, "collector.replicaCount": None}, ["/collector", "replicaCount"]),
    ({**BOTH, "streamer.csv": None}, ["/streamer", "csv"]),
    ({**BOTH, "redis": None}, ["redis"]),
]


@pytest.mark.parametrize("values, said", REFUSED, ids=[f"{i}-{said[0]}" for i, (_, said) in enumerate(REFUSED)])
def test_what_cannot_be_is_refused_with_the_key_and_the_remedy(values, said):
    for helm in HELMS.values():
        error = refused(PIPELINE, values, helm=helm)
        for part in said:
            assert part in error, error


def test_what_only_a_values_file_can_get_wrong(tmp_path):
    file = tmp_path / "values.yaml"
    file.write_text("postgresql: {auth: {password: 12345678901}}\n")
    assert "postgresql.auth.password" in refused(PIPELINE, {}, files=[file])
    file.write_text(f"postgresql: {{auth: {{password: p}}}}\nstreamer: {{csv: {{configMap: {{data: {{a.csv: {'x' * 1_100_000}}}}}}}}}\n")
    error = refused(PIPELINE, {}, files=[file])
    assert "streamer.csv.configMap.data" in error and "1 MiB" in error
    # On the command line it is whole.
    docs = objects(run(HELMS["helm 4"], "template", "t", PIPELINE, "--set", "postgresql.auth.password=12345678901").stdout)
    assert one(docs, "Secret", "t-postgresql")["data"]["password"] == "MTIzNDU2Nzg5MDE="


def test_all_mistakes_are_said_at_once():
    error = refused(PIPELINE, {"redis.enabled": False, "apiGateway.tls.enabled": True})
    for part in ("redis.external.host", "postgresql.auth.password", "apiGateway.tls.existingSecret"):
        assert part in error


PIPELINE_CASES = [case for case in CASES if case[0] == PIPELINE]


@pytest.mark.parametrize("case", PIPELINE_CASES, ids=[case[1] for case in PIPELINE_CASES])
def test_the_program_takes_what_is_rendered(case, tmp_path):
    """Arguments, environment and files of each pod, laid out as a kubelet does it: the real program's `config check`."""
    docs = objects(rendered(case))
    checked = 0
    pair = Authority(tmp_path / "pki").issue(["redis.example.com"])
    # Secrets that exist beside the release.
    secrets = {"redis": {"password": "p\n", "username": "u"}, "redis-tls": pair, "db": {"password": "p"}, "db-tls": pair, "api-tokens": {"tokens": f"sha256:{'0' * 64} someone\n"},
               "api-tls": pair, "t-redis-tls": pair, "t-api-gateway-tls": pair, "redis-central": {"password": "p"}, "redis-edge": {"password": "p"}, "redis-ca": pair, "telemetry-db-app": {"password": "p"}, "telemetry-db-ca": pair}
    for name, spec in pods(docs):
        for c in spec["containers"]:
            if not any(a in ("stream", "collect", "serve", "probe", "check") for a in c.get("args", [])[:1]):
                continue
            root = tmp_path / name.replace(" ", "-")
            csv = [d for d in docs if d["kind"] == "ConfigMap" and d["metadata"]["name"] == "exports"]
            made = materialize(docs + ([] if csv else [{"kind": "ConfigMap", "metadata": {"name": "exports"}, "data": {"a.csv": "x"}}]), spec, c, root, secrets)
            env = {"PATH": os.environ["PATH"]}
            for variable in c["env"]:
                source = variable.get("valueFrom", {})
                if "secretKeyRef" in source:
                    env[variable["name"]] = secrets[source["secretKeyRef"]["name"]][source["secretKeyRef"]["key"]]
                elif "fieldRef" in source:
                    env[variable["name"]] = "telemetry-system"
                else:
                    env[variable["name"]] = relocate(variable["value"], made)
            for path in made.values():
                for file in path.iterdir():
                    if file.suffix == ".toml":
                        file.write_text(relocate(file.read_text(), made))
                    elif "AA==" in file.read_text():
                        # What stands for a certificate in the values of ci/.
                        file.write_text(pair[file.name])
            config = relocate(c["args"][c["args"].index("--config") + 1], made)
            # The role's own flags: all must be known to it.
            flags = [a for a in c["args"][1:] if a.startswith("--") and a != "--config"]
            help_text = run(TELEMETRY, c["args"][0], "--help").stdout
            assert all(flag in help_text for flag in flags), (name, flags)
            env.update({f"TELEMETRY__HTTP__{f[2:].upper().replace('-', '_')}": "true" for f in flags})
            said = run(TELEMETRY, "--config", config, "config", "check", env=env, ok=False)
            assert said.returncode == 0, f"{name}: {said.stderr}"
            shown = run(TELEMETRY, "--config", config, "config", "show", env=env).stdout
            assert "0.0.0.0:9464" in shown or "[::]:9464" in shown, shown
            # None twice: what the file says comes from the file, what a variable says from a variable.
            keys = set(re.findall(r"^(\w+) = ", open(config).read(), re.M))
            assert not {"cluster", "url", "password_file", "username", "tokens_file"} & keys, keys
            checked += 1
    assert checked, "there is a pod of ours"


def test_an_edge_knows_nothing_central():
    docs = render(PIPELINE, {**EDGE, "probe.enabled": True, "redis.external.existingSecret": "redis", "postgresql.auth.password": "central-secret",
                             "postgresql.external.password": "central-secret"})
    text = str(docs)
    assert "central-secret" not in text and "DATABASE_URL" not in text and "DB_PASSWORD" not in text and "postgres" not in text.replace("telemetry-postgres", "")
    assert {d["kind"] for d in docs} == {"ServiceAccount", "ConfigMap", "Service", "Deployment", "PodDisruptionBudget", "Pod"}


def test_both_spellings_of_tls_are_the_same():
    a = render(PIPELINE, {**EDGE, "redis.external.tls": True})
    b = render(PIPELINE, {**EDGE, "redis.tls.enabled": True})
    c = render(PIPELINE, {**EDGE, "redis.external.tls": True, "redis.tls.enabled": True})
    assert a == b == c
    assert variables(container(a, "t-streamer")[1])["REDIS_URL"] == "rediss://redis.example.com:6379"


GUIDES_EDGE = """
streamer: {enabled: true, replicaCount: 3}
collector: {enabled: false}
apiGateway: {enabled: false}
postgresql: {enabled: false}
redis:
  enabled: false
  external: {host: redis.shared-infra.company.com, port: 6379, password: "${REDIS_PASSWORD}", tls: true}
"""
GUIDES_CENTRAL = GUIDES_EDGE.replace("streamer: {enabled: true, replicaCount: 3}", "streamer: {enabled: false}").replace(
    "collector: {enabled: false}", "collector: {enabled: true, replicaCount: 5}").replace(
    "apiGateway: {enabled: false}", "apiGateway: {enabled: true, replicaCount: 2}").replace("postgresql: {enabled: false}", "postgresql: {enabled: true}")
HOST = "redis.external.host=redis.shared-infra.company.com"


@pytest.mark.parametrize("helm", HELMS)
@pytest.mark.parametrize("side, file, given, replicas", [
    ("edge", GUIDES_EDGE, [HOST], {"streamer": 3}),
    ("edge", None, [HOST], {"streamer": 3, "network-probe": 1}),
    ("central", GUIDES_CENTRAL, ["postgresql.auth.password=db"], {"collector": 5, "api-gateway": 2}),
    ("central", None, ["postgresql.auth.password=db"], {"collector": 5, "api-gateway": 2, "network-probe": 1}),
], ids=["edge, its own file", "edge, the chart's", "central, its own file", "central, the chart's"])
def test_the_guides_commands_work_as_written(side, file, given, replicas, helm, tmp_path):
    """Those of the earlier guide (docs/deployment.md, "If you come from the earlier guide"), with its values files and with the chart's."""
    values = PIPELINE / f"values-{side}.yaml"
    if file:
        values = tmp_path / f"values-{side}.yaml"
        values.write_text(file)
        assert "does not expand" in refused(PIPELINE, {}, files=[values], helm=HELMS[helm]), "and not without the password"
    flags = [flag for one_value in [*given, "redis.external.password=p,w".replace(",", "\\,")] for flag in ("--set", one_value)]
    docs = render(PIPELINE, {}, *flags, release=f"telemetry-{side}", files=[values], helm=HELMS[helm])
    assert {d["metadata"]["name"].removeprefix(f"telemetry-{side}-"): d["spec"]["replicas"] for d in find(docs, "Deployment")} == replicas
    assert one(docs, "Secret", f"telemetry-{side}-redis")["data"] == {"password": "cCx3"}
    assert all(variables(c)["REDIS_URL"] == "rediss://redis.shared-infra.company.com:6379" for d in find(docs, "Deployment") for c in d["spec"]["template"]["spec"]["containers"])


def test_the_guides_variables_go_before_the_charts():
    env = [{"name": "REDIS_URL", "value": "rediss://user:pw@elsewhere:6379"}, {"name": "REDIS_TLS_ENABLED", "value": "true"},
           {"name": "REDIS_CA_CERT", "valueFrom": {"secretKeyRef": {"name": "redis-ca-cert", "key": "ca.crt"}}}]
    values = {k: v for k, v in EDGE.items() if k != "redis.external.host"}
    docs = render(PIPELINE, {**values, "streamer.extraEnv": env})
    _, c = container(docs, "t-streamer")
    assert [v for v in c["env"] if v["name"] == "REDIS_URL"] == [env[0]]
    docs = render(PIPELINE, {**EDGE, "streamer.extraEnv": env})
    _, c = container(docs, "t-streamer")
    assert [v for v in c["env"] if v["name"] == "REDIS_URL"] == [env[0]], "each name once, the user's"


def test_csv_sources():
    def csv(values, kind="Deployment"):
        spec, c = container(render(PIPELINE, {**EDGE, **values}), "t-streamer", kind)
        return next(v for v in spec["volumes"] if v["name"] == "csv"), next(m for m in c["volumeMounts"] if m["name"] == "csv")

    volume, mount = csv({})
    assert volume["configMap"] == {"name": "t-csv", "optional": True} and mount["readOnly"]
    assert csv({"streamer.csv.configMap.name": "mine"})[0]["configMap"] == {"name": "mine"}, "one that is named must be there"
    assert csv({"streamer.csv.configMap.data": {"a.csv": "x"}})[0]["configMap"] == {"name": "t-csv"}
    volume, mount = csv({"streamer.csv.source": "persistentVolumeClaim", "streamer.csv.persistentVolumeClaim.claimName": "c", "streamer.csv.persistentVolumeClaim.subPath": "d"})
    assert volume["persistentVolumeClaim"] == {"claimName": "c"} and mount["subPath"] == "d"
    volume, _ = csv({"streamer.csv.source": "hostPath", "streamer.csv.hostPath.path": "/var/lib/dcgm"}, "DaemonSet")
    assert volume["hostPath"] == {"path": "/var/lib/dcgm", "type": "Directory"}
    csv({"streamer.csv.source": "hostPath", "streamer.csv.hostPath.path": "/x", "streamer.kind": "Deployment"})
    assert csv({"streamer.csv.source": "volume", "streamer.csv.volume": {"emptyDir": {}}})[0]["emptyDir"] == {}


def test_where_redis_runs_in_the_release_its_key_stays_with_it():
    docs = render(PIPELINE, {**BOTH, "redis.tls.enabled": True, "redis.tls.existingSecret": "redis-tls"})
    spec, c = container(docs, "t-collector")
    volume = next(v for v in spec["volumes"] if v["name"] == "redis-tls")
    assert [i["path"] for i in volume["secret"]["items"]] == ["ca.crt"]
    assert "REDIS_CLIENT_KEY" not in variables(c)
    spec, _ = container(docs, "t-redis", "StatefulSet")
    assert [i["path"] for i in next(v for v in spec["volumes"] if v["name"] == "tls")["secret"]["items"]] == ["tls.crt", "tls.key"]


def test_the_gateway_asks_for_tokens_where_it_has_some():
    _, c = container(render(PIPELINE, BOTH), "t-api-gateway")
    assert "--insecure-open" in c["args"] and "TELEMETRY_API_TOKENS_FILE" not in variables(c)
    _, c = container(render(PIPELINE, {**BOTH, "apiGateway.auth.existingSecret": "tokens"}), "t-api-gateway")
    assert "--insecure-open" not in c["args"] and variables(c)["TELEMETRY_API_TOKENS_FILE"] == "/etc/telemetry/api/tokens"


def test_draining_ends_before_kubernetes_ends_it():
    def deadline(values, name, kubernetes="1.36.0"):
        docs = render(PIPELINE, {**BOTH, **values}, kubernetes=kubernetes)
        spec, c = container(docs, name)
        said = int(re.search(r'deadline = "(\d+)s"', one(docs, "ConfigMap", name)["data"]["telemetry.toml"])[1])
        sleep = c.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        assert said + sleep + 5 == spec["terminationGracePeriodSeconds"]
        return said, sleep

    assert deadline({}, "t-streamer") == (25, 0)
    assert deadline({"collector.terminationGracePeriodSeconds": 90}, "t-collector") == (85, 0)
    assert deadline({}, "t-api-gateway") == (25, 5)
    assert deadline({}, "t-api-gateway", "1.29.0") == (30, 0), "before 1.30 nobody can sleep in an image without a shell"


def test_autoscalers_own_the_replicas():
    docs = render(PIPELINE, {**BOTH, "autoscaling.enabled": True})
    assert "replicas" not in one(docs, "Deployment", "t-collector")["spec"] and "replicas" not in one(docs, "Deployment", "t-api-gateway")["spec"]
    assert one(docs, "Deployment", "t-streamer")["spec"]["replicas"] == 1 and len(find(docs, "HorizontalPodAutoscaler")) == 2
    docs = render(PIPELINE, {**BOTH, "autoscaling.keda.enabled": True, "autoscaling.keda.serverAddress": "http://p"})
    assert "replicas" not in one(docs, "Deployment", "t-collector")["spec"] and "replicas" in one(docs, "Deployment", "t-api-gateway")["spec"]
    assert not find(docs, "HorizontalPodAutoscaler")
    assert one(docs, "ScaledObject")["spec"]["scaleTargetRef"]["name"] == "t-collector"


def reaches(policies, labels, port, to_labels=None, to_address=None, protocol="TCP"):
    """Whether a pod may open a connection, by the rules of NetworkPolicies; peers of other namespaces are not looked at."""
    def selects(selector, labels):
        if not all(labels.get(k) == v for k, v in selector.get("matchLabels", {}).items()):
            return False
        return all(labels.get(e["key"]) in e["values"] for e in selector.get("matchExpressions", []))

    def peer(p):
        if "ipBlock" in p:
            return to_address is not None and ipaddress.ip_address(to_address) in ipaddress.ip_network(p["ipBlock"]["cidr"])
        return "namespaceSelector" not in p and to_labels is not None and selects(p["podSelector"], to_labels)

    def one_way(direction, key, subject, peers_match):
        of = [p for p in policies if selects(p["spec"]["podSelector"], subject) and direction in p["spec"]["policyTypes"]]
        rules = [r for p in of for r in p["spec"].get(direction.lower(), [])]
        return not of or any((not r.get(key) or any(peers_match(p) for p in r[key])) and
                             (not r.get("ports") or any(q.get("protocol", "TCP") == protocol and q["port"] == port for q in r["ports"])) for r in rules)

    if not one_way("Egress", "to", labels, peer):
        return False
    return to_labels is None or one_way("Ingress", "from", to_labels, lambda p: "podSelector" in p and "namespaceSelector" not in p and selects(p["podSelector"], labels))


def pod_labels(docs, name):
    for d in docs:
        if d["metadata"]["name"] == name and d["kind"] in ("Deployment", "StatefulSet", "DaemonSet"):
            return d["spec"]["template"]["metadata"]["labels"]
        if d["metadata"]["name"] == name and d["kind"] == "Pod":
            return d["metadata"]["labels"]
    raise AssertionError(name)


def test_network_policies_let_through_what_is_needed_and_nothing_else():
    docs = render(PIPELINE, {**BOTH, "networkPolicy.enabled": True, "probe.enabled": True})
    policies = find(docs, "NetworkPolicy")
    streamer, collector, gateway, probe, redis, postgres = (pod_labels(docs, f"t-{n}") for n in ("streamer", "collector", "api-gateway", "network-probe", "redis", "postgresql"))
    for who in (streamer, collector, gateway, probe):
        assert reaches(policies, who, 53, to_address="10.96.0.10", protocol="UDP") and reaches(policies, who, 53, to_address="10.96.0.10")
        assert reaches(policies, who, 6379, to_labels=redis)
        assert not reaches(policies, who, 443, to_address="1.1.1.1") and not reaches(policies, who, 6379, to_address="1.1.1.1")
    for who, may in ((streamer, False), (probe, False), (collector, True), (gateway, True)):
        assert reaches(policies, who, 5432, to_labels=postgres) == may
    # The pods of `helm test` go the same ways.
    assert reaches(policies, pod_labels(docs, "t-streamer-check"), 6379, to_labels=redis)
    assert not reaches(policies, pod_labels(docs, "t-streamer-check"), 5432, to_labels=postgres)
    assert reaches(policies, pod_labels(docs, "t-collector-check"), 5432, to_labels=postgres)

    docs = render(PIPELINE, {**EDGE, "networkPolicy.enabled": True, "networkPolicy.redis.cidrs": ["203.0.113.0/28"], "networkPolicy.redis.extraPorts": [7601, 7602]})
    policies, streamer = find(docs, "NetworkPolicy"), pod_labels(docs, "t-streamer")
    for port in (6379, 7601, 7602):
        assert reaches(policies, streamer, port, to_address="203.0.113.5") and not reaches(policies, streamer, port, to_address="203.0.113.77")
    docs = render(PIPELINE, {**EDGE, "networkPolicy.enabled": True})
    assert reaches(find(docs, "NetworkPolicy"), pod_labels(docs, "t-streamer"), 6379, to_address="198.51.100.1"), "without a list: any address, that port"


def test_the_guides_own_monitor_finds_the_probe():
    docs = render(PIPELINE, {**EDGE, "probe.enabled": True})
    services = [s for s in find(docs, "Service") if s["metadata"]["labels"].get("app") == "network-probe"]
    assert len(services) == 1 and services[0]["spec"]["ports"][0]["name"] == "metrics"


def test_listening_on_ipv6():
    docs = render(PIPELINE, {**BOTH, "listenAddress": "::"})
    assert 'listen = "[::]:8080"' in one(docs, "ConfigMap", "t-api-gateway")["data"]["telemetry.toml"]


def test_an_alias_is_verified_by_the_real_name():
    docs = render(PIPELINE, {**EDGE, "redis.external.tls": True, "redis.external.externalNameService": "external-redis"})
    service = one(docs, "Service", "external-redis")
    assert service["spec"] == {"type": "ExternalName", "externalName": "redis.example.com"}
    env = variables(container(docs, "t-streamer")[1])
    assert env["REDIS_URL"] == "rediss://external-redis:6379" and env["REDIS_TLS_SERVER_NAME"] == "redis.example.com"


def test_trusted_proxies_reach_the_gateway_and_nobody_else(tmp_path):
    docs = render(PIPELINE, {**BOTH, "apiGateway.trustedProxies": ["10.0.0.0/8", "fd00::1"]})
    files = {name: one(docs, "ConfigMap", f"t-{name}")["data"]["telemetry.toml"] for name in ("api-gateway", "collector", "streamer")}
    assert "trusted_proxies" not in files["collector"] + files["streamer"]
    config = tmp_path / "telemetry.toml"
    config.write_text(files["api-gateway"])
    shown = run(TELEMETRY, "--config", config, "config", "show").stdout
    assert 'trusted_proxies = ["10.0.0.0/8", "fd00::1/128"]' in shown, shown
    assert "trusted_proxies" not in one(render(PIPELINE, BOTH), "ConfigMap", "t-api-gateway")["data"]["telemetry.toml"]


def test_the_notes_say_what_runs_and_warn():
    def notes(values, release="t"):
        done = run(HELMS["helm 4"], "install", release, PIPELINE, "--dry-run=client", "--namespace", "telemetry-system", *sets(values))
        return done.stdout.split("NOTES:")[1]

    text = notes({**EDGE, "redis.external.tls": True, "redis.external.existingSecret": "redis"}, "telemetry-edge")
    assert "rediss://redis.example.com:6379" in text and "helm test telemetry-edge" in text and "create configmap telemetry-edge-csv" in text
    assert "deployment/telemetry-edge-streamer -- telemetry check" in text and "clusterName is not set" in text
    assert "does not use TLS" not in text and "PostgreSQL" not in text
    text = notes({**BOTH, "clusterName": "x"})
    assert "requires no token" in text and "port-forward service/t-api-gateway" in text
    text = notes({**BOTH, "redis.enabled": False, "redis.external.host": "h", "redis.external.password": "hunter2", "redis.tls.enabled": True, "redis.tls.insecureSkipVerify": True,
                  "apiGateway.auth.existingSecret": "t"})
    assert "hunter2" not in text and "insecureSkipVerify" in text and "existingSecret" in text and "requires no token" not in text
    text = notes({**EDGE, "postgresql.external.host": "db", "networkPolicy.metrics.from": [{"podSelector": {}}]})
    assert "networkPolicy has rules, but is disabled" in text and "No password for PostgreSQL" not in text
    ingress = {**BOTH, "apiGateway.ingress.enabled": True, "apiGateway.ingress.hosts": ["telemetry.example.com"]}
    assert "Set apiGateway.trustedProxies" in notes(ingress) and "trustedProxies" not in text
    assert "trustedProxies" not in notes({**ingress, "apiGateway.trustedProxies": ["10.0.0.0/8"]})
    for where in ("config", "apiGateway.config"):
        assert "trustedProxies" not in notes({**ingress, where: {"http": {"trusted_proxies": ["10.0.0.0/8"]}}}), where
    assert "No password for PostgreSQL" in notes({"postgresql.enabled": False, "postgresql.external.host": "db"})
    assert "the name of the examples in the documentation" in notes({**BOTH, "redis.enabled": False, "redis.external.host": "redis.shared-infra.company.com"})
