"""Alerts and dashboard ask for metrics that there are; every alert fires when it should, and only then (promtool)."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from builds import MANIFESTS
from prometheus_client import Counter, Gauge, Histogram

from serving import metrics

HERE = Path(__file__).parent
ALERTS = MANIFESTS / "components/monitoring/alerts.yaml"
DASHBOARD = MANIFESTS / "components/monitoring/dashboards/everbert.json"
SUFFIXES = {Counter: ("_total",), Gauge: ("",), Histogram: ("_bucket", "_sum", "_count")}
OF_THE_TARGET = {"namespace", "pod", "le"}  # labels that Prometheus, or the kind of metric, adds
OF_THE_CLUSTER = {  # kube-state-metrics
    "kube_cronjob_created": {"namespace", "cronjob"},
    "kube_cronjob_status_last_successful_time": {"namespace", "cronjob"},
    "kube_job_status_start_time": {"namespace", "job_name"},
    "kube_job_status_failed": {"namespace", "job_name"},
}
SELECTOR = re.compile(r"\b((?:everbert|kube)_[a-z_]+)(?:\{([^}]*)\})?")
GROUPED = re.compile(r"(?:by|ignoring|on) \(([^)]*)\)")


def exported() -> dict[str, set[str]]:
    """The names under which serving/metrics.py's metrics are read, each with its labels."""
    found = dict(OF_THE_CLUSTER)
    for metric in vars(metrics).values():
        for kind, suffixes in SUFFIXES.items():
            if isinstance(metric, kind):
                labels = set(metric._labelnames) | OF_THE_TARGET
                found |= {f"{metric._name}{suffix}": labels for suffix in suffixes}
    return found


def alerts() -> list[dict[str, object]]:
    groups = yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["spec"]["groups"]
    return [rule for group in groups for rule in group["rules"]]


def panels() -> list[dict[str, object]]:
    return json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]


def expressions() -> Iterator[tuple[str, str]]:
    for rule in alerts():
        yield str(rule["alert"]), str(rule["expr"])
    for panel in panels():
        for target in panel["targets"]:
            yield str(panel["title"]), target["expr"].replace("$__rate_interval", "5m").replace("$namespace", ".*")


def unknown(expression: str) -> list[str]:
    """What the expression asks for and nobody exports: metrics, and labels that none of its metrics has."""
    known, found, labels = exported(), [], set()
    for name, matchers in SELECTOR.findall(expression):
        if name not in known:
            found.append(name)
            continue
        labels |= known[name]
        found += [f"{name}{{{label}}}" for label in re.findall(r"(\w+)\s*[=!]~?", matchers) if label not in known[name]]
    for grouped in GROUPED.findall(expression):
        found += [label for label in re.split(r",\s*", grouped) if label not in labels]
    return found


@pytest.mark.parametrize(("name", "expression"), list(expressions()))
def test_what_is_asked_for_is_exported(name: str, expression: str) -> None:
    assert SELECTOR.search(expression), name
    assert not unknown(expression), name


@pytest.mark.parametrize(
    "wrong",
    [
        "rate(everbert_requests[5m])", "everbert_queue_seconds", 'everbert_requests_total{code="200"}',
        "sum by (verb) (everbert_requests_total)", "sum(rate(everbert_dropped_total[5m]))",
    ],
)  # fmt: skip
def test_what_nobody_exports_is_found(wrong: str) -> None:
    assert unknown(wrong)


def test_every_metric_of_the_server_is_on_the_dashboard() -> None:
    shown = {name for _, expression in expressions() for name, _ in SELECTOR.findall(expression)}
    for metric in vars(metrics).values():
        if isinstance(metric, (Counter, Gauge, Histogram)):
            assert any(name.startswith(metric._name) for name in shown), metric._name


def test_every_alert_says_what_is_wrong_and_what_to_do() -> None:
    for rule in alerts():
        annotations = rule["annotations"]
        assert len(annotations["summary"]) > 20, rule["alert"]
        assert len(annotations["description"]) > 40, rule["alert"]
        assert rule["labels"]["severity"] in ("critical", "warning")


def test_every_panel_is_complete_and_none_covers_another() -> None:
    ids = [panel["id"] for panel in panels()]
    assert len(set(ids)) == len(ids)
    covered = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels())
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(covered)) == len(covered)
    assert max(x for x, _ in covered) < 24
    assert all(panel["description"] and panel["targets"] for panel in panels())


@pytest.fixture(scope="module")
def promtool() -> str:
    found = shutil.which("promtool")
    if not found:
        pytest.skip("promtool, of Prometheus, is not installed")
    return found


def run(promtool: str, folder: Path, groups: object, cases: str) -> subprocess.CompletedProcess[str]:
    """`promtool test rules` of the groups, with the cases of alerts.test.yaml."""
    (folder / "alerts.yaml").write_text(yaml.safe_dump({"groups": groups}), encoding="utf-8")
    (folder / "alerts.test.yaml").write_text(cases, encoding="utf-8")
    return subprocess.run([promtool, "test", "rules", "alerts.test.yaml"], cwd=folder, capture_output=True, text=True)


CASES = (HERE / "alerts.test.yaml").read_text(encoding="utf-8")
GROUPS = yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["spec"]["groups"]


def test_every_alert_is_seen_firing_and_not_firing() -> None:
    firing, quiet = set(), set()
    for case in yaml.safe_load(CASES)["tests"]:
        for at in case["alert_rule_test"]:
            (firing if at.get("exp_alerts") else quiet).add(at["alertname"])
    assert firing == quiet == {rule["alert"] for rule in alerts()}


def test_alerts_fire_when_they_should_and_only_then(promtool: str, tmp_path: Path) -> None:
    done = run(promtool, tmp_path, GROUPS, CASES)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("planted", ["vector(1) > 2", "vector(1)"])
def test_alerts_that_never_fire_or_always_do_are_found(promtool: str, tmp_path: Path, planted: str) -> None:
    groups = json.loads(json.dumps(GROUPS))
    for group in groups:
        for rule in group["rules"]:
            rule["expr"] = planted
    done = run(promtool, tmp_path, groups, CASES)
    assert done.returncode != 0
    said = done.stdout + done.stderr
    assert {str(rule["alert"]) for rule in alerts()} == set(re.findall(r"alertname: ?(\w+)", said))


def test_prometheus_can_read_every_expression(promtool: str, tmp_path: Path) -> None:
    rules = [{"record": f"read:{n}", "expr": expression} for n, (_, expression) in enumerate(expressions())]
    for name, wrong in (
        ("right", []),
        ("planted", [{"record": "read:wrong", "expr": "sum(rate(everbert_texts_total))"}]),
    ):
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump({"groups": [{"name": "all", "rules": rules + wrong}]}), encoding="utf-8")
        done = subprocess.run([promtool, "check", "rules", path], capture_output=True, text=True)
        assert (done.returncode == 0) is (not wrong), done.stdout + done.stderr
