"""A bounded, uniform, seeded sample of what batch scoring computed, kept for the drift check."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from components.classifier.engine import Scores

_SEED = 13


class ScoreSample:
    """At most `size` rows, every row seen so far equally likely: those with the smallest of random keys."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._random = np.random.default_rng(_SEED)
        self._keys: NDArray[np.float64] = np.zeros(0)
        self._columns: dict[str, NDArray] = {}
        self._seen = 0

    def add(self, scores: Scores) -> None:
        """The scores of the next rows of the file."""
        n = len(scores.windows)
        rows = np.arange(self._seen, self._seen + n)
        new: dict[str, NDArray] = {"rows": rows, "embeddings": scores.embeddings, "logits": scores.logits}
        keys = np.concatenate([self._keys, self._random.random(n)])
        joined = {k: np.concatenate([self._columns[k], v]) for k, v in new.items()} if self._columns else new
        kept = np.sort(np.argsort(keys, kind="stable")[: self._size])  # in the order of the file
        self._keys = keys[kept]
        self._columns = {name: column[kept] for name, column in joined.items()}
        self._seen += n

    def save(self, path: Path, model_version: str) -> None:
        """As .npz without pickle: `rows` (positions among the scored rows), embeddings, logits, model_version."""
        empty = np.zeros((0, 0), dtype=np.float32)
        columns = self._columns or {"rows": np.zeros(0, dtype=np.int64), "embeddings": empty, "logits": empty}
        np.savez(path, allow_pickle=False, model_version=np.array(model_version), **columns)
