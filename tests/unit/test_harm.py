"""Harm: intervals against published figures, the label-free estimate by hand, its interval by simulation."""

import dataclasses

import numpy as np
import pytest
from scipy.stats import binomtest

from components.classifier.labels import LabelSet
from components.config import DriftSettings
from components.drift import reference as drift_reference
from components.drift.harm import Estimate, Harm, Predictions, assess, estimated_accuracy, newcombe, wilson
from components.drift.reference import DriftReference, HeldOut
from components.errors import DataError

TWO = LabelSet(["Negative", "Positive"])


def reference_of(logits: np.ndarray, labels: np.ndarray) -> DriftReference:
    """A reference whose rows have these logits [R, k] and true labels [R]; the embeddings do not matter here."""
    generator = np.random.default_rng(1)
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    rows = len(logits)
    held_out = HeldOut(
        embeddings=generator.normal(size=(rows, 4)),
        logits=logits,
        sources=["movies"] * rows,
        ids=[str(i) for i in range(rows)],
        confidence=p.max(axis=1),
        correct=p.argmax(axis=1) == labels,
    )
    return drift_reference.fit(generator.normal(size=(50, 4)), held_out, "abc", DriftSettings(components=2))


@pytest.fixture(scope="module")
def reference() -> DriftReference:
    """200 rows, half of them predicted positive, 160 right: the 40 least confident are wrong."""
    margins = np.concatenate([np.linspace(0.1, 4, 100), -np.linspace(0.1, 4, 100)])
    wrong = np.abs(margins) < np.sort(np.abs(margins))[40]
    labels = np.where(wrong, margins < 0, margins > 0).astype(int)
    return reference_of(np.column_stack([np.zeros(200), margins]), labels)


def probabilities(positive: list[float]) -> np.ndarray:
    return np.column_stack([1 - np.array(positive), positive])


def one_label(confidence: np.ndarray, correct: np.ndarray, current: np.ndarray) -> Estimate:
    """The estimate where every row has the same prediction."""
    known, now = (Predictions(np.zeros(len(c), int), c) for c in (confidence, current))
    return estimated_accuracy(known, correct, now)


def test_intervals_equal_published_figures() -> None:
    exact = binomtest(45, 60).proportion_ci(method="wilson")
    assert wilson(45, 60) == pytest.approx((exact.low, exact.high))
    assert wilson(0, 8)[0] == 0.0
    assert wilson(8, 8)[1] == 1.0
    # Newcombe 1998, table II, method 10: examples (a) and (h).
    assert newcombe((56, 70), (48, 80)) == pytest.approx((0.0524, 0.3339), abs=5e-5)
    assert newcombe((10, 10), (0, 10)) == pytest.approx((0.6075, 1.0), abs=5e-5)


def test_the_threshold_leaves_as_many_reference_rows_below_as_are_wrong() -> None:
    confidence, correct = np.array([0.9, 0.5, 0.7, 0.6, 0.8]), np.array([True, True, False, True, True])
    assert one_label(confidence, correct, np.array([0.55, 0.6, 0.95, 0.3])).accuracy == 0.5  # threshold 0.6
    assert one_label(confidence, ~correct, np.array([0.9, 0.95, 0.3, 0.89])).accuracy == 0.5  # threshold 0.9
    assert one_label(confidence, np.ones(5, bool), np.array([0.5, 0.9])).accuracy == 1.0
    assert one_label(confidence, np.zeros(5, bool), np.array([0.5, 1.0])).accuracy == 0.0


def test_the_reference_itself_has_its_own_accuracy() -> None:
    generator = np.random.default_rng(2)
    confidence = generator.uniform(0.5, 1, 500)
    correct = generator.uniform(size=500) < confidence
    found = one_label(confidence, correct, confidence)
    assert found.accuracy == pytest.approx(correct.mean())
    assert found.interval[0] < found.accuracy < found.interval[1]
    assert found.loss_interval[0] < 0 < found.loss_interval[1]
    assert found == one_label(confidence, correct, confidence)


def test_the_interval_covers_the_truth_and_carries_the_errors_of_both_samples() -> None:
    """Reference and current rows of one population: the interval holds its accuracy in about 95 % of the worlds."""
    generator = np.random.default_rng(3)
    covered = 0
    for _ in range(50):
        confidence = generator.uniform(0.5, 1, 300)
        correct = generator.uniform(size=300) < confidence
        low, high = one_label(confidence, correct, generator.uniform(0.5, 1, 100)).interval
        covered += low <= 0.75 <= high
    assert covered >= 43  # P(fewer | 0.95) is 0.003

    def width(rows: int, current: int) -> float:
        confidence = generator.uniform(0.5, 1, rows)
        correct = generator.uniform(size=rows) < confidence
        low, high = one_label(confidence, correct, generator.uniform(0.5, 1, current)).interval
        return high - low

    assert width(20_000, 20_000) < width(20_000, 100)
    assert width(20_000, 20_000) < width(100, 20_000)


