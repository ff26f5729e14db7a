"""Alerts and dashboard: they fire when they should, and ask for metrics that there are."""

import json
import re
import shutil

import yaml

from support import PIPELINE, ROOT, awaited, one, render, run

VALUES = {"postgresql.auth.password": "db", "monitoring.prometheusRule.enabled": True, "monitoring.dashboard.enabled": True}


def rules():
    return one(render(PIPELINE, VALUES), "PrometheusRule")["spec"]


def test_alerts_fire_when_they_should(tmp_path):
    (tmp_path / "rules.yaml").write_text(yaml.dump(rules()))
    shutil.copy(ROOT / "tests/chart/alerts.test.yaml", tmp_path)
    run("promtool", "check", "rules", tmp_path / "rules.yaml")
    done = run("promtool", "test", "rules", tmp_path / "alerts.test.yaml", ok=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_is_tested():
    tested = yaml.safe_load((ROOT / "tests/chart/alerts.test.yaml").read_text())["tests"]
    fired = {a["alertname"] for t in tested for a in t["alert_rule_test"] if a.get("exp_alerts")}
    assert fired == {r["alert"] for r in rules()["groups"][0]["rules"]}


def test_runbook_anchors_are_there():
    runbook = ROOT / "docs/runbook.md"
    if awaited("docs/runbook.md", runbook.exists()):
        return
    anchors = {r["annotations"]["runbook_url"].split("#")[1] for r in rules()["groups"][0]["rules"]}
    text = runbook.read_text()
    headings = {re.sub(r"[^a-z0-9 -]", "", h.lower()).replace(" ", "-") for h in re.findall(r"^#+ (.*)$", text, re.M)} | set(re.findall(r'<a (?:id|name)="([^"]+)"', text)) | set(re.findall(r"\{#([^}]+)\}", text))
    assert anchors <= headings, anchors - headings


def names(text):
    text = re.sub(r'"[^"]*"', "", text)
    return {re.sub(r"_(bucket|count|sum)$", "", n) if not n.endswith("_total") else n
            for n in re.findall(r"\b(?:telemetry|cross_cluster|message_queue)_[a-z_]+", text)}


def test_metrics_that_are_asked_for_exist():
    known = set(re.findall(r"^\| `([a-z_]+)`", (ROOT / "docs/reference/metrics.md").read_text(), re.M))
    dashboard = json.loads(next(iter(one(render(PIPELINE, VALUES), "ConfigMap", "t-dashboard")["data"].values())))
    asked = set()
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            asked |= names(target["expr"])
    for rule in rules()["groups"][0]["rules"]:
        asked |= names(rule["expr"])
    asked |= names(str(render(PIPELINE, {"postgresql.auth.password": "db", "autoscaling.keda.enabled": True, "autoscaling.keda.serverAddress": "http://p"})))
    asked = {n for n in asked if n in known or n.startswith(("telemetry_", "cross_", "message_"))}
    asked -= {n for n in asked if awaited(n, n in known)}
    assert asked <= known, f"no such metric: {asked - known}"
    assert len(asked) > 12
