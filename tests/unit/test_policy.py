"""The retrain policy: every situation and its verdict, and reasons that a stranger can read."""

import dataclasses
import re

import numpy as np
import pytest

from components.config import RetrainSettings
from components.drift.detection import DriftResult
from components.drift.harm import Harm
from components.drift.policy import Seen, Verdict, decide, decide_once, large

SETTINGS = RetrainSettings()
NO_HARM = Harm(
    reference_accuracy=0.86,
    estimated_accuracy=0.86,
    estimated_interval=(0.84, 0.88),
    estimated_loss=0.0,
    estimated_loss_interval=(-0.02, 0.02),
    label_mix={"Negative": (0.5, 0.5), "Positive": (0.5, 0.5)},
    label_mix_shift=0.0,
    label_mix_interval=(0.0, 0.02),
    labelled_rows=0,
    measured_accuracy=None,
    measured_interval=None,
    measured_loss=None,
    measured_loss_interval=None,
)
# An alarm and a large shift, labels enough, nothing in the way.
DUE = Seen(
    texts=2854,
    windows_counted=14,
    rows_waiting=54,
    window_size=200,
    evidence=1.2e9,
    bar=876_000.0,
    p_value=0.001,
    effect_size=0.52,
    effect_interval=(0.45, 0.6),
    harm=NO_HARM,
    labelled_rows=600,
    hours_since_retrain=None,
    retrains_this_week=0,
)


def estimated(loss: float, low: float) -> Harm:
    return dataclasses.replace(
        NO_HARM, estimated_accuracy=0.86 - loss, estimated_loss=loss, estimated_loss_interval=(low, loss + 0.02)
    )


def measured(rows: int, loss: float, low: float) -> Harm:
    return dataclasses.replace(
        NO_HARM, labelled_rows=rows, measured_accuracy=0.86 - loss, measured_interval=(0.5, 0.9), measured_loss=loss,
        measured_loss_interval=(low, loss + 0.1),
    )  # fmt: skip


SITUATIONS = {
    "nothing tested yet": (
        {"windows_counted": 0, "evidence": 1.0, "p_value": None, "harm": None, "rows_waiting": 37},
        "quiet",
        "Nothing is tested yet: 37 texts wait until a window of 200 is full.",
    ),
    "no alarm": (
        {"evidence": 12.3, "p_value": 0.21},
        "quiet",
        "after 14 windows of 200 texts (last window p = 0.21) the evidence for a change is 12, and an alarm takes "
        "876,000. 54 texts wait until a window of 200 is full.",
    ),
    "no alarm, however large the shift": ({"evidence": 875_999.0}, "quiet", "No alarm"),
    "alarm at the bar itself": ({"evidence": 876_000.0}, "retrain", "evidence of 876,000 is past its bar of 876,000"),
    "alarm without harm": (
        {"effect_size": 0.06},
        "warn",
        "No harm is seen: the shift of 0.06 standard deviations is below 0.15 and the estimated accuracy is 0.860",
    ),
    "alarm, and its rows are gone": (
        {"effect_size": 0.0, "harm": None},
        "wait",
        "can no longer be read: the next full",
    ),
    "a large shift is harm": ({}, "retrain", "they have shifted by 0.52 standard deviations (limit 0.15)"),
    "a large shift is harm without an assessment": ({"harm": None}, "retrain", "shifted by 0.52"),
    "the limit itself counts": ({"effect_size": 0.15}, "retrain", "shifted by 0.15"),
    "an estimated loss is harm": (
        {"effect_size": 0.1, "harm": estimated(0.05, 0.03)},
        "retrain",
        "the accuracy, estimated without labels, has fallen from 0.860 to 0.810 (limit of the loss 0.02)",
    ),
    "a small estimated loss is none": ({"effect_size": 0.1, "harm": estimated(0.019, 0.01)}, "warn", "No harm"),
    "an estimated loss that chance explains is none": (
        {"effect_size": 0.1, "harm": estimated(0.05, -0.001)},
        "warn",
        "No harm",
    ),
    "a measured loss is harm": (
        {"effect_size": 0.1, "harm": measured(50, 0.1, 0.01)},
        "retrain",
        "the accuracy on 50 labelled texts is 0.760 instead of 0.860 (limit of the loss 0.02)",
    ),
    "a small measured loss is none": (
        {"effect_size": 0.1, "harm": measured(5000, 0.015, 0.01)},
        "warn",
        "the accuracy on 5,000 labelled texts is 0.845",
    ),
    "a measured loss that chance explains is none": (
        {"effect_size": 0.1, "harm": measured(50, 0.1, -0.01)},
        "warn",
        "No harm",
    ),
    "a loss on too few labels is none": ({"effect_size": 0.1, "harm": measured(49, 0.3, 0.1)}, "warn", "No harm"),
    "two harms": (
        {"harm": estimated(0.05, 0.03)},
        "retrain",
        "(limit 0.15) and the accuracy, estimated without labels, has fallen",
    ),
    "a run under way": (
        {"run_under_way": "check-3", "hours_since_retrain": 1.0},
        "wait",
        "The retrain waits: the run check-3 is still under way.",
    ),
    "cooldown": (
        {"hours_since_retrain": 20.0},
        "wait",
        "the last one was 20 hours ago, so the cooldown lasts 4 hours more.",
    ),
    "cooldown, almost over": ({"hours_since_retrain": 23.5}, "wait", "the cooldown lasts 30 minutes more."),
    "cooldown over": ({"hours_since_retrain": 24.0}, "retrain", "600 labelled texts are there to learn from."),
    "weekly cap": ({"retrains_this_week": 2}, "wait", "2 of at most 2 a week are used up."),
    "too few labels": ({"labelled_rows": 199}, "wait", "only 199 of the 200 labelled texts it needs are there."),
    "labels enough": ({"labelled_rows": 200}, "retrain", "200 labelled texts are there"),
    "several hindrances": (
        {"hours_since_retrain": 2.0, "retrains_this_week": 2, "labelled_rows": 0},
        "wait",
        "22 hours more, 2 of at most 2 a week are used up and only 0 of the 200 labelled texts",
    ),
    "hindrances without harm are no matter": ({"effect_size": 0.0, "labelled_rows": 0}, "warn", "No harm"),
}


