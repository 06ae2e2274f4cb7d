"""Who submits a retrain: the claim ledger/retrains/<id>.json, taken by a conditional put and kept by renewing it."""

import contextlib
import json
import secrets
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from components.errors import ConflictError, StorageError
from components.storage import ObjectStore

PREFIX = "ledger/retrains"


@dataclass(frozen=True)
class Claim:
    """Who submits a retrain, and what came of it. `until` is in seconds since 1970."""

    id: str
    owner: str
    until: float
    run: str = ""
    """The run's id once it is submitted."""
    lapsed: str = ""
    """Why it was never submitted, or failed before it ran to its end; nobody tries again."""

    @property
    def settled(self) -> bool:
        return bool(self.run or self.lapsed)


def take(store: ObjectStore, retrain_id: str, seconds: float) -> "Lease | None":
    """The claim of a retrain for so many seconds; None if it is settled or somebody else's."""
    found = _read(store, retrain_id)
    if found and (found[0].settled or found[0].until > time.time()):
        return None
    claim = Claim(retrain_id, secrets.token_hex(8), time.time() + seconds)
    try:
        etag = _write(store, claim, found[1] if found else None)
    except ConflictError:
        return None
    return Lease(store, claim, etag, seconds)


@dataclass
class Lease:
    """A claim that is ours, as long as it is renewed in time. Raises ConflictError once it is somebody else's."""

    store: ObjectStore
    claim: Claim
    etag: str
    seconds: float
    lock: threading.Lock = field(default_factory=threading.Lock)

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Renewed by a thread for as long as the block runs; a local run takes minutes or hours."""
        stop = threading.Event()

        def keep() -> None:
            while not stop.wait(self.seconds / 3):
                with contextlib.suppress(StorageError):  # the next renewal may still be in time
                    try:
                        self.renew()
                    except ConflictError:
                        return

        thread = threading.Thread(target=keep, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def renew(self) -> None:
        self._put(until=time.time() + self.seconds)

    def free(self) -> None:
        """For whoever comes next; suppresses what goes wrong, since something has gone wrong already."""
        with contextlib.suppress(StorageError, ConflictError):
            self._put(until=0.0)

    def settle(self, *, run: str = "", lapsed: str = "") -> None:
        self._put(run=run, lapsed=lapsed)

    def _put(self, **changes: Any) -> None:
        with self.lock:
            if not self.claim.settled:
                self.claim = replace(self.claim, **changes)
                self.etag = self._written()

    def _written(self) -> str:
        try:
            return _write(self.store, self.claim, self.etag)
        except ConflictError:  # or our own write, whose answer was lost and which was then sent again
            found = _read(self.store, self.claim.id)
            if found is None or found[0] != self.claim:
                raise
            return found[1]


def key_of(retrain_id: str) -> str:
    return f"{PREFIX}/{retrain_id}.json"


def claim_of(store: ObjectStore, retrain_id: str) -> Claim | None:
    """Who submits or has submitted it; None if nobody has begun to. Raises StorageError for a damaged one."""
    found = _read(store, retrain_id)
    return found[0] if found else None


def _read(store: ObjectStore, retrain_id: str) -> tuple[Claim, str] | None:
    found = store.get(key_of(retrain_id))
    if found is None:
        return None
    try:
        return Claim(**json.loads(found[0])), found[1]
    except (ValueError, TypeError) as error:
        raise StorageError(
            f"{store.uri(key_of(retrain_id))} is damaged; delete it if no run {retrain_id} exists"
        ) from error


def _write(store: ObjectStore, claim: Claim, etag: str | None) -> str:
    return store.put(key_of(claim.id), json.dumps(asdict(claim)).encode(), if_match=etag, only_if_new=etag is None)
