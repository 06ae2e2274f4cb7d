"""The pages for operators say what is so: alerts, identities, keys of the bucket, error lines, the overlay to copy."""

import ast
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.accounting import outcomes
from components.batch import sample, versions
from components.deployment import pointer
from components.drift import ledger
from pipelines import check_outputs, claims

ROOT = Path(__file__).parents[2]
PAGES = {path.stem: path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("*.md")}
VERBS = {"get", "list", "watch", "create", "update", "patch", "delete", "terminate"}
FIXED = 20  # characters of a line that are not of its case, at least


def manifests() -> Iterator[dict[str, Any]]:
    for path in sorted((ROOT / "manifests").rglob("*.yaml")):
        yield from filter(None, yaml.load_all(path.read_text(encoding="utf-8"), yaml.CSafeLoader))


def rows(page: str, heading: str) -> list[list[str]]:
    """The cells of each row of the tables under a heading of a page, without their headers."""
    section = re.split(r"^## ", PAGES[page], flags=re.MULTILINE)
    (found,) = [part for part in section if part.startswith(f"{heading}\n")]
    lines = [line.strip("| ") for line in found.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.split(" | ")] for line in lines[2:]]


def test_each_alert_is_told_what_to_do_for_and_no_other_is() -> None:
    alerts = [
        rule["alert"]
        for document in manifests()
        if document.get("kind") == "PrometheusRule"
        for group in document["spec"]["groups"]
        for rule in group["rules"]
    ]
    assert alerts
    told = {name: (means, do) for name, means, do in rows("operations", "Alerts")}
    assert sorted(told) == sorted(alerts)
    assert all(min(map(len, texts)) > 20 for texts in told.values())


def test_what_each_identity_may_do_is_told_and_is_so() -> None:
    rules: dict[str, list[dict[str, Any]]] = {}
    for document in manifests():
        if document.get("kind") == "ServiceAccount":
            rules.setdefault(document["metadata"]["name"], [])
        elif document.get("kind") == "Role":  # bound to the account of its name: tests/manifests
            rules[document["metadata"]["name"]] = document["rules"]
    told = {name.strip("`"): may for name, _, may, _ in rows("security", "Who may do what")}
    assert set(told) == set(rules)
    for name, text in told.items():
        words = set(re.findall(r"[\w-]+", text.casefold()))
        resources = {r.rpartition("/")[2] for rule in rules[name] for r in rule["resources"]} - {
            "configmaps",
            "secrets",
        }
        needed = resources | {one for rule in rules[name] for one in rule.get("resourceNames", [])}
        assert needed <= words, (name, needed - words)
        assert words & VERBS == {verb for rule in rules[name] for verb in rule["verbs"]}, name


def test_each_page_is_linked() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    linked = set(re.findall(r"\]\((?:docs/)?([\w-]+)\.md", readme))
    for name, text in PAGES.items():
        linked |= {other for other in re.findall(r"\]\(([\w-]+)\.md", text) if other != name}
    assert set(PAGES) <= linked


def test_the_keys_of_the_state_are_those_of_the_code() -> None:
    text = PAGES["architecture"]
    keys = [
        pointer.key_of("NAME"), ledger.key_of("NAME", "VERSION"), claims.key_of("ID"), outcomes.key_of("ID"),
        sample.key_of("VERSION", "OBJECT", "ETAG"), f"{versions.LEDGER}OBJECT/ETAG-VERSION.json",
    ]  # fmt: skip
    assert not [key for key in keys if f"`{key}`" not in text]
    assert check_outputs.record_key("VERSION", 1).startswith("decisions/check-")
    assert "`decisions/check-...`" in text
    assert check_outputs.report_prefix("VERSION", 1) == "reports/drift/VERSION/1"
    assert "`reports/drift/VERSION/NUMBER/`" in text