@pytest.mark.parametrize("name", SITUATIONS)
def test_situations(name: str) -> None:
    changes, verdict, words = SITUATIONS[name]
    seen = dataclasses.replace(DUE, **changes)
    found = decide(seen, SETTINGS)
    assert found.verdict == verdict
    assert words in found.reason
    assert found == decide(seen, SETTINGS)


@pytest.mark.parametrize("name", SITUATIONS)
def test_a_reason_is_one_or_two_full_sentences(name: str) -> None:
    reason = decide(dataclasses.replace(DUE, **SITUATIONS[name][0]), SETTINGS).reason
    sentences = re.split(r"(?<=[^.\d])\. |(?<=\d)\. (?=[A-Z0-9])", reason)
    assert len(sentences) <= 2
    assert all(sentence[0].isupper() or sentence[0].isdigit() for sentence in sentences)
    assert reason.endswith(".")
    assert "{" not in reason
    assert "None" not in reason


def test_the_settings_decide() -> None:
    settings = RetrainSettings(effect_size=0.6, weekly_cap=5, minimum_labels=900, false_retrain_budget=0.05)
    assert decide(DUE, settings).verdict == "warn"
    assert "at most 5 % of all years" in decide(DUE, settings).reason
    assert decide(dataclasses.replace(DUE, retrains_this_week=4), SETTINGS).verdict == "wait"
    assert decide(dataclasses.replace(DUE, retrains_this_week=4), RetrainSettings(weekly_cap=5)).verdict == "retrain"
    assert decide(DUE, RetrainSettings(minimum_labels=601)).verdict == "wait"


def once(p_value: float, effect_size: float, harm: Harm | None) -> Verdict:
    result = DriftResult(
        n=500, reference_rows=1250, statistic_name="sliced_wasserstein", statistic=3.0, p_value=p_value,
        effect_size=effect_size, effect_interval=(0.0, 1.0), head_shift=0.0, level=0.01, drifted=p_value <= 0.01,
        nearest_source="movies", by_source=[], slice_distances=[], calibration="permutation", permutations=999, seed=13,
    )  # fmt: skip
    return decide_once(result, harm, SETTINGS)


@pytest.mark.parametrize(
    ("p_value", "effect", "harm", "verdict", "words"),
    [
        (0.2, 0.5, None, "quiet", "The 500 texts are like those the model was trained on (p = 0.2, level 0.01)."),
        (0.01, 0.5, None, "warn", "(p = 0.01, level 0.01); they have shifted by 0.50 standard deviations"),
        (0.001, 0.05, NO_HARM, "warn", "no harm is seen: the shift of 0.05 standard deviations is below 0.15"),
        (0.001, 0.05, estimated(0.1, 0.05), "warn", "has fallen from 0.860 to 0.760"),
    ],
)
def test_one_comparison_never_asks_for_a_retrain(
    p_value: float, effect: float, harm: Harm | None, verdict: str, words: str
) -> None:
    found = once(p_value, effect, harm)
    assert found.verdict == verdict
    assert words in found.reason


def test_large_numbers_are_for_a_reader() -> None:
    numbers = [0.0, 0.316, 9.96, 12.3, 876_000.0, 3.14e12, 2e300]
    assert [large(n) for n in numbers] == ["0", "0.32", "10", "12", "876,000", "3.1 × 10¹²", "2.0 × 10³⁰⁰"]
    assert large(float(np.float64(1e7))) == "1.0 × 10⁷"
