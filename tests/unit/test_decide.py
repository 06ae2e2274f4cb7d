"""Promotion needs proof; the numbers are worked out by hand."""

from typing import Any

import numpy as np
import pytest
from scipy.stats import binom

from components.config import PromotionSettings
from components.evaluation.decide import decide

SETTINGS = PromotionSettings()
ECE = {"ece": 0.03, "behaviours": []}


def part(source: str, rows: int, won: int, lost: int, by: str = "source", name: str = "all") -> dict[str, Any]:
    return {
        "source": source, "by": by, "name": name, "rows": rows,
        "only_challenger_right": won, "only_champion_right": lost,
    }  # fmt: skip


def evaluation(*parts: dict[str, Any], challenger: Any = ECE, champion: Any = ECE) -> dict[str, Any]:
    return {"champion": champion, "challenger": challenger, "slices": list(parts)}


def test_a_better_challenger_is_promoted() -> None:
    decision = decide(evaluation(part("old", 1500, 10, 12), part("new", 200, 40, 10)), SETTINGS, ["new"])
    assert decision.promoted
    assert "better: +0.150" in decision.reason
    assert "golden set (1500 rows)" in decision.reason


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        ((10, 10), (10, 40), "not provably better"),
        ((10, 10), (20, 20), "not provably better"),
        ((10, 10), (6, 3), "not provably better"),
        ((5, 40), (60, 10), "not provably within the margin"),
    ],
)
def test_a_worse_equal_lucky_or_forgetful_one_is_not(old: tuple[int, int], new: tuple[int, int], word: str) -> None:
    decision = decide(evaluation(part("old", 1500, *old), part("new", 200, *new)), SETTINGS, ["new"])
    assert decision.verdict == "keep"
    assert word in decision.reason


def test_equal_challengers_are_promoted_no_oftener_than_the_level() -> None:
    """1,000 draws of challengers that err as often as the champion: exact, so at most 5 %, by chance a little more."""
    generator = np.random.default_rng(2)
    draws = generator.multinomial(400, [0.1, 0.1, 0.8], size=1000)
    promoted = sum(
        decide(evaluation(part("old", 2000, 0, 0), part("new", 400, int(won), int(lost))), SETTINGS, ["new"]).promoted
        for won, lost, _ in draws
    )
    assert 0 < promoted <= binom.ppf(0.999, 1000, SETTINGS.level)


@pytest.mark.parametrize("holds", [True, False])
def test_a_model_whose_served_answers_are_not_those_of_transformers_is_kept_back(holds: bool) -> None:
    parity = {"texts": 200, "dtype": "bfloat16", "bound": 0.1, "largest_difference": 3.2, "other_labels": 90}
    better = evaluation(part("old", 1500, 10, 12), part("new", 200, 40, 10)) | {"parity": parity | {"holds": holds}}
    decision = decide(better, SETTINGS, ["new"])
    assert decision.promoted == holds
    assert ("3.2, not within the bound of 0.1" in decision.reason) == (not holds)


def test_a_small_slice_vetoes_on_proof_alone_and_a_large_one_must_show_it() -> None:
    new, golden = part("new", 200, 60, 10), part("old", 3000, 30, 30)

    def promoted(rows: int, won: int, lost: int) -> bool:
        small = part("old", rows, won, lost, "length", "short")
        return decide(evaluation(new, golden, small), SETTINGS, ["new"]).promoted

    assert promoted(40, 1, 4)  # a tenth worse, by chance: p = 0.19
    assert not promoted(40, 0, 8)  # p = 0.004
    assert promoted(600, 10, 15)
    assert not promoted(600, 10, 45)


def test_small_slices_share_the_level_at_which_they_veto() -> None:
    new, golden = part("new", 200, 60, 10), part("old", 3000, 30, 30)
    one = part("old", 40, 0, 5, "length", "short")  # p = 0.031
    others = [part("old", 40, 1, 1, "label", name) for name in ("Negative", "Positive")]
    assert not decide(evaluation(new, golden, one), SETTINGS, ["new"]).promoted
    assert decide(evaluation(new, golden, one, *others), SETTINGS, ["new"]).promoted


def test_slices_of_several_old_sources_are_added_up_and_each_source_is_one() -> None:
    parts = [part(s, 2000, 5, 5) for s in ("a", "b")] + [part(s, 500, 5, 6, "label", "Positive") for s in ("a", "b")]
    conditions = decide(evaluation(part("new", 200, 60, 10), *parts), SETTINGS, ["new"]).conditions
    names = [c["condition"] for c in conditions if c["condition"].startswith("not worse on")]
    assert names == [
        "not worse on the golden set", "not worse on source a", "not worse on source b", "not worse on label Positive",
    ]  # fmt: skip
    assert "(1000 rows)" in next(c["finding"] for c in conditions if c["condition"].endswith("label Positive"))


def test_worse_calibration_and_worse_behaviour_are_refused() -> None:
    parts = (part("old", 2000, 0, 0), part("new", 200, 60, 10))
    worse = decide(evaluation(*parts, challenger={"ece": 0.09, "behaviours": []}), SETTINGS, ["new"])
    assert "calibration error is 0.090" in worse.reason
    good, bad = ([{"kind": "negation", "tests": 25, "pass_rate": rate}] for rate in (0.9, 0.6))
    worse = decide(
        evaluation(*parts, challenger=ECE | {"behaviours": bad}, champion=ECE | {"behaviours": good}), SETTINGS, ["new"]
    )
    assert not worse.promoted
    assert "60% of the 25 tests of negation, less than the 80%" in worse.reason


@pytest.mark.parametrize(("accuracy", "promoted"), [(0.8, True), (0.51, False)])
def test_the_first_champion_must_beat_the_commonest_label(accuracy: float, promoted: bool) -> None:
    first = {"champion": None, "challenger": {"rows": 200, "accuracy": accuracy}, "majority_share": 0.5, "slices": []}
    assert decide(first, SETTINGS, []).promoted is promoted
