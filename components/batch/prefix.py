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
from components.errors import ConflictError, DataError, EverbertError, StorageError
from components.progress import progress
from components.storage import ObjectStore, StoredObject

DONE, AGAIN, FAILED = range(3)  # see `_scored`
Model = Classifier | Callable[[], Classifier]
"""A model, or what gives the one to go on with, asked before each object."""


def score_prefix(store: ObjectStore, model: Model, settings: BatchSettings, share: Share = ALL) -> list[BatchResult]:
    """Score every object under incoming/ that this model has not scored yet.

    One that cannot be scored stops no other: its result says why. A successor of the model takes the objects from then
    on; those before are the next pass's. Raises StorageError: at once if the store is away, at the end if it failed on
    single objects.
    """
    bar = progress(_incoming(store), description="batch", unit="file")
    results, failed = [], []
    for item in bar:
        result, state = _scored(store, item, _now(model), settings, share)
        results.append(result)
        if state == FAILED:
            _warn_left(result)
            failed.append(result)
    if failed:
        raise StorageError(
            f"{len(failed)} of {len(results)} objects could not be scored, and are tried again by the next run; "
            f"{failed[0].source}: {failed[0].problem}"
        )
    return results


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

    A store that is away for a while is waited for, but not at the first look: StorageError. One object that it fails on
    stops no other, and is tried again at each look. A successor of the model scores what is there anew.
    """
    seen: dict[str, tuple[str, str]] = {}  # key -> entity tag and model version of what this process is done with
    left: dict[str, str] = {}  # key -> why it is to be tried again
    watched = Watched()
    require_reachable(store)
    with _until_stopped():
        while True:
            try:
                items = _incoming(store)
                seen = {item.key: seen[item.key] for item in items if item.key in seen}
                left = {item.key: left[item.key] for item in items if item.key in left}
                for item in random.sample(items, len(items)):  # several workers start at different objects
                    classifier = _now(model)
                    if seen.get(item.key) == (item.etag, classifier.version):
                        continue
                    result, state = _scored(store, item, classifier, settings, share)
                    if state == DONE:
                        watched.add(result)
                        seen[item.key] = item.etag, classifier.version
                        left.pop(item.key, None)
                    elif result.problem:
                        if left.get(item.key) != result.problem:  # it is said once, not at each look
                            _warn_left(result)
                        left[item.key] = result.problem
            except StorageError as error:
                logs.warning("batch_waits", reason=str(error))
            time.sleep(settings.poll_seconds)
    watched.problems += len(left)
    return watched


def _now(model: Model) -> Classifier:
    return model if isinstance(model, Classifier) else model()


def _incoming(store: ObjectStore) -> list[StoredObject]:
    """All objects but folders, and markers that other programs leave (_SUCCESS, .keep)."""
    names = ((item, item.key.rpartition("/")[2]) for item in store.list(INCOMING))
    return [item for item, name in names if name and not name.startswith(("_", "."))]


def require_reachable(store: ObjectStore) -> None:
    """Raises StorageError if the store is away."""
    next(store.list(INCOMING), None)


def _scored(
    store: ObjectStore, item: StoredObject, classifier: Classifier, settings: BatchSettings, share: Share
) -> tuple[BatchResult, int]:
    """What came of the object, and whether it is DONE, is to be looked at AGAIN, or the store FAILED on it.

    Raises StorageError if the store is away, so that the other objects are not tried in vain.
    """

    def unscored(error: EverbertError) -> BatchResult:
        return BatchResult(item.key, "", 0, 0, classifier.version, problem=str(error))

    try:
        result = score_object(store, item.key, classifier, settings, share)
    except DataError as error:
        return unscored(error), DONE
    except ConflictError as error:
        return unscored(error), AGAIN
    except StorageError as error:
        require_reachable(store)
        return unscored(error), FAILED
    return result, AGAIN if result.missing else DONE


def _warn_left(result: BatchResult) -> None:
    logs.warning("batch_left", source=result.source, reason=result.problem)


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
