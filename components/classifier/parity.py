"""Are the engine's answers those of transformers? Asked before traffic moves to a model, and by `evaluate --parity`."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from components.classifier.answers import BOUNDS
from components.classifier.engine import Engine


@dataclass(frozen=True)
class Parity:
    """What n texts showed."""

    texts: int
    dtype: str
    bound: float
    largest_difference: float
    """Of any logit."""
    other_labels: int
    """Texts that get another label than from transformers; if it holds, only such as have two labels so near the best
    that rounding swaps them: their logits are within twice the bound."""

    @property
    def holds(self) -> bool:
        return self.largest_difference <= self.bound


def parity(engine: Engine, texts: Sequence[str]) -> Parity:
    """Score the texts, at least one, both ways."""
    logits, expected = engine.score(texts).logits, engine.reference(texts).logits
    dtype = engine.description["dtype"]
    other = logits.argmax(axis=1) != expected.argmax(axis=1)
    return Parity(len(texts), dtype, BOUNDS[dtype], float(np.abs(logits - expected).max()), int(other.sum()))
