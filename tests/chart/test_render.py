"""What helm makes of the values: every values file, both versions of Helm, every version of Kubernetes."""

import functools
import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest
import yaml

from support import HELM, HELMS, KUBERNETES, PIPELINE, REDIS_CLUSTER, ROOT, TELEMETRY, TOOLS, find, objects, pods, render, run, template

GOLDEN = ROOT / "tests/chart/golden"
VERSIONS = [f"1.{minor}.0" for minor in range(28, 37)]

# chart, name, values files, --set
CASES = [
    (PIPELINE, "default", (), {"postgresql.auth.password": "db"}),
    (PIPELINE, "same-cluster", (PIPELINE / "values-same-cluster.yaml",), {"postgresql.auth.password": "db"}),
    (PIPELINE, "edge", (PIPELINE / "values-edge.yaml",), {"redis.external.host": "redis.shared-infra.company.com", "redis.external.password": "secret"}),
    (PIPELINE, "central", (PIPELINE / "values-central.yaml",),
     {"redis.external.host": "redis.shared-infra.company.com", "redis.external.password": "secret", "postgresql.auth.password": "db"}),
    *[(PIPELINE, f"ci-{f.stem.removesuffix('-values')}", (f,), {}) for f in sorted((PIPELINE / "ci").glob("*.yaml"))],
    (REDIS_CLUSTER, "default", (), {"auth.password": "pw"}),
    *[(REDIS_CLUSTER, f"ci-{f.stem.removesuffix('-values')}", (f,), {}) for f in sorted((REDIS_CLUSTER / "ci").glob("*.yaml"))],
    *[(PIPELINE, f"example-{f.stem}", (f,), {}) for f in sorted((ROOT / "examples/kubernetes").glob("scenario-*.yaml"))],
    *[(REDIS_CLUSTER, f"example-{f.stem}", (f,), {}) for f in sorted((ROOT / "examples/kubernetes").glob("shared-*.yaml"))],
]
IDS = [f"{chart.name}-{name}" for chart, name, *_ in CASES]
RELEASES = {"edge": "telemetry-edge", "central": "telemetry-central"}
# For examples whose users give a password on the command line.
GIVEN = {"example-scenario-1": {"postgresql.auth.password": "db"}, "example-scenario-2": {"postgresql.auth.password": "db"}}


def rendered(case, helm="helm 4", kubernetes=KUBERNETES):
    return rendered_once(IDS[CASES.index(case)], helm, kubernetes)


@functools.cache
def rendered_once(identifier, helm, kubernetes):
    chart, name, files, values = CASES[IDS.index(identifier)]
    return template(chart, {**values, **GIVEN.get(name, {})}, files=files, release=RELEASES.get(name, "t"), helm=HELMS[helm], kubernetes=kubernetes)


