"""What training minimizes, by hand, and the order in which the rows come."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from components.classifier.calibration import threshold_for
from components.classifier.classifier import Classifier
from components.classifier.engine import Scores
from components.config import TrainingSettings
from components.training.batches import epoch_batches, micro_batches
from components.training.objective import Objective, Teacher, class_weights

LOGITS = torch.tensor([[2.0, 0.0], [0.5, 1.0], [1.0, 3.0]])
LABELS = torch.tensor([0, 1, 1])
EVEN = torch.ones(2)


def objective(teacher: Teacher | None = None, weights: Tensor = EVEN, **settings: float) -> float:
    return float(Objective(LABELS, teacher, weights, TrainingSettings(**settings))(LOGITS, np.arange(3)))


def test_without_a_teacher_it_is_cross_entropy() -> None:
    assert objective() == pytest.approx(float(cross_entropy(LOGITS, LABELS, reduction="sum")))
    smoothed = float(cross_entropy(LOGITS, LABELS, reduction="sum", label_smoothing=0.1))
    assert objective(label_smoothing=0.1) == pytest.approx(smoothed)


def test_agreeing_with_the_teacher_costs_nothing_and_its_mistakes_do_not_count() -> None:
    assert objective(Teacher(LOGITS.clone(), torch.ones(3)), distillation=5.0) == pytest.approx(objective(), abs=1e-5)
    assert objective(Teacher(-LOGITS, torch.zeros(3)), distillation=5.0) == pytest.approx(objective())


def test_divergence_by_hand() -> None:
    """Teacher even, pupil at odds e to 1 after softening by 2: the divergence is log((1 + e) / 2) - 1 / 2, times 4."""
    teacher = Teacher(torch.tensor([[0.0, 0.0], [9.0, 9.0], [9.0, 9.0]]), torch.tensor([1.0, 0.0, 0.0]))
    expected = 0.5 * 4 * (np.log((1 + np.e) / 2) - 0.5)
    assert objective(teacher, distillation=0.5) - objective() == pytest.approx(expected, rel=1e-4)


def test_class_weights_are_for_labels_out_of_balance_and_keep_the_mean_loss() -> None:
    labels = np.array([0] * 90 + [1] * 10)
    assert class_weights(labels, 2, 0.0).tolist() == [1, 1]
    assert class_weights(labels, 2, 20.0).tolist() == [1, 1]
    weights = class_weights(labels, 2, 3.0)
    assert weights[1] / weights[0] == pytest.approx(9)
    assert weights[labels].mean() == pytest.approx(1)


def test_every_row_comes_once_an_epoch() -> None:
    lengths = [3, 60, 7, 7, 21, 3, 44, 5]
    batches = epoch_batches(lengths, 3, np.random.default_rng(1))
    assert sorted(np.concatenate(batches).tolist()) == list(range(8))
    assert max(len(batch) for batch in batches) == 3


def test_parts_of_a_batch_keep_to_the_token_budget() -> None:
    lengths = [10, 10, 10, 50, 20, 5]
    parts = list(micro_batches(np.array([0, 1, 2, 3, 4, 5]), lengths, 30))
    assert sorted(np.concatenate(parts).tolist()) == [0, 1, 2, 3, 4, 5]
    for part in parts:
        assert len(part) == 1 or len(part) * max(lengths[i] for i in part) <= 30
    assert [3] in [part.tolist() for part in parts]


def test_the_abstain_threshold_keeps_the_promised_error_rate() -> None:
    """Calibrated confidence c is wrong with chance 1 - c: above t = 0.9 the mean error is 0.05."""
    generator = np.random.default_rng(5)
    confidence = generator.uniform(0.5, 1, 20_000)
    correct = generator.random(20_000) < confidence
    threshold = threshold_for(confidence, correct, 0.05)
    assert threshold == pytest.approx(0.9, abs=0.02)
    assert np.mean(~correct[confidence >= threshold]) <= 0.05
    assert threshold_for(confidence[:20], np.zeros(20, bool), 0.05) == 1.0
    assert threshold_for(np.full(500, 0.8), np.ones(500, bool), 0.05) == 0.8


def test_the_threshold_is_compared_with_the_confidence_as_it_is(tiny_model: Path) -> None:
    """Not with the six digits that are shown; and at 1, where nothing was promised, nothing is answered."""
    classifier = Classifier.load(tiny_model)
    logits = np.array([[12.0, -12.0], [0.4, 0.1], [0.1, 0.4]], dtype=np.float32)
    scores = Scores(logits, np.zeros((3, 4), dtype=np.float32), np.ones(3, dtype=np.int64))
    sure, least, _ = classifier.probabilities(scores).max(axis=1)
    shown = round(float(least), 6)
    for threshold, abstained in ((1.0, [True] * 3), (float(least), [False] * 3), (float(sure), [False, True, True])):
        classifier.description = replace(classifier.description, abstain_threshold=threshold)
        found = classifier.predictions(scores)
        assert [p.abstained for p in found] == abstained
        assert found[1].confidence_score == shown
