"""What training minimizes, text by text: cross entropy, and closeness to the champion where the champion is right."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from components.classifier.engine import Engine
from components.config import TrainingSettings

_SOFTENING = 2.0  # temperature of the distillation: what the champion is less sure of counts too


@dataclass(frozen=True)
class Teacher:
    """What the model that the weights come from says of the training rows: [n, classes] logits, [n] 1 where right."""

    logits: Tensor
    right: Tensor

    @classmethod
    def of(cls, engine: Engine, texts: Sequence[str], labels: Tensor) -> "Teacher":
        logits = torch.as_tensor(engine.score(texts, description="distil").logits, device=engine.device)
        return cls(logits, (logits.argmax(dim=1) == labels).float())


@dataclass(frozen=True)
class Objective:
    """The loss of training rows, by their number."""

    labels: Tensor
    teacher: Teacher | None
    class_weights: Tensor
    settings: TrainingSettings

    def __call__(self, logits: Tensor, rows: Sequence[int] | np.ndarray) -> Tensor:
        """The sum over the b `rows` of their loss, for [b, classes] logits.

        The distillation has the weight 0 where the old model is wrong: focal distillation of Yan et al. 2021,
        "Positive-Congruent Training: Towards Regression-Free Model Updates".
        """
        labels = self.labels[rows]
        smoothing = self.settings.label_smoothing
        loss = cross_entropy(logits, labels, label_smoothing=smoothing, reduction="none") * self.class_weights[labels]
        if self.teacher is not None:
            taught = log_softmax(self.teacher.logits[rows] / _SOFTENING, dim=1)
            learnt = log_softmax(logits / _SOFTENING, dim=1)
            divergence = kl_div(learnt, taught, reduction="none", log_target=True).sum(dim=1)
            loss = loss + self.settings.distillation * _SOFTENING**2 * divergence * self.teacher.right[rows]
        return loss.sum()


def class_weights(labels: np.ndarray, classes: int, imbalance: float) -> np.ndarray:
    """[classes] weights with mean 1 over the rows, inversely proportional to each label's count.

    All 1 unless the commonest label has at least `imbalance` times the rows of the rarest (0: always 1): weights make
    the rare label heard, but bias the confidence, so they are not for classes that are nearly in balance.
    """
    counts = np.bincount(labels, minlength=classes).astype(np.float64)
    if not imbalance or counts.max() < imbalance * counts.min():
        return np.ones(classes)
    return len(labels) / (classes * np.maximum(counts, 1))
