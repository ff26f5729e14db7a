"""Alerts and dashboard: they fire when they should, and ask for metrics that there are."""

import json
import re
import shutil

import yaml

from support import PIPELINE, ROOT, one, render, run

VALUES = {"postgresql.auth.password": "db", "monitoring.prometheusRule.enabled": True, "monitoring.dashboard.enabled": True}


def rules():
    return one(render(PIPELINE, VALUES), "PrometheusRule")["spec"]


def test_alerts_fire_when_they_should(tmp_path):
    (tmp_path / "rules.yaml").write_text(yaml.dump(rules()))
    shutil.copy(ROOT / "tests/chart/alerts.test.yaml", tmp_path)
    run("promtool", "check", "rules", tmp_path / "rules.yaml")
    done = run("promtool", "test", "rules", tmp_path / "alerts.test.yaml", ok=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_is_tested_both_ways():
    cases = [a for t in yaml.safe_load((ROOT / "tests/chart/alerts.test.yaml").read_text())["tests"] for a in t["alert_rule_test"]]
    names = {r["alert"] for r in rules()["groups"][0]["rules"]}
    assert {a["alertname"] for a in cases if a.get("exp_alerts")} == names, "each fires"
    assert {a["alertname"] for a in cases if not a.get("exp_alerts")} == names, "and does not"


def test_runbook_anchors_are_there():
    runbook = ROOT / "docs/runbook.md"
    anchors = {r["annotations"]["runbook_url"].split("#")[1] for r in rules()["groups"][0]["rules"]}
    text = runbook.read_text()
    headings = {re.sub(r"[^a-z0-9 -]", "", h.lower()).replace(" ", "-") for h in re.findall(r"^#+ (.*)$", text, re.M)} | set(re.findall(r'<a (?:id|name)="([^"]+)"', text)) | set(re.findall(r"\{#([^}]+)\}", text))
    assert anchors <= headings, anchors - headings


def test_every_alert_has_its_section_in_the_runbook():
    text = (ROOT / "docs/runbook.md").read_text()
    for rule in rules()["groups"][0]["rules"]:
        anchor = rule["annotations"]["runbook_url"].split("#")[1]
        assert re.search(rf"^\| {rule['alert']} \| \[[^]]+\]\(#{anchor}\)", text, re.M), rule["alert"]


# Labels that Prometheus adds, and those of histograms.
OF_PROMETHEUS = {"namespace", "service", "pod", "le"}


def known():
    """{metric: its labels}, as the reference has them."""
    rows = re.findall(r"^\| `([a-z_]+)` \| \w+ \| \w+ \| ([^|]*) \|", (ROOT / "docs/reference/metrics.md").read_text(), re.M)
    return {name: set(re.findall(r"`(\w+)`", labels)) for name, labels in rows}


def metric(name):
    return name if name in known() else re.sub(r"_(bucket|count|sum)$", "", name)


def queries():
    """(where, PromQL) of the dashboard, the alerts and the autoscaler."""
    dashboard = json.loads(next(iter(one(render(PIPELINE, VALUES), "ConfigMap", "t-dashboard")["data"].values())))
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"].replace("$__rate_interval", "5m").replace("$namespace", ".*")
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            yield f"${variable['name']}", re.fullmatch(r"label_values\((\w+), \w+\)", variable["query"]["query"])[1]
    for rule in rules()["groups"][0]["rules"]:
        yield rule["alert"], rule["expr"]
    scaled = one(render(PIPELINE, {"postgresql.auth.password": "db", "autoscaling.keda.enabled": True, "autoscaling.keda.serverAddress": "http://p"}), "ScaledObject")
    yield "KEDA", scaled["spec"]["triggers"][0]["metadata"]["query"]


def test_what_is_asked_for_exists():
    metrics, asked = known(), set()
    for where, query in queries():
        found = {metric(name): name for name in re.findall(r"\b(?:telemetry|cross_cluster|message_queue)_[a-z_]+", re.sub(r'"[^"]*"', "", query))}
        assert found and found.keys() <= metrics.keys(), f"{where}: {query}: no such metric: {found.keys() - metrics.keys()}"
        labels = OF_PROMETHEUS.union(*(metrics[name] for name in found))
        used = {label for group in re.findall(r"\bby \(([^)]*)\)", query) for label in re.split(r",\s*", group)} | set(re.findall(r"(\w+)=[~\"]", query))
        assert used <= labels, f"{where}: {query}: no such label: {used - labels}"
        asked |= found.keys()
    # What a collector says of lag, freshness and dead letters is looked at.
    assert {"telemetry_lag_seconds", "telemetry_lag_entries", "telemetry_group_lag_seconds", "telemetry_last_stored_timestamp_seconds", "telemetry_dead_letters_kept",
            "telemetry_certificate_expiry_seconds"} <= asked and len(asked) > 20


def test_queries_are_promql(tmp_path):
    records = [{"record": f"asked:{i}", "expr": query} for i, (_, query) in enumerate(queries())]
    (tmp_path / "queries.yaml").write_text(yaml.dump({"groups": [{"name": "all", "rules": records}]}))
    run("promtool", "check", "rules", tmp_path / "queries.yaml")