@pytest.mark.parametrize("helm", HELMS)
@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_lint(case, helm):
    chart, name, files, values = case
    flags = [flag for file in files for flag in ("--values", file)]
    sets = [flag for key, value in {**values, **GIVEN.get(name, {})}.items() for flag in ("--set", f"{key}={value}")]
    run(HELMS[helm], "lint", "--strict", chart, *flags, *sets)


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_golden(case, request):
    """What is installed changes only when somebody means it to: `make chart-golden` writes it anew. Helm 3 gives the same objects."""
    text = rendered(case)
    file = GOLDEN / case[0].name / f"{case[1]}.yaml"
    if request.config.getoption("--golden"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    assert file.exists(), f"{file} is missing: make chart-golden"
    key = lambda d: (d["kind"], d["metadata"]["name"])  # noqa: E731
    assert sorted(objects(text), key=key) == sorted(objects(file.read_text()), key=key), "make chart-golden writes what is rendered now"
    assert sorted(objects(text), key=key) == sorted(objects(rendered(case, helm="helm 3")), key=key)


@pytest.mark.parametrize("kubernetes", VERSIONS)
def test_every_field_is_known_to_kubernetes(kubernetes, tmp_path):
    schemas = TOOLS / "schemas"
    # The templates ask for one version only: 1.30, which lets a container sleep before it ends.
    alike = "1.28.0" if kubernetes in ("1.28.0", "1.29.0") else KUBERNETES
    for case, identifier in zip(CASES, IDS):
        (tmp_path / f"{identifier}.yaml").write_text(rendered(case, kubernetes=alike))
    locations = [f"{schemas}/{{{{ .NormalizedKubernetesVersion }}}}/{{{{ .ResourceKind }}}}{{{{ .KindSuffix }}}}.json",
                 f"{schemas}/crds/{{{{ .ResourceKind }}}}{{{{ .KindSuffix }}}}.json"]
    done = run(TOOLS / "bin/kubeconform", "-strict", "-summary", "-output", "json", "-kubernetes-version", kubernetes,
               *[flag for location in locations for flag in ("-schema-location", location)], tmp_path, ok=False)
    report = json.loads(done.stdout)
    assert done.returncode == 0, json.dumps(report["resources"], indent=1)
    assert report["summary"]["valid"] > 100 and report["summary"]["skipped"] == 0


# Checks of kube-score that are answered otherwise.
IGNORED = {
    "container-image-pull-policy": "tags are versions, not latest",
    "container-resources": "a limit of CPU throttles; memory is checked in test_what_every_pod_has",
    "container-ephemeral-storage-request-and-limit": "nothing is written to ephemeral storage but small files in memory",
    "pod-networkpolicy": "an option, tested in test_pipeline",
    "container-security-context-user-group-id": "the users of the images, some below 10000",
    "deployment-has-host-podantiaffinity": "affinity is the user's",
    "statefulset-has-host-podantiaffinity": "single pods; the Redis Cluster has it",
    "statefulset-has-poddisruptionbudget": "single pods; the Redis Cluster has it",
    "deployment-replicas": "one replica by default",
    "horizontalpodautoscaler-replicas": "one collector is enough for many; how many is a value",
    "pod-probes-identical": "the same question with different patience, for databases",
    "pod-probes": "the containers beside a main one have none",
    "service-targets-pod": "pod names are labels that the controller sets; test_what_every_pod_has looks",
    "service-type": "a NodePort where it was asked for",
}


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_kube_score(case, tmp_path):
    file = tmp_path / "rendered.yaml"
    file.write_text(rendered(case))
    done = run(TOOLS / "bin/kube-score", "score", "--output-format", "ci", *[f for i in IGNORED for f in ("--ignore-test", i)], file, ok=False)
    bad = [line for line in done.stdout.splitlines() if line.startswith(("[CRITICAL]", "[WARNING]"))]
    assert not bad, "\n".join(bad)


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_what_every_pod_has(case):
    """Hardened, bounded, and with no secret in what others may read."""
    docs = objects(rendered(case))
    for name, spec in pods(docs):
        assert spec["automountServiceAccountToken"] is False, name
        assert spec["enableServiceLinks"] is False, f"{name}: a Service called redis would set REDIS_PORT"
        security = spec["securityContext"]
        assert security["runAsNonRoot"] is True and security["seccompProfile"] == {"type": "RuntimeDefault"}, name
        volumes = {v["name"] for v in spec.get("volumes", [])}
        assert len(volumes) == len(spec.get("volumes", [])), f"{name}: two volumes of one name"
        for container in spec["containers"]:
            own = container["securityContext"]
            assert own["readOnlyRootFilesystem"] and own["allowPrivilegeEscalation"] is False and own["capabilities"] == {"drop": ["ALL"]}, name
            assert container["resources"]["limits"]["memory"], name
            assert {m["name"] for m in container.get("volumeMounts", [])} <= volumes | {"data"}, name
            names = [v["name"] for v in container.get("env", [])]
            assert len(names) == len(set(names)), f"{name}: {names}"
            assert not any("subPath" in m for m in container.get("volumeMounts", []) if m["name"] not in ("csv",)), f"{name}: would never see a change"
    for d in docs:
        if d["kind"] in ("Deployment", "DaemonSet", "StatefulSet"):
            selector, labels = d["spec"]["selector"]["matchLabels"], d["spec"]["template"]["metadata"]["labels"]
            assert selector.items() <= labels.items(), d["metadata"]["name"]
            assert not {"helm.sh/chart", "app.kubernetes.io/version"} & set(selector), "a selector cannot change, a version does"
            assert "helm.sh/chart" not in labels, "a new version of the chart alone would replace every pod"
        assert len(d["metadata"]["name"]) <= 63 and d["metadata"].get("namespace") == "telemetry-system" or d["kind"] in ("Cluster",), d["metadata"]
    # A Service or a budget that finds no pod, or pods of two kinds, is a mistake.
    kinds = {}
    for d in docs:
        if d["kind"] in ("Deployment", "DaemonSet", "StatefulSet"):
            kinds[d["metadata"]["name"]] = d["spec"]["template"]["metadata"]["labels"]
    for d in docs:
        if d["kind"] in ("Service", "PodDisruptionBudget") and d["spec"].get("selector"):
            selector = d["spec"]["selector"].get("matchLabels", d["spec"]["selector"])
            selector = {k: v for k, v in selector.items() if k != "statefulset.kubernetes.io/pod-name"}
            found = [name for name, labels in kinds.items() if selector.items() <= labels.items()]
            assert len(found) == 1, f"{d['kind']} {d['metadata']['name']} finds {found}"


def test_readme_is_of_these_values():
    for chart in (PIPELINE, REDIS_CLUSTER):
        made = run(TOOLS / "bin/helm-docs", "--dry-run", "--chart-search-root", chart, "--template-files", chart / "README.md.gotmpl", "--badge-style", "flat").stdout
        assert made.strip() == (chart / "README.md").read_text().strip(), f"make chart-docs writes {chart.name}/README.md anew"


@pytest.mark.parametrize("chart", [PIPELINE, REDIS_CLUSTER], ids=lambda chart: chart.name)
def test_unit_tests(chart):
    run(TOOLS / "bin/helm-unittest", "--strict", chart)


def test_kustomize():
    text = run(TOOLS / "bin/kubectl", "kustomize", "--enable-helm", "--helm-command", HELMS["helm 3"], "--load-restrictor", "LoadRestrictionsNone", ROOT / "examples/kubernetes/kustomize").stdout
    streamer = find(objects(text), "DaemonSet", "telemetry-edge-streamer")[0]
    assert streamer["spec"]["template"]["spec"]["hostAliases"]


# In place of kind, docker and a cluster: helm renders, kubectl makes what needs no cluster.
STAND_INS = {
    "kind": "exit 0",
    "docker": "exit 0",
    "kubectl": """shift 2
case "$*" in
    *--dry-run=client*) exec {kubectl} "$@" ;;
    *apply*) cat >>{made}/applied.yaml; echo --- >>{made}/applied.yaml ;;
esac""",
    "helm": """shift 2
[ "$1 $2" = "upgrade --install" ] || exit 0
shift 2
words=()
while [ $# -gt 0 ]; do
    case "$1" in --wait) ;; --timeout) shift ;; *) words+=("$1") ;; esac
    shift
done
exec {helm} template "${{words[@]}}" --kube-version 1.36.0 >{made}/"${{words[0]}}".yaml""",
}


def test_the_laptop_script_renders_and_finds_its_secrets(tmp_path):
    made, programs = tmp_path / "made", tmp_path / "bin"
    made.mkdir()
    programs.mkdir()
    for name, text in STAND_INS.items():
        file = programs / name
        file.write_text("#!/usr/bin/env bash\nset -eu\n" + text.format(made=made, kubectl=TOOLS / "bin/kubectl", helm=HELM) + "\n")
        file.chmod(0o755)
    env = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "KIND_WORK": str(tmp_path / "work"), "TELEMETRY_BIN": TELEMETRY, "KUBECONFIG": "/dev/null"}
    run(ROOT / "examples/kubernetes/kind.sh", env=env)
    applied = objects((made / "applied.yaml").read_text())
    there = {(d["kind"], d["metadata"]["name"]) for d in applied}
    for release in ("redis-cluster", "telemetry-central", "telemetry-edge"):
        docs = objects((made / f"{release}.yaml").read_text())
        own = {(d["kind"], d["metadata"]["name"]) for d in docs}
        for name, spec in pods(docs):
            for volume in spec["volumes"]:
                wanted = ("Secret", volume["secret"]["secretName"]) if "secret" in volume else ("ConfigMap", volume["configMap"]["name"]) if "configMap" in volume else None
                assert wanted is None or wanted in own | there, f"{release}, {name}: {wanted}"


