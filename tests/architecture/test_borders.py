"""Who may import what. A part that crosses its border is found here, not in an image that lacks the package."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted(p for folder in ("components", "pipelines", "serving") for p in (ROOT / folder).rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Top-level packages that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


def importers(*packages: str) -> set[str]:
    return {p.relative_to(ROOT).as_posix() for p in SOURCES if imports(p) & set(packages)}


def test_the_sources_are_found() -> None:
    assert len(SOURCES) > 30


def test_only_adapters_and_pipelines_import_kfp() -> None:
    assert all(p.endswith("/component.py") or p.startswith("pipelines/") for p in importers("kfp"))


def test_only_serving_imports_kserve() -> None:
    assert all(p.startswith("serving/") for p in importers("kserve"))


@pytest.mark.parametrize(
    ("packages", "only"),
    [
        (("boto3", "botocore"), "components/storage.py"),
        (("mlflow",), "components/tracking.py"),
        (("kubernetes",), "components/deployment/kubernetes_api.py"),
    ],
)
def test_one_place_for_each_client(packages: tuple[str, ...], only: str) -> None:
    assert importers(*packages) <= {only}


def test_components_know_nothing_of_pipelines_and_serving() -> None:
    assert not {p for p in importers("pipelines", "serving") if p.startswith("components/")}


def test_nothing_unpickles() -> None:
    assert not importers("pickle", "joblib", "dill", "cloudpickle")
    for path in SOURCES:
        assert "allow_pickle=True" not in path.read_text(encoding="utf-8"), path


def test_adapters_hold_no_decisions() -> None:
    """An adapter imports, calls and logs: no loop in a loop, no function beside the component, few lines."""
    for path in (p for p in SOURCES if p.name == "component.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for function in (n for n in tree.body if isinstance(n, ast.FunctionDef)):
            assert function.decorator_list, f"{path}: {function.name} is not a component"
            assert (function.end_lineno or 0) - function.lineno < 45, f"{path}: {function.name} is long"


def test_no_future_annotations_where_kfp_reads_them() -> None:
    for path in (p for p in SOURCES if p.name == "component.py" or "pipelines" in p.parts):
        assert "from __future__ import annotations" not in path.read_text(encoding="utf-8"), path
