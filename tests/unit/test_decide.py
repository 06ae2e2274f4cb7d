"""Promotion needs proof; the numbers are worked out by hand."""

from typing import Any

import pytest

from components.config import PromotionSettings
from components.evaluation.decide import decide, mcnemar

SETTINGS = PromotionSettings()


def source(name: str, rows: int, won: int, lost: int) -> dict[str, Any]:
    return {
        "source": name, "rows": rows, "only_challenger_right": won, "only_champion_right": lost,
        "champion_accuracy": 0.8, "challenger_accuracy": 0.8 + (won - lost) / rows,
    }  # fmt: skip


def evaluation(*sources: dict[str, Any]) -> dict[str, Any]:
    return {"champion": {}, "challenger": {}, "sources": list(sources)}


def test_mcnemar_by_hand() -> None:
    assert mcnemar(5, 0) == pytest.approx(1 / 32)
    assert mcnemar(3, 1) == pytest.approx(5 / 16)
    assert mcnemar(0, 0) == 1.0


def test_a_better_challenger_is_promoted() -> None:
    assert decide(evaluation(source("old", 500, 10, 12), source("new", 200, 40, 10)), SETTINGS, ["new"]).promoted


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        ((10, 10), (10, 40), "not provably better"),
        ((10, 10), (20, 20), "not provably better"),
        ((10, 10), (6, 3), "not provably better"),
        ((5, 30), (60, 10), "beyond the margin"),
    ],
)
def test_a_worse_equal_lucky_or_forgetful_one_is_not(old: tuple[int, int], new: tuple[int, int], word: str) -> None:
    decision = decide(evaluation(source("old", 500, *old), source("new", 200, *new)), SETTINGS, ["new"])
    assert decision.verdict == "keep"
    assert word in decision.reason


def test_a_small_old_domain_cannot_veto() -> None:
    assert decide(evaluation(source("old", 50, 0, 10), source("new", 200, 60, 10)), SETTINGS, ["new"]).promoted


@pytest.mark.parametrize(("accuracy", "promoted"), [(0.8, True), (0.51, False)])
def test_the_first_champion_must_beat_the_commonest_label(accuracy: float, promoted: bool) -> None:
    first = {"champion": None, "challenger": {"rows": 200, "accuracy": accuracy}, "majority_share": 0.5, "sources": []}
    assert decide(first, SETTINGS, []).promoted is promoted
