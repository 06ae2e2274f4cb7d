"""The objective of training by hand, and the order in which the rows come."""

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from components.training.batches import epoch_batches
from components.training.fit import Teacher, objective

LOGITS = torch.tensor([[2.0, 0.0], [0.5, 1.0], [1.0, 3.0]])
LABELS = torch.tensor([0, 1, 1])


def test_without_a_teacher_it_is_cross_entropy() -> None:
    loss = objective(LOGITS, LABELS, None, np.arange(3), 1.0)
    assert float(loss) == pytest.approx(float(cross_entropy(LOGITS, LABELS)))


def test_agreeing_with_the_teacher_costs_nothing_and_its_mistakes_do_not_count() -> None:
    plain = float(cross_entropy(LOGITS, LABELS))
    same = Teacher(LOGITS.clone(), torch.ones(3))
    assert float(objective(LOGITS, LABELS, same, np.arange(3), 5.0)) == pytest.approx(plain, abs=1e-6)
    wrong = Teacher(-LOGITS, torch.zeros(3))
    assert float(objective(LOGITS, LABELS, wrong, np.arange(3), 5.0)) == pytest.approx(plain)


def test_divergence_by_hand() -> None:
    """Teacher even, pupil at odds e to 1 after softening by 2: the divergence is log((1 + e) / 2) - 1 / 2, times 4."""
    teacher = Teacher(torch.tensor([[9.0, 9.0], [0.0, 0.0]]), torch.tensor([0.0, 1.0]))
    logits = torch.tensor([[2.0, 0.0]])
    label = torch.tensor([0])
    expected = float(cross_entropy(logits, label)) + 0.5 * 4 * (np.log((1 + np.e) / 2) - 0.5)
    assert float(objective(logits, label, teacher, np.array([1]), 0.5)) == pytest.approx(expected, rel=1e-5)


def test_every_row_comes_once_an_epoch() -> None:
    lengths = [3, 60, 7, 7, 21, 3, 44, 5]
    batches = list(epoch_batches(lengths, 3, np.random.default_rng(1)))
    assert sorted(np.concatenate(batches).tolist()) == list(range(8))
    assert max(len(batch) for batch in batches) == 3