def test_other_examples_are_yaml():
    for name in ("cloudnative-pg.yaml", "argocd/applications.yaml", "flux/edge.yaml"):
        for d in objects((ROOT / "examples/kubernetes" / name).read_text()):
            assert d["apiVersion"] and d["kind"] and d["metadata"]["name"], name
    # What they name is there.
    for app in objects((ROOT / "examples/kubernetes/argocd/applications.yaml").read_text()):
        for file in app["spec"]["source"]["helm"]["valueFiles"]:
            assert (ROOT / app["spec"]["source"]["path"] / file).exists(), file
    release = objects((ROOT / "examples/kubernetes/flux/edge.yaml").read_text())[1]["spec"]["chart"]["spec"]
    assert all((ROOT / file).exists() for file in [release["chart"], *release["valuesFiles"]])


@pytest.mark.parametrize("chart", [PIPELINE, REDIS_CLUSTER], ids=lambda chart: chart.name)
def test_names_that_are_too_long_stay_apart(chart):
    release = "a-release-name-of-fifty-three-characters-is-the-limit"
    docs, other = (render(chart, ALL_OF_IT[chart], release=release[:length]) for length in (53, 52))
    for d in docs:
        assert len(d["metadata"]["name"]) <= (52 if d["kind"] == "StatefulSet" else 63), d["metadata"]["name"]
    names = lambda docs: {(d["kind"], d["metadata"]["name"]) for d in docs}  # noqa: E731
    assert not names(docs) & names(other)


