"""The whole prefix: one pass over incoming/, or passes for as long as the process lives."""

import contextlib
import random
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import NoReturn

from components import logs
from components.batch.score import ALL, Share, score_object
from components.batch.versions import INCOMING, BatchResult
from components.classifier.classifier import Classifier
from components.config import BatchSettings
from components.errors import ConflictError, DataError, StorageError
from components.progress import progress
from components.storage import ObjectStore, StoredObject

Model = Classifier | Callable[[], Classifier]
"""A model, or what gives the one to go on with, asked before each object."""


def score_prefix(store: ObjectStore, model: Model, settings: BatchSettings, share: Share = ALL) -> list[BatchResult]:
    """Score every object under incoming/ that this model has not scored yet.

    One that cannot be scored stops no other: its result says why. A successor of the model takes the objects from then
    on; those before are the next pass's.
    """
    bar = progress(_incoming(store), description="batch", unit="file")
    return [_scored(store, item, _now(model), settings, share) for item in bar]


@dataclass
class Watched:
    """What came of all that was seen, what was scored before included."""

    objects: int = 0
    rows: int = 0
    quarantined: int = 0
    problems: int = 0
    """Objects that could not be scored."""

    def add(self, result: BatchResult) -> None:
        self.objects += 1
        self.rows += result.rows
        self.quarantined += result.quarantined
        self.problems += bool(result.problem)


def watch(store: ObjectStore, model: Model, settings: BatchSettings, share: Share = ALL) -> Watched:
    """Score what is there, then what comes in, until SIGINT or SIGTERM; the next run goes on with what is in hand then.

    A store that is away for a while is waited for, but not at the first look. A successor of the model scores what is
    there anew.
    """
    seen: dict[str, tuple[str, str]] = {}  # key -> entity tag and model version of what this process is done with
    items, watched = _incoming(store), Watched()
    with _until_stopped():
        while True:
            try:
                for item in random.sample(items, len(items)):  # several workers start at different objects
                    classifier = _now(model)
                    if seen.get(item.key) != (item.etag, classifier.version):
                        result = _scored(store, item, classifier, settings, share)
                        if not result.missing:  # else it is looked at again, until somebody has finished it
                            watched.add(result)
                            seen[item.key] = item.etag, classifier.version
                time.sleep(settings.poll_seconds)
                items = _incoming(store)
                seen = {item.key: seen[item.key] for item in items if item.key in seen}
            except StorageError as error:
                logs.warning("batch_waits", reason=str(error))
                time.sleep(settings.poll_seconds)
    return watched


def _now(model: Model) -> Classifier:
    return model if isinstance(model, Classifier) else model()


def _incoming(store: ObjectStore) -> list[StoredObject]:
    """All objects but folders, and markers that other programs leave (_SUCCESS, .keep)."""
    names = ((item, item.key.rpartition("/")[2]) for item in store.list(INCOMING))
    return [item for item, name in names if name and not name.startswith(("_", "."))]


def _scored(
    store: ObjectStore, item: StoredObject, classifier: Classifier, settings: BatchSettings, share: Share
) -> BatchResult:
    try:
        return score_object(store, item.key, classifier, settings, share)
    except (DataError, ConflictError) as error:
        return BatchResult(item.key, "", 0, 0, classifier.version, problem=str(error))


@contextlib.contextmanager
def _until_stopped() -> Iterator[None]:
    """Both signals end the block wherever it is: whatever is half done is done again, or gone on with."""

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        with contextlib.suppress(KeyboardInterrupt):
            yield
    finally:
        signal.signal(signal.SIGTERM, before)
