"""A whole back-test with a small real BERT: movies, then tweets, on a few hundred rows."""

import csv
import json
import re
import tarfile
from pathlib import Path
from typing import Any

import pytest

from components import config
from components.backtest.policies import named
from pipelines.backtest import run
from pipelines.backtest_report import as_text

pytestmark = pytest.mark.slow

SAMPLES = Path(__file__).resolve().parents[2] / "samples"
POLICIES = ("never", "naive", "everbert", "everything")
# Held-out rows for windows of some twenty texts, and a bar and a proof that so few of them can pass.
SETTINGS = {
    "data": {"validation_share": 0.2, "test_share": 0.2, "minimum_rows": 2},
    "training": {"epochs": 2, "learning_rate": 5e-4, "warm_learning_rate": 5e-4, "batch_size": 8},
    "drift": {"minimum_window": 10},
    "retrain": {"false_retrain_budget": 0.5, "checks_a_year": 10, "minimum_labels": 50},
    "promotion": {"margin": 0.2, "slice_margin": 0.3, "calibration_margin": 0.3, "level": 0.4, "behaviour_margin": 1},
}


def write(path: Path, rows: list[tuple[str, str]]) -> str:
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *rows])
    return str(path)


def movies() -> list[tuple[str, str]]:
    with tarfile.open(SAMPLES / "movies.tar.gz") as archive:
        members = [member for member in archive if member.isfile()][::13]
        opened = [(archive.extractfile(member), str(int("/pos/" in member.name))) for member in members]
        return [(file.read().decode(), label) for file, label in opened if file]


def tweets() -> list[tuple[str, str]]:
    tables = []
    for folder in ("labels", "incoming"):
        with open(SAMPLES / folder / "tweets.csv", encoding="utf-8", newline="") as file:
            tables.append({row["id"]: row for row in csv.DictReader(file)})
    return [(row["text"], tables[0][row_id]["label"]) for row_id, row in list(tables[1].items())[:240]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("backtest")


@pytest.fixture(scope="module")
def result(folder: Path, small_bert: Path) -> dict[str, Any]:
    stream = [write(folder / "movies.csv", movies()), write(folder / "tweets.csv", tweets())]
    settings, policies = config.load(None, SETTINGS), named(POLICIES)
    return run(stream, policies, settings, folder / "page", folder / "work", base_model=str(small_bert), window=64)


def retrained(result: dict[str, Any], policy: str) -> dict[str, Any]:
    """The step with the policy's first retrain."""
    return next(step for step in result["courses"][policy] if step["retrain"])


def test_every_policy_goes_through_every_window(result: dict[str, Any]) -> None:
    assert [p["policy"] for p in result["policies"]] == list(POLICIES) == list(result["courses"])
    for course in result["courses"].values():
        assert [(step["window"], step["rows"]) for step in course] == [(1, 64), (2, 64), (3, 64)]
    assert [(s["source"], s["rows"], s["held_out_rows"]) for s in result["sources"]] == [
        ("movies", 400, 100),
        ("tweets", 192, 48),
    ]


def test_on_drift_all_but_never_retrain_at_the_first_window(result: dict[str, Any]) -> None:
    assert not any(step["retrain"] for step in result["courses"]["never"])
    for policy in POLICIES[1:]:
        assert retrained(result, policy)["window"] == 1
        assert retrained(result, policy)["reason"].startswith("The texts have changed")


def test_a_window_is_scored_before_it_is_learnt(result: dict[str, Any]) -> None:
    """So all policies, which start with the same champion, do equally well on the first window."""
    assert len({course[0]["accuracy"] for course in result["courses"].values()}) == 1


def test_a_champion_changes_only_by_promotion(result: dict[str, Any]) -> None:
    for policy, course in result["courses"].items():
        served = result["first"]["held_out"]
        for step in course:
            promoted = step["retrain"] and step["retrain"]["promoted"]
            assert promoted or step["held_out"] == served, policy
            served = step["held_out"]
    unproven = {policy: retrained(result, policy)["retrain"]["reason"] for policy in POLICIES[1:]}
    assert unproven.pop("naive") == unproven.pop("everything") == "Promoted without proof."
    assert "accuracy by " in unproven["everbert"] or "is better: " in unproven["everbert"]
    assert all(retrained(result, policy)["retrain"]["promoted"] for policy in ("naive", "everything"))


def test_each_learns_what_it_says(result: dict[str, Any]) -> None:
    """Training rows of one epoch: of the 64 rows of a window 38 train, of the 400 movies 240."""
    per_epoch = {"naive": 38, "everbert": 2 * 38, "everything": 240 + 38}
    for policy, rows in per_epoch.items():
        made = retrained(result, policy)["retrain"]
        assert made["training_rows"] in (rows, 2 * rows), policy
        assert 0 < made["training_cpu_seconds"] <= made["all_cpu_seconds"]


def test_table_page_and_json_say_the_same(result: dict[str, Any], folder: Path) -> None:
    html = (folder / "page" / "backtest.html").read_text(encoding="utf-8")
    text = as_text(result)
    for p in result["policies"]:
        for shown in (p["policy"], f"{p['mean_accuracy']:.3f}"):
            assert shown in html
            assert shown in text
    assert "<script" not in html
    assert not re.search(r"(src|href)=", html.replace('xlink:href="#', ""))
    assert json.loads((folder / "page" / "backtest.json").read_text(encoding="utf-8")) == result


def test_no_model_is_left_behind(result: dict[str, Any], folder: Path) -> None:
    assert list((folder / "work").iterdir()) == []
