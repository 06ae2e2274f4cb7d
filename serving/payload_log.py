"""Writes the payload log (components/payload.py) in the background: no request ever waits for it, or fails by it.

What it takes is decided by a seeded draw and by room, never by content: a sample in which long texts were rarer would
look like drift. So there must be room for the longest text before any is taken, and when the object store is away or
too slow, everything is dropped and counted until there is.

Texts wait as they were asked, and count as such. They are cleaned when they are written, for it may take seconds, which
the event loop does not have.
"""

import dataclasses
import itertools
import secrets
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta

import numpy as np

from components import logs, payload
from components.classifier.classifier import Prediction
from components.classifier.engine import Scores
from components.classifier.text import clean
from components.config import ServingSettings
from components.errors import EverbertError, SettingsError
from components.payload import PayloadRow
from components.storage import ObjectStore, bucket_of
from serving import metrics

_ROW_BYTES = 2000  # of a row's Python objects, and its id of at most 128 characters
_LARGEST_ROW = 16_000  # of all but the text: for embeddings of up to 3,000 numbers
_CLOSE_SECONDS = 10  # for the last part, of the 30 that Kubernetes gives by default
_SWEEP_SECONDS = 3600


class PayloadLog(threading.Thread):
    """The log of one server process. `offer` is for one thread, the event loop's; the writing has one of its own.

    Rows may take half of `payload_megabytes`; a part is at most an eighth, and exists in at most three forms.
    """

    def __init__(self, store: ObjectStore, settings: ServingSettings) -> None:
        """Raises SettingsError if no text of the largest size would fit."""
        super().__init__(name="payload log", daemon=True)
        self._store, self._settings = store, settings
        token = secrets.token_hex(4)
        self._writer = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{token}"
        self._keep_text = settings.payload_content == "text"
        self._most_text = 4 * settings.maximum_characters + 100
        self._room, self._part_bytes = settings.payload_megabytes << 19, settings.payload_megabytes << 17
        # The text must fit into what waits, and into a part if it is kept.
        needed = -(-self._most_text >> 17) if self._keep_text else -(-(self._most_text + _LARGEST_ROW) >> 19)
        if needed > settings.payload_megabytes:
            raise SettingsError(f"serving.payload_megabytes must be at least {needed} for texts of "
                                f"{settings.maximum_characters} characters (serving.maximum_characters)")  # fmt: skip
        self._random = np.random.default_rng(int(token, 16))  # else no server would take its 1st, or its 2nd, request
        self._changed = threading.Condition()
        self._rows: list[PayloadRow] = []
        self._waiting_bytes = self._held_bytes = 0  # of `_rows`; and of those that are being written too
        self._closed = False
        self._numbers: dict[str, int] = {}
        self._last_written = datetime.min.replace(tzinfo=UTC)
        self._failing = False

    @classmethod
    def started(cls, settings: ServingSettings) -> "PayloadLog | None":
        """Running; None if the settings name no bucket. Raises StorageError if what they name is no bucket."""
        if not settings.payload_bucket:
            return None
        log = cls(ObjectStore(bucket_of(settings.payload_bucket)), settings)
        log.start()
        return log

    def offer(
        self, request_id: str, received: float, texts: Sequence[str], scores: Scores, predictions: Sequence[Prediction]
    ) -> None:
        """What was asked and answered; `received` in seconds since 1970. Takes a share of it, if there is room."""
        drawn = np.flatnonzero(self._random.random(len(texts)) < self._settings.payload_share)
        for place in drawn.tolist():
            row_id = f"{request_id}/{place}" if len(texts) > 1 else request_id
            self._take(row_id, received, texts[place], scores, predictions[place], place)

    def _take(
        self, row_id: str, received: float, text: str, scores: Scores, prediction: Prediction, place: int
    ) -> None:
        embedding = scores.embeddings[place]
        if self._held_bytes + self._most_text + embedding.nbytes + _ROW_BYTES > self._room:
            metrics.PAYLOAD.labels("full").inc()
            return
        # Copies: a row of scores would keep the whole request's in memory.
        row = PayloadRow(row_id, received, text, prediction, embedding.copy(), scores.logits[place].copy())
        with self._changed:
            size = _bytes_of(row)
            self._rows.append(row)
            self._waiting_bytes += size
            self._held_bytes += size
            if self._waiting_bytes >= self._part_bytes:
                self._changed.notify()

    def close(self) -> None:
        """Write what waits, for at most ten seconds, and end."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self.join(_CLOSE_SECONDS)
        if self.is_alive():
            logs.warning("payload log not finished", reason=f"the object store {self._store.endpoint} is too slow")

    def run(self) -> None:
        next_sweep = 0.0
        closed = False
        while not closed:
            with self._changed:
                self._changed.wait_for(self._has_work, self._settings.payload_seconds)
                rows, self._rows, self._waiting_bytes, closed = self._rows, [], 0, self._closed
            self._write_all(rows)
            if time.monotonic() >= next_sweep and not closed:
                self._sweep()
                next_sweep = time.monotonic() + _SWEEP_SECONDS

    def _has_work(self) -> bool:
        return self._closed or self._waiting_bytes >= self._part_bytes

    def _write_all(self, rows: list[PayloadRow]) -> None:
        """In parts of one model version each, rows in the order of their arrival. Leaves none in the list."""
        rows.sort(key=lambda row: (row.prediction.model_version, row.received))
        rows.reverse()
        in_order = (rows.pop() for _ in range(len(rows)))  # what is written and counts no more must not stay in memory
        for version, group in itertools.groupby(in_order, key=lambda row: row.prediction.model_version):
            for part, raw_bytes in self._parts(group):
                if part:
                    self._write(version, part)
                with self._changed:
                    self._held_bytes -= raw_bytes

    def _parts(self, rows: Iterable[PayloadRow]) -> Iterator[tuple[list[PayloadRow], int]]:
        """What is kept of them, in parts, perhaps one without rows; with each the bytes that waited for it."""
        part: list[PayloadRow] = []
        part_bytes = raw_bytes = 0
        for row in rows:
            kept = self._kept(row)
            size = _bytes_of(kept) if kept else 0
            if part and part_bytes + size > self._part_bytes:
                yield part, raw_bytes
                part, part_bytes, raw_bytes = [], 0, 0
            if kept:
                part.append(kept)
            part_bytes += size
            raw_bytes += _bytes_of(row)
        yield part, raw_bytes

    def _kept(self, row: PayloadRow) -> PayloadRow | None:
        """What is written of a row; None if it has no text: batch scoring sets such aside, training never sees one."""
        text = clean(row.text or "")
        return dataclasses.replace(row, text=text if self._keep_text else None) if text else None

    def _write(self, version: str, rows: list[PayloadRow]) -> None:
        first = self._numbers.get(version, 0)
        self._numbers[version] = first + len(rows)  # also if it fails: what was sent may be there all the same
        self._last_written = max(datetime.now(UTC), self._last_written + timedelta(microseconds=1))
        try:
            key = payload.key_of(version, self._writer, self._last_written, first, rows)
            self._store.put(key, payload.encoded(rows))
        except Exception as error:  # the next part is another chance
            metrics.PAYLOAD.labels("failed").inc(len(rows))
            self._warn_once(error)
            return
        metrics.PAYLOAD.labels("written").inc(len(rows))
        if self._failing:
            self._failing = False
            logs.event("payload log written again")

    def _sweep(self) -> None:
        """Delete the parts, of all writers, that are older than they may get."""
        oldest = datetime.now(UTC) - timedelta(days=self._settings.payload_days)
        try:
            old = [part.key for part, _ in payload.parts(self._store) if part.written < oldest]
            for key in old:
                self._store.delete(key)
        except Exception as error:  # tried again in an hour
            self._warn_once(error)
            return
        if old:
            logs.event("payload log swept", parts=len(old))

    def _warn_once(self, error: Exception) -> None:
        """One line for as long as it lasts; an error of another library may quote a text, so only its type."""
        if not self._failing:
            reason = str(error) if isinstance(error, EverbertError) else type(error).__name__
            logs.warning("payload log not written", reason=reason)
        self._failing = True


def _bytes_of(row: PayloadRow) -> int:
    """At most, about."""
    return _ROW_BYTES + row.embedding.nbytes + row.logits.nbytes + (sys.getsizeof(row.text) if row.text else 0)
