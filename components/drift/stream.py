"""The stream of incoming texts, cut into disjoint windows: rows of files by object key, then of requests by time.

Of an object with more rows than batch scoring keeps, all the kept ones are used; of requests, what the payload log has
of those that this model version answered.
"""

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from components import logs, payload
from components.batch import sample
from components.batch.prefix import require_reachable
from components.batch.sample import Kept
from components.batch.score import score_object
from components.batch.tables import kind_of
from components.batch.versions import INCOMING
from components.classifier.classifier import Classifier
from components.config import BatchSettings
from components.drift import request_rows
from components.drift.state import Mark, Part
from components.errors import ConflictError, DataError, StorageError
from components.progress import progress
from components.storage import ObjectStore, StoredObject

Parts = tuple[Part, ...]


@dataclass(frozen=True)
class Waiting:
    """The kept rows of an object that are not counted yet: their numbers, and the digest of all texts up to each."""

    key: str
    etag: str
    rows: NDArray[np.int64]
    digests: NDArray[np.bytes_]

    def part(self, start: int, end: int) -> Part:
        """The waiting rows from the `start`th to before the `end`th."""
        numbers = self.rows[start:end]
        digest = self.digests[end - 1].decode()
        return Part(self.key, self.etag, int(numbers[0]), int(numbers[-1]) + 1, digest, end == len(self.rows))


@dataclass(frozen=True)
class Incoming:
    """What came in: all keys that have marks, the rows that wait to be counted, the objects that cannot be scored."""

    keys: list[str]
    waiting: list[Waiting]
    refused: list[str]

    def without(self, part: Part, reason: str) -> "Incoming":
        """Without the rows of an object that cannot be read after all, which is logged."""
        key = part.key + part.etag if request_rows.is_series(part.key) else part.key
        logs.warning("incoming_refused", key=key, reason=reason)
        waiting = [rows for rows in self.waiting if (rows.key, rows.etag) != (part.key, part.etag)]
        return Incoming(self.keys, waiting, [*self.refused, key])


def incoming(
    store: ObjectStore, classifier: Classifier, objects: Mapping[str, Mark], settings: BatchSettings
) -> Incoming:
    """Score what this model has not scored yet, and find what `objects`, the marks so far, do not cover; then requests.

    An object that cannot be read or is being replaced is left out and logged: one bad file must not stop the check.
    Raises StorageError if the store is away.
    """
    items = [item for item in store.list(INCOMING) if kind_of(item.key)]
    found = Incoming([item.key for item in items], [], [])
    for item in progress(items, description="incoming", unit="file"):
        mark = objects.get(item.key)
        if mark and mark.etag == item.etag and mark.done:
            continue
        try:
            kept = _kept(store, classifier, item, settings)
        except (DataError, ConflictError, StorageError) as error:
            if isinstance(error, StorageError):
                require_reachable(store)
            logs.warning("incoming_refused", key=item.key, reason=str(error))
            found.refused.append(item.key)
            continue
        new = kept.rows >= counted_until(mark, item.etag, kept)
        if new.any():
            found.waiting.append(Waiting(item.key, item.etag, kept.rows[new], kept.digests[new]))
    _add_requests(store, classifier.version, objects, found)
    return found


def _add_requests(store: ObjectStore, model_version: str, objects: Mapping[str, Mark], found: Incoming) -> None:
    """Add what the payload log has; its parts are listed, and not read before their windows are tested."""
    waiting: list[Waiting] = []
    series = set()
    for part, etag in payload.parts(store, request_rows.series_of(model_version)):
        series.add(part.series)
        mark = objects.get(part.series)
        rows = np.arange(max(part.first, mark.end if mark else 0), part.end)
        if len(rows):
            waiting.append(Waiting(part.series, part.name, rows, np.full(len(rows), etag.encode())))
    found.keys.extend(series)
    found.waiting.extend(sorted(waiting, key=lambda part: (part.etag, part.key)))  # its name starts with the time


def _kept(store: ObjectStore, classifier: Classifier, item: StoredObject, settings: BatchSettings) -> Kept:
    """What this very model version kept of the object; scores it if it has not yet."""
    key = kept_key(classifier.version, item.key, item.etag)
    kept = sample.load(store, key)
    if kept is None:
        with contextlib.suppress(ConflictError):  # another check scored it at the same time, or it was replaced
            score_object(store, item.key, classifier, settings)
        kept = sample.load(store, key)
    if kept is None:
        raise ConflictError(f"{store.uri(item.key)} was replaced while it was scored")
    return kept