def strings(node: ast.AST, named: dict[str, ast.expr]) -> tuple[str, int]:
    """(pattern of what the expression gives, how many characters of it are fixed)."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return re.escape(node.value), len(node.value)
    if isinstance(node, ast.Name) and node.id in named:
        return strings(named[node.id], {})
    if isinstance(node, ast.FormattedValue):
        return strings(node.value, named) if isinstance(node.value, ast.Name) else (".*", 0)
    if isinstance(node, ast.IfExp):
        (one, fixed), (other, _) = strings(node.body, named), strings(node.orelse, named)
        return f"(?:{one}|{other})", fixed
    parts = node.values if isinstance(node, ast.JoinedStr) else []
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        parts = [node.left, node.right]
    made = [strings(part, named) for part in parts] or [(".*", 0)]
    return "".join(pattern for pattern, _ in made), sum(fixed for _, fixed in made)


def patterns(path: Path) -> Iterator[str]:
    """Of all texts that a module puts together, but for those that hardly say anything."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assigned = [
        (target.id, node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    ]
    names = [name for name, _ in assigned]
    named = {name: value for name, value in assigned if names.count(name) == 1}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr | ast.BinOp | ast.Constant):
            pattern, fixed = strings(node, named)
            if fixed >= FIXED and " " in pattern:
                yield pattern


QUOTED = re.findall(r"^\| `([^`]+)`", PAGES["troubleshooting"], re.MULTILINE)


@pytest.fixture(scope="module")
def said() -> list[re.Pattern[str]]:
    paths = [path for folder in ("components", "pipelines", "serving") for path in (ROOT / folder).rglob("*.py")]
    return [re.compile(pattern) for path in paths for pattern in patterns(path)]


def test_enough_lines_are_quoted() -> None:
    assert len(QUOTED) >= 15
    assert len(set(QUOTED)) == len(QUOTED)


@pytest.mark.parametrize("line", QUOTED)
def test_each_line_that_is_quoted_is_one_of_the_code(line: str, said: list[re.Pattern[str]]) -> None:
    assert any(pattern.fullmatch(line) for pattern in said)


def test_a_line_that_the_code_does_not_say_is_found_out(said: list[re.Pattern[str]]) -> None:
    line = next(one for one in QUOTED if one.startswith("the object store ENDPOINT does not answer"))
    assert not any(pattern.fullmatch(line.replace("is it up", "is it there")) for pattern in said)


def test_the_overlay_of_the_installation_builds(tmp_path: Path) -> None:
    if not shutil.which("kubectl"):
        pytest.skip("kustomize comes with kubectl, which is not installed")
    shutil.copytree(ROOT / "manifests", tmp_path / "manifests")
    sidecars, overlay, *patches = re.findall(r"^```yaml\n(.*?)^```", PAGES["install"], re.MULTILINE | re.DOTALL)
    overlay = overlay.replace("components: []", "components: [../../components/gpu]")
    (folder := tmp_path / "manifests/overlays/ours").mkdir()
    (folder / "kustomization.yaml").write_text(overlay + "".join(patches) + sidecars, encoding="utf-8")
    done = subprocess.run(["kubectl", "kustomize", folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    built = list(yaml.load_all(done.stdout, yaml.CSafeLoader))
    assert {d["metadata"]["namespace"] for d in built} == {"kubeflow"}
    assert "Namespace" not in {d["kind"] for d in built}
    assert not re.findall(r"image: everbert/.*", done.stdout)
    (runtime,) = [d for d in built if d["kind"] == "ServingRuntime"]
    assert {"secretRef": {"name": "everbert-s3"}} in runtime["spec"]["containers"][0]["envFrom"]
    (service,) = [d for d in built if d["kind"] == "InferenceService"]
    assert service["spec"]["predictor"]["labels"]["sidecar.istio.io/inject"] == "false"
    settings = [d["data"] for d in built if d["kind"] == "ConfigMap" and "EVERBERT_IMAGE_TORCH" in d.get("data", {})]
    assert [s["EVERBERT_IMAGE_TORCH"].rpartition(":")[2] for s in settings] == ["0.1.0-cuda"]


def test_every_prefix_that_is_kept_for_long_has_its_rule() -> None:
    kept = " ".join(cell for row in rows("operations", "Retention") for cell in row)
    prefixes = {
        versions.INCOMING, versions.PREDICTIONS, versions.QUARANTINE, versions.LEDGER, f"{sample.PREFIX}/",
        f"{ledger.PREFIX}/", f"{outcomes.PREFIX}/", f"{claims.PREFIX}/",
    }  # fmt: skip
    assert not [prefix for prefix in prefixes if f"`{prefix}`" not in kept]