ALL_OF_IT = {
    PIPELINE: {"postgresql.auth.password": "db", "redis.auth.password": "r", "networkPolicy.enabled": True, "probe.enabled": True, "autoscaling.enabled": True,
               "streamer.csv.configMap.data": {"a.csv": "x"}, **{f"monitoring.{m}.enabled": True for m in ("serviceMonitor", "prometheusRule", "dashboard")}},
    REDIS_CLUSTER: {"auth.password": "p", "networkPolicy.enabled": True, "exporter.enabled": True, "exporter.serviceMonitor.enabled": True},
}


@pytest.mark.parametrize("chart", ALL_OF_IT, ids=lambda chart: chart.name)
def test_two_releases_in_a_namespace_share_nothing(chart):
    a, b = (render(chart, ALL_OF_IT[chart], release=release) for release in "ab")
    assert not {(d["kind"], d["metadata"]["name"]) for d in a} & {(d["kind"], d["metadata"]["name"]) for d in b}
    # Nor a Secret or ConfigMap of the other.
    names = {d["metadata"]["name"] for d in b}
    for name, spec in pods(a):
        mounted = {v.get("configMap", {}).get("name") or v.get("secret", {}).get("secretName") for v in spec.get("volumes", [])}
        assert not mounted & names, name
    for d in a:
        for selector in (d.get("spec", {}).get("selector"), d.get("spec", {}).get("podSelector")):
            if selector:
                labels = selector.get("matchLabels", selector)
                assert labels["app.kubernetes.io/instance"] == "a", d["metadata"]["name"]


def test_both_as_subcharts_with_global_values(tmp_path):
    parent = tmp_path / "parent"
    (parent / "charts").mkdir(parents=True)
    (parent / "Chart.yaml").write_text(yaml.dump({"apiVersion": "v2", "name": "parent", "version": "1.0.0"}))
    (parent / "values.yaml").write_text(yaml.dump({"global": {"imageRegistry": "x"}, "telemetry-pipeline": {"enabled": True, "postgresql": {"auth": {"password": "db"}}},
                                                     "redis-cluster": {"enabled": True, "auth": {"password": "p"}}}))
    for chart in (PIPELINE, REDIS_CLUSTER):
        shutil.copytree(chart, parent / "charts" / chart.name)
    for helm in HELMS.values():
        docs = render(parent, helm=helm)
        assert find(docs, "Deployment", "t-telemetry-pipeline-collector") and find(docs, "StatefulSet", "t-redis-cluster")
        names = [(d["kind"], d["metadata"]["name"]) for d in docs]
        assert len(names) == len(set(names)), "each object once"