def kept_key(model_version: str, key: str, etag: str) -> str:
    return sample.key_of(model_version, key.removeprefix(INCOMING), etag)


def counted_until(mark: Mark | None, etag: str, kept: Kept) -> int:
    """The number of the first row that is not counted.

    An object that was overwritten by one that starts with the same texts goes on where it was. If the sample no
    longer shows whether it does, it goes on too: a row is rather left out than counted twice.
    """
    if mark is None or not len(kept.rows):
        return 0
    if mark.etag == etag:
        return mark.end
    place = int(np.searchsorted(kept.rows, mark.end - 1))
    if place == len(kept.rows):
        return 0
    same_row = kept.rows[place] == mark.end - 1
    return 0 if same_row and kept.digests[place].decode() != mark.digest else mark.end


def cut(waiting: Sequence[Waiting], size: int) -> tuple[list[Parts], int]:
    """Windows of exactly `size` rows each, and how many rows are left over."""
    windows: list[Parts] = []
    parts: list[Part] = []
    missing = size
    for rows in waiting:
        start = 0
        while start < len(rows.rows):
            end = min(start + missing, len(rows.rows))
            parts.append(rows.part(start, end))
            missing -= end - start
            start = end
            if missing == 0:
                windows.append(tuple(parts))
                parts, missing = [], size
    return windows, size - missing


def choose(windows: Sequence[Parts], allowed: int) -> tuple[list[Parts], list[Parts]]:
    """(the windows to test: at most `allowed`, evenly spaced, the newest among them; those that are passed with them).

    If none may be tested, none is passed: they wait.
    """
    if len(windows) <= allowed:
        return list(windows), list(windows)
    chosen = [windows[(i + 1) * len(windows) // allowed - 1] for i in range(allowed)]
    return chosen, list(windows) if chosen else []


@dataclass(frozen=True)
class Rows:
    """n rows of the stream: what the model made of each, and (key, entity tag, number) of where it lies."""

    embeddings: NDArray[np.float32]
    logits: NDArray[np.float32]
    where: list[tuple[str, str, int]]


class UnreadableError(DataError):
    """The kept rows of `part` are gone, damaged or changed."""

    def __init__(self, part: Part, reason: str) -> None:
        super().__init__(reason)
        self.part = part


class KeptRows:
    """Reads back the embeddings and logits of a model version's windows, as batch scoring or a server kept them."""

    def __init__(self, store: ObjectStore, model_version: str) -> None:
        self._store, self._version = store, model_version
        self._last: tuple[str, Kept] | None = None  # neighbouring windows share an object

    def read(self, parts: Iterable[Part]) -> Rows:
        """The rows of at least one part. Raises UnreadableError if they are gone, damaged or changed."""
        found = [(part, self._part(part)) for part in parts]
        return Rows(
            np.concatenate([kept.embeddings for _, kept in found]),
            np.concatenate([kept.logits for _, kept in found]),
            [(part.key, part.etag, int(number)) for part, kept in found for number in kept.rows],
        )

    def has(self, parts: Iterable[Part]) -> bool:
        """Whether the rows of all parts are still there: servers, and lifecycle rules, delete the oldest."""
        return all(self._store.head(key) for key in {self._key(part) for part in parts})

    def _key(self, part: Part) -> str:
        if request_rows.is_series(part.key):
            return part.key + part.etag
        return kept_key(self._version, part.key, part.etag)

    def _part(self, part: Part) -> Kept:
        key = self._key(part)
        if self._last is None or self._last[0] != key:
            try:
                kept = (request_rows.kept if request_rows.is_series(part.key) else sample.load)(self._store, key)
            except DataError as error:
                raise UnreadableError(part, str(error)) from error
            if kept is None:
                raise UnreadableError(part, f"{self._store.uri(key)} is gone; its windows cannot be measured again")
            self._last = key, kept
        rows = self._last[1].between(part.first, part.end)
        if not len(rows.rows) or rows.digests[-1].decode() != part.digest:
            reason = f"{self._store.uri(key)} does not hold the rows that were counted; it was changed"
            raise UnreadableError(part, reason)
        return rows