def test_each_predicted_label_has_its_own_threshold() -> None:
    """Label 0 is wrong once in four (threshold .6), label 1 never (its least confidence, .7); 2 was never predicted."""
    held_out = Predictions(np.array([0, 0, 0, 0, 1, 1]), np.array([0.5, 0.6, 0.8, 0.9, 0.7, 0.75]))
    correct = np.array([True, False, True, True, True, True])
    current = Predictions(np.array([0, 0, 1, 1, 2, 2]), np.array([0.59, 0.6, 0.69, 0.7, 0.59, 0.6]))
    assert estimated_accuracy(held_out, correct, current).accuracy == 0.5


def test_texts_that_the_model_finds_hard_lose_accuracy(reference: DriftReference) -> None:
    easy, hard = probabilities([0.98, 0.02] * 60), probabilities([0.52, 0.48] * 60)
    none_known = np.full(120, -1)
    harm = assess(reference, TWO, hard, none_known)
    assert harm.reference_accuracy == pytest.approx(0.8)
    assert harm.estimated_accuracy == 0.0
    assert harm.estimated_loss == pytest.approx(0.8)
    assert harm.estimated_loss_interval[0] > 0.7
    assert assess(reference, TWO, easy, none_known).estimated_loss == pytest.approx(-0.2)
    assert harm.measured_accuracy is harm.measured_interval is harm.measured_loss is harm.measured_loss_interval is None


def test_label_mix_and_its_interval(reference: DriftReference) -> None:
    harm = assess(reference, TWO, probabilities([0.9] * 70 + [0.1] * 30), np.full(100, -1))
    assert harm.label_mix == {"Negative": (0.5, 0.3), "Positive": (0.5, 0.7)}
    assert harm.label_mix_shift == pytest.approx(0.2)
    assert harm.label_mix_interval == pytest.approx(newcombe((70, 100), (100, 200)))
    same = assess(reference, TWO, probabilities([0.9] * 51 + [0.1] * 49), np.full(100, -1))
    assert same.label_mix_interval[0] == 0.0


def test_accuracy_from_labels(reference: DriftReference) -> None:
    known = np.array([1] * 30 + [0] * 30 + [-1] * 40)
    harm = assess(reference, TWO, probabilities([0.9] * 100), known)
    assert harm.labelled_rows == 60
    assert harm.measured_accuracy == 0.5
    assert harm.measured_interval == wilson(30, 60)
    assert harm.measured_loss == pytest.approx(0.3)
    assert harm.measured_loss_interval == newcombe((160, 200), (30, 60))


def test_more_than_two_classes() -> None:
    logits = np.tile(np.eye(3) * 3, (40, 1))
    three = reference_of(logits, logits.argmax(axis=1))
    p = np.array([[0.8, 0.1, 0.1]] * 60 + [[0.1, 0.8, 0.1]] * 30)
    harm = assess(three, LabelSet(["bad", "fine", "good"]), p, np.full(90, -1))
    third = pytest.approx(1 / 3)
    assert harm.label_mix == {"bad": (third, pytest.approx(2 / 3)), "fine": (third, third), "good": (third, 0.0)}
    assert harm.label_mix_shift == pytest.approx(1 / 3)


def test_harm_is_plain_json_values(reference: DriftReference) -> None:
    harm = assess(reference, TWO, probabilities([0.9] * 5), np.array([1, 0, -1, 1, 1]))

    def plain(value: object) -> bool:
        parts = value.values() if isinstance(value, dict) else value if isinstance(value, tuple | list) else ()
        return all(map(plain, parts)) if parts else type(value) in (int, float, str)

    assert all(plain(getattr(harm, f.name)) for f in dataclasses.fields(Harm))


@pytest.mark.parametrize(
    ("p", "known", "said"),
    [
        (np.ones((4, 3)), np.full(4, -1), r"each of the 2 labels.*shapes \(4, 3\) and \(4,\)"),
        (np.ones((4, 2)), np.full(3, -1), r"shapes \(4, 2\) and \(3,\)"),
        (np.ones((0, 2)), np.full(0, -1), "at least one row"),
    ],
)
def test_bad_input_is_said(reference: DriftReference, p: np.ndarray, known: np.ndarray, said: str) -> None:
    with pytest.raises(DataError, match=said):
        assess(reference, TWO, p, known)
