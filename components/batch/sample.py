"""What batch scoring keeps of its forward pass for the drift check: a bounded, uniform, seeded sample of the rows.

    ledger/embeddings/<model version>/<name of the object>/<entity tag>.npz

A kept file is written once and never changed, so that a decision can be recomputed from it later. When a lifecycle
rule removes it, the decisions that came from it can no longer be recomputed, and its object, if it is still there, is
scored again.
"""

import hashlib
import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from components.classifier.engine import Scores
from components.errors import ConflictError, DataError
from components.storage import ObjectStore

PREFIX = "ledger/embeddings"
_SEED = 13
_DIGEST_BYTES = 8


@dataclass(frozen=True)
class Kept:
    """n rows of one scored object, in its order."""

    rows: NDArray[np.int64]
    """[n] their numbers among the scored rows."""
    embeddings: NDArray[np.float32]
    """[n, hidden]"""
    logits: NDArray[np.float32]
    """[n, classes]"""
    digests: NDArray[np.bytes_]
    """[n] digest of the texts of all scored rows up to and with this one."""

    def between(self, first: int, end: int) -> "Kept":
        """Those with `first` <= number < `end`."""
        low, high = np.searchsorted(self.rows, [first, end])
        return Kept(self.rows[low:high], self.embeddings[low:high], self.logits[low:high], self.digests[low:high])


def key_of(model_version: str, name: str, etag: str) -> str:
    """Key of what was kept of the object incoming/<name> with that entity tag."""
    return f"{PREFIX}/{model_version}/{name}/{etag}.npz"


def load(store: ObjectStore, key: str) -> Kept | None:
    """None if there is no such object. Raises DataError if it is damaged."""
    found = store.get(key)
    if found is None:
        return None
    try:
        with np.load(io.BytesIO(found[0]), allow_pickle=False) as arrays:
            return Kept(**{name: arrays[name] for name in ("rows", "embeddings", "logits", "digests")})
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{store.uri(key)} is damaged; delete it, and the object is scored again") from error


def extended(digest: str, text: str) -> str:
    """The digest of a series of texts that has `digest`, with one text more; of no texts it is empty."""
    return hashlib.blake2b((digest + text).encode(), digest_size=_DIGEST_BYTES).hexdigest()


class Draw:
    """Which rows are kept: at most `size`, those with the smallest of random keys, one a row.

    Keys depend on a row's number alone. So the sample of a file that has grown holds the same of the old rows, less
    those that had to make room; and a run that goes on where another died draws alike.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._random = np.random.default_rng(_SEED)
        self._smallest: NDArray[np.float64] = np.zeros(0)
        self._seen = 0
        self._digest = ""

    def next(self, texts: Sequence[str]) -> "Drawn":
        """Which of the file's next rows are kept, unless later ones push them out."""
        keys = self._random.random(len(texts))
        self._smallest = np.sort(np.concatenate([self._smallest, keys]))[: self._size]
        full = len(self._smallest) == self._size
        limit = np.inf if not full else self._smallest[-1] if self._size else -1
        places = np.flatnonzero(keys <= limit)
        digests = np.array([self._digest_with(text) for text in texts], dtype=f"S{2 * _DIGEST_BYTES}")
        rows = self._seen + places
        self._seen += len(texts)
        return Drawn(places, keys[places], rows, digests[places])

    def _digest_with(self, text: str) -> str:
        self._digest = extended(self._digest, text)
        return self._digest


@dataclass(frozen=True)
class Drawn:
    """The drawn ones of a chunk of rows: their places in it, and what is known of them before they are scored."""

    places: NDArray[np.int64]
    keys: NDArray[np.float64]
    rows: NDArray[np.int64]
    digests: NDArray[np.bytes_]

    def columns(self, scores: Scores) -> dict[str, NDArray]:
        """With what the model made of them; `scores` are the chunk's."""
        of_scores = {"embeddings": scores.embeddings[self.places], "logits": scores.logits[self.places]}
        return {"keys": self.keys, "rows": self.rows, "digests": self.digests, **of_scores}


class Sample:
    """Gathers what the chunks of a file drew, in their order."""

    def __init__(self, size: int) -> None:
        self._size = size
        self.columns: dict[str, NDArray] = {}
        """What `Drawn.columns` has, of the rows kept so far; empty without one."""

    def add(self, columns: dict[str, NDArray]) -> None:
        """What `Drawn.columns` gave for the next chunk; empty for a chunk without a row."""
        if not columns:
            return
        joined = {k: np.concatenate([self.columns[k], v]) for k, v in columns.items()} if self.columns else columns
        kept = np.sort(np.argsort(joined["keys"], kind="stable")[: self._size])  # in the order of the file
        self.columns = {name: column[kept] for name, column in joined.items()}

    def save(self, store: ObjectStore, key: str) -> None:
        """As .npz without pickle. What another scorer of the same object has kept already stays as it is."""
        empty = np.zeros((0, 0), dtype=np.float32)
        none = {"rows": np.zeros(0, dtype=np.int64), "digests": np.zeros(0, dtype="S1")}
        columns = self.columns or {"embeddings": empty, "logits": empty, **none}
        file = io.BytesIO()
        kept = {name: columns[name] for name in ("rows", "embeddings", "logits", "digests")}
        np.savez(file, allow_pickle=False, **kept)
        try:
            store.put(key, file.getvalue(), only_if_new=True)
        except ConflictError:
            return
