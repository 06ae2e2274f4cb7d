"""The answers that a model must give wherever it is served: computed by transformers, in float32, when it was trained.

They are kept in the model folder's description, so that whoever moves traffic to the model can compare, without torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.classifier.calibration import probabilities

# Largest difference of a logit that rounding explains, by number format. Differences that matter are far larger: a
# wrong mask, a missing layer or another activation moves logits by whole units.
BOUNDS = {"float32": 1e-3, "bfloat16": 0.1}
# Ours, not of any user: a case each of praise, blame, negation, a balance, one word, markup, other scripts, and a text
# that takes several windows.
TEXTS = (
    "I love this film.",
    "What an awful place!",
    "This is not a good book.",
    "The food was fine, the service was not.",
    "Fine.",
    "It&#39;s the <br />best phone I know!",
    "Ein schöner Film … 映画 🙂",
    "The story takes its time, and then it takes some more of it. " * 20,
)


@dataclass(frozen=True)
class Answer:
    """The answer to one text."""

    text: str
    label: int
    confidence: float
    """Calibrated probability of the label."""
    margin: float
    """By how much the label's logit is above the next."""


def answers(texts: Sequence[str], logits: NDArray[np.float32], temperature: float) -> list[dict[str, Any]]:
    """As the model folder's description keeps them; `logits` [n, classes], two classes or more."""
    p, best = probabilities(logits, temperature), logits.argmax(axis=1)
    ordered = np.sort(logits, axis=1)
    margins = ordered[:, -1] - ordered[:, -2]
    rows = zip(texts, best, p.max(axis=1), margins, strict=True)
    return [{"text": t, "label": int(b), "confidence": float(c), "margin": float(m)} for t, b, c, m in rows]


@dataclass(frozen=True)
class Expected:
    """What a model's answers are compared with, and how far they may be off."""

    answers: list[Answer]
    logit_bound: float
    confidence_bound: float

    @classmethod
    def of(cls, kept: list[dict[str, Any]], temperature: float, precision: str) -> "Expected":
        """`precision` is the training setting: unless it is float32, the server may compute in bfloat16.

        Logits within b of the reference move a probability by at most b / (2 temperature): the slope of softmax.
        """
        bound = BOUNDS["float32" if precision == "float32" else "bfloat16"]
        return cls([Answer(**answer) for answer in kept], bound, bound / (2 * temperature) + 1e-6)

    def difference(self, text: str, label: int, confidence: float) -> str:
        """What is wrong with an answer to `text`, or empty, as for a text that nothing is known of.

        Another label is right only where the two best are so near that rounding may swap them.
        """
        answer = next((answer for answer in self.answers if answer.text == text), None)
        if answer is None:
            return ""
        if label != answer.label and answer.margin > 2 * self.logit_bound:
            return f"label {label} instead of {answer.label}"
        off = abs(confidence - answer.confidence)
        if off > self.confidence_bound:
            return f"confidence {confidence:.6f} instead of {answer.confidence:.6f} (bound {self.confidence_bound:.6f})"
        return ""
