"""The parts of an evaluation: slices, intervals, behavioural tests."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest

from components.classifier.calibration import expected_calibration_error
from components.classifier.labels import LabelSet
from components.evaluation.behaviour import behaviours, with_typo
from components.evaluation.bootstrap import intervals
from components.evaluation.metrics import measure
from components.evaluation.record import without_texts
from components.evaluation.slices import slices

LABELS = LabelSet(["Negative", "Positive"])


def test_slices_count_what_each_and_only_one_got_right() -> None:
    rows = pd.DataFrame({"text": ["a" * n for n in (1, 2, 3, 4, 5, 60)], "label": [0, 1, 0, 1, 0, 1],
                         "source": ["x", "x", "x", "y", "y", "y"]})  # fmt: skip
    right = {"challenger": np.array([1, 1, 0, 1, 0, 1], bool), "champion": np.array([1, 0, 1, 1, 0, 0], bool)}
    found = slices(rows, right, np.array([0.6, 0.8, 0.95, 0.6, 0.8, 0.95]), LABELS)
    whole = {s["source"]: s for s in found if s["by"] == "source"}
    assert whole["x"] == {
        "source": "x", "by": "source", "name": "all", "rows": 3, "challenger_right": 2, "champion_right": 2,
        "only_challenger_right": 1, "only_champion_right": 1,
    }  # fmt: skip
    assert sum(s["rows"] for s in found if s["by"] == "length") == 6
    assert sum(s["rows"] for s in found if s["by"] == "confidence") == 6
    positive = [s for s in found if (s["by"], s["name"]) == ("label", "Positive")]
    assert [s["rows"] for s in positive] == [1, 2]
    assert sum(s["only_challenger_right"] for s in positive) == 2


def test_intervals_hold_the_value_and_shrink_with_the_rows() -> None:
    generator = np.random.default_rng(3)

    def found(n: int) -> tuple[dict, dict]:
        p = generator.beta(2, 1, size=n)
        labels = (generator.random(n) < p).astype(int)
        probabilities = np.column_stack([1 - p, p])
        return intervals(probabilities, labels), measure(probabilities, labels, LABELS)

    small, large = found(200), found(5000)
    for low_high, value in (small, large):
        for name in ("accuracy", "macro_f1"):
            assert low_high[name][0] < value[name] < low_high[name][1]
    width = [np.ptp(low_high["accuracy"]) for low_high, _ in (small, large)]
    assert width[0] / width[1] == pytest.approx(5, rel=0.3)
    # The normal approximation: 1.96 standard errors to each side.
    accuracy = large[1]["accuracy"]
    assert width[1] == pytest.approx(2 * 1.96 * np.sqrt(accuracy * (1 - accuracy) / 5000), rel=0.15)


def test_a_resampled_calibration_error_is_the_plain_one_of_the_same_rows() -> None:
    from components.evaluation.bootstrap import _ece

    generator = np.random.default_rng(4)
    confidence, correct = generator.uniform(0.5, 1, 50), generator.random(50) < 0.8
    times = generator.multinomial(50, np.full(50, 0.02)).astype(float)
    drawn = np.repeat(np.arange(50), times.astype(int))
    expected = expected_calibration_error(confidence[drawn], correct[drawn])
    assert _ece(times[None], confidence, correct)[0] == pytest.approx(expected)


def word_list(texts: Sequence[str]) -> list[int]:
    """A classifier that knows a few words, and neither negation nor capital letters."""
    good = ("love", "wonderful", "excellent", "best", "great", "brilliant", "good", "like", "worth", "recommend")
    return [int(any(word in text for word in good)) for text in texts]


def test_a_word_list_fails_negation_and_case_and_says_where() -> None:
    found = {b.kind: b for b in behaviours(word_list, LABELS, ["An excellent story", "Nothing here", "So so"])}
    assert found["minimum functionality"].pass_rate == 1
    assert found["negation"].pass_rate < 0.3
    assert "I do not like this film. (expected Negative, not Positive)" in found["negation"].failures
    assert found["names"].pass_rate == 1
    assert (found["typos"].passed, found["typos"].tests) == (1, 2)
    assert found["case"].failures == ["AN EXCELLENT STORY (Negative; as “An excellent story” it was Positive)"]


def test_other_labels_are_not_tested() -> None:
    assert behaviours(word_list, LabelSet(["spam", "ham"]), ["x"]) == []


def test_a_typo_swaps_two_letters_of_the_longest_word() -> None:
    assert with_typo("An excellent day") == "An exclelent day"
    assert with_typo("so so") == "so so"
    assert with_typo("") == ""


def test_a_record_keeps_no_text() -> None:
    evaluation = {
        "challenger": {"ece": 0.1, "behaviours": [{"kind": "names", "pass_rate": 1.0, "failures": ["secret"]}]},
        "champion": None, "worst_errors": [{"text": "secret"}], "slices": [],
    }  # fmt: skip
    assert "secret" not in str(without_texts(evaluation))
    assert without_texts(evaluation)["challenger"]["behaviours"] == [{"kind": "names", "pass_rate": 1.0}]