def test_a_changed_value_renews_the_pods_that_it_concerns():
    base = {"postgresql.auth.password": "db", "redis.auth.password": "r"}
    annotations = lambda values: {  # noqa: E731
        d["metadata"]["name"]: d["spec"]["template"]["metadata"].get("annotations") for d in render(PIPELINE, {**base, **values}) if d["kind"] in ("Deployment", "StatefulSet")}
    before = annotations({})
    changed = lambda values: sorted(name for name, those in annotations(values).items() if those != before[name])  # noqa: E731
    assert changed({}) == []
    assert changed({"redis.auth.password": "new"}) == ["t-api-gateway", "t-collector", "t-redis", "t-streamer"]
    assert changed({"postgresql.auth.password": "new"}) == ["t-api-gateway", "t-collector"]
    assert changed({"collector.config": {"collect": {"writers": 4}}}) == ["t-collector"]
    assert changed({"collector.replicaCount": 4}) == []
    # Followed, not restarted for.
    base["streamer.csv.configMap.data"] = {"a.csv": "x"}
    before = annotations({})
    assert changed({"streamer.csv.configMap.data": {"a.csv": "y"}}) == []

    base.clear()
    base.update({"redis.enabled": False, "redis.external.host": "h", "redis.tls.enabled": True, "redis.tls.ca": "a", "redis.tls.cert": "c", "redis.tls.key": "k", "postgresql.enabled": False,
                 "postgresql.external.host": "p", "postgresql.external.sslmode": "verify-full", "postgresql.external.tls.ca": "a", "probe.enabled": True})
    before = annotations({})
    everybody = ["t-api-gateway", "t-collector", "t-network-probe", "t-streamer"]
    for value in ("redis.external.password", "redis.tls.ca", "redis.tls.cert", "redis.tls.key"):
        assert changed({value: "new"}) == everybody, value
    for value in ("postgresql.external.password", "postgresql.external.tls.ca"):
        assert changed({value: "new"}) == everybody[:2], value


def leaves(values, path=""):
    for key, value in values.items():
        at = f"{path}.{key}" if path else key
        if isinstance(value, dict) and value:
            yield from leaves(value, at)
        else:
            yield at, value


def other(path, value):
    """Another value of the same kind."""
    special = {"redis.external.tls": False, "streamer.kind": "DaemonSet", "streamer.csv.source": "volume", "image.pullPolicy": "Always", "log.format": "text", "apiGateway.service.type": "LoadBalancer",
               "postgresql.external.sslmode": "require", "external.type": "NodePort", "tls.authClients": "yes", "antiAffinity": "none", "service.type": "LoadBalancer"}
    if path in special:
        return special[path]
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 1
    if isinstance(value, list):
        return [{"name": "zz", "value": "zz"}] if not path.endswith(("cidrs", "disabled", "dnsNames", "hosts", "patterns", "Ports", "loadBalancerSourceRanges", "hostnames")) else \
            (["10.9.8.0/24"] if path.endswith("cidrs") else [9] if path.endswith("Ports") else ["TelemetryLatency"] if path.endswith("disabled") else ["zz"])
    if isinstance(value, dict):
        return {"zz": "zz"}
    return True if value is None else "zz"


@pytest.mark.parametrize("chart", [PIPELINE, REDIS_CLUSTER], ids=lambda chart: chart.name)
def test_every_value_is_used(chart):
    """Each value, changed, changes what is rendered, in the first of these settings in which it can."""
    settings = [[HELM, "template", "t", chart, "--kube-version", "1.36.0", "--skip-schema-validation", "--values", file] for file in sorted((chart / "ci").glob("*.yaml"))]
    base = [run(*command).stdout for command in settings]

    def used(leaf):
        path, value = leaf
        for command, before in zip(settings, base):
            present = yaml.safe_load(command[-1].read_text())
            for key in path.split("."):
                present = present.get(key) if isinstance(present, dict) else None
            changed = other(path, value if present is None or isinstance(present, dict) else present)
            done = run(*command, "--set-json", f"{path}={json.dumps(changed)}", ok=False)
            # Refused by name counts: it was looked at.
            if done.returncode == 0 and done.stdout != before or done.returncode and (path in done.stderr or path.rsplit(".", 1)[0] in done.stderr):
                return True
        return False

    values = list(leaves(yaml.safe_load((chart / "values.yaml").read_text())))
    with ThreadPoolExecutor(4) as pool:
        unused = [path for (path, _), found in zip(values, pool.map(used, values)) if not found]
    assert not unused, f"no template looks at {unused}"
