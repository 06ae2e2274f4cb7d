"""The micro-batcher: texts of concurrent requests share a forward pass.

There is no timer. Whenever the model is free, whatever waits goes into one batch up to a budget of tokens, so a lone
request starts at once and batches grow only while the model is busy. A request of more than one batch takes turns with
the others.

The wait is bounded in seconds, instead of making every answer late: a request that would wait longer, at the speed that
the model has shown, is refused at once; one that has waited longer all the same is refused when its turn comes. A batch
takes at most a quarter of that time, so a request of one batch is answered within 1.25 times the bound, or refused.
"""

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from components.classifier.classifier import Classifier
from components.classifier.engine import Encoded, Scores

_BYTES_A_TOKEN = 4  # of UTF-8, roughly; how wrong that is of what is asked here, the measured speed makes up for
_FIRST_SPEED = 4000.0  # tokens a second, before any was measured
_FIRST_SHARE = 0.1  # of the longest wait: for so long that first speed counts
_ROOM = 0.8  # of the longest wait, for what is expected: else half of the last ones to be let in would be too late
_BATCH_SHARE = 0.25  # of the longest wait, for one batch


class QueueFullError(Exception):
    """Too much waits already; try again in `retry_after` seconds."""

    def __init__(self, waiting: int, retry_after: int) -> None:
        super().__init__(f"the server is busy: about {waiting} tokens wait already; try again in {retry_after} s")
        self.retry_after = retry_after


@dataclass(frozen=True)
class Scored:
    """A request's texts, all scored by `classifier`."""

    classifier: Classifier
    scores: Scores
    tokens: int
    queue_seconds: float  # until its first text was taken up


@dataclass(eq=False)
class _Request:
    classifier: Classifier
    texts: Sequence[str]
    estimate: int  # tokens
    share: int  # of them, those that whoever comes later has to wait for: at most one batch
    submitted: float
    future: "Future[Scored]" = field(default_factory=Future)
    encoded: Encoded | None = None
    queue_seconds: float = 0.0
    taken: int = 0  # windows that are scored, or in the batch that is being scored
    parts: list[tuple[NDArray[np.float32], NDArray[np.float32]]] = field(default_factory=list)

    def left(self) -> list[list[int]]:
        """The windows that were in no batch yet. Tokenizes when first asked, which is the worker's business."""
        if self.encoded is None:
            self.encoded = self.classifier.engine.encode(self.texts)
        return self.encoded.windows[self.taken :]

    def estimate_of(self, windows: list[list[int]]) -> float:
        """What of the estimate these, which are some of its own, stand for."""
        return self.estimate * len(windows) / len(self.encoded.windows) if self.encoded else 0.0

    def take(self, windows: list[list[int]], now: float) -> None:
        """These are in a batch now."""
        if not self.taken:
            self.queue_seconds = now - self.submitted
        self.taken += len(windows)

    def finish(self) -> None:
        """Hand over the scores, if that was the last part and somebody still wants them."""
        if not self.left() and self.encoded and self.future.set_running_or_notify_cancel():
            logits, embeddings = (np.concatenate(part) for part in zip(*self.parts, strict=True))
            tokens = sum(len(window) for window in self.encoded.windows)
            scores = self.encoded.combine(logits, embeddings)
            self.future.set_result(Scored(self.classifier, scores, tokens, self.queue_seconds))

    def fail(self, error: Exception) -> None:
        if not self.future.done() and self.future.set_running_or_notify_cancel():
            self.future.set_exception(error)


_Batch = list[tuple[_Request, list[list[int]]]]


class MicroBatcher:
    """One worker thread that scores what is submitted, at most `batch_tokens` at a time, after at most `queue_seconds`.

    `on_batch` is told the tokens of each batch, on the worker thread, before it is scored. `clock` gives seconds.
    """

    def __init__(
        self,
        batch_tokens: int,
        queue_seconds: float,
        on_batch: Callable[[int], None] = lambda tokens: None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._most_tokens = batch_tokens
        self._limit = queue_seconds
        self._on_batch = on_batch
        self._clock = clock
        self._queue: deque[_Request] = deque()
        self._waiting = 0  # tokens, estimated
        self._closed = False
        self._changed = threading.Condition()
        self._busy_seconds = _FIRST_SHARE * queue_seconds  # with batches that were not small, the older the less
        self._busy_tokens = _FIRST_SPEED * self._busy_seconds  # of them, estimated
        self._free = 0.0  # since when the worker could have been at the batch
        self._worker = threading.Thread(target=self._run, name="model", daemon=True)
        self._worker.start()

    @property
    def waiting_tokens(self) -> int:
        """About how many tokens wait, no request counting for more than one batch."""
        return self._waiting

    def submit(self, classifier: Classifier, texts: Sequence[str]) -> "Future[Scored]":
        """Have `texts` scored by `classifier`. Cancel the future to give up. Raises QueueFullError, or the future does.

        A request is always taken when nothing waits, however large it is.
        """
        estimate = sum(2 + len(text.encode("utf-8", "surrogatepass")) // _BYTES_A_TOKEN for text in texts)
        request = _Request(classifier, texts, estimate, min(estimate, self._budget()), self._clock())
        with self._changed:
            if self._closed:
                raise RuntimeError("the batcher is closed")
            if self._waiting * self._pace() > _ROOM * self._limit:
                raise self._full()
            self._put(request)
            self._changed.notify()
        request.future.add_done_callback(lambda _: self._drop(request))
        return request.future

    def close(self) -> None:
        """Score what waits, then end the worker."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._worker.join()

    def _pace(self) -> float:
        """Seconds that a waiting token takes."""
        return self._busy_seconds / self._busy_tokens

    def _budget(self) -> int:
        """Most tokens of a batch now."""
        return min(self._most_tokens, max(1, int(self._limit * _BATCH_SHARE / self._pace())))

    def _full(self) -> QueueFullError:
        return QueueFullError(self._waiting, max(1, math.ceil(self._waiting * self._pace())))

    def _put(self, request: _Request, *, first: bool = False) -> None:
        (self._queue.appendleft if first else self._queue.append)(request)
        self._waiting += request.share

    def _drop(self, request: _Request) -> None:
        """Called when the request is done, which it is in the queue only if it was cancelled there."""
        with self._changed:
            if request in self._queue:
                self._queue.remove(request)
                self._waiting -= request.share

    def _take(self, batch: _Batch) -> _Request | None:
        """The next request that may join `batch`: of the same model. Waits for one if the batch is empty."""
        with self._changed:
            while not batch and not self._queue and not self._closed:
                self._changed.wait()
                self._free = self._clock()
            if not self._queue or (batch and self._queue[0].classifier is not batch[0][0].classifier):
                return None
            request = self._queue.popleft()
            self._waiting -= request.share
            return request

    def _run(self) -> None:
        while batch := self._compose():
            try:
                self._score(batch)
            except Exception as error:  # the next batch is another chance
                for request, _ in batch:
                    request.fail(error)

    def _compose(self) -> _Batch:
        """The next batch; empty only when the batcher is closed and nothing waits."""
        batch: _Batch = []
        room = self._budget()
        while request := self._take(batch):
            if not request.taken and self._clock() - request.submitted > self._limit:
                request.fail(self._full())
                continue
            try:
                left = request.left()
            except Exception as error:  # its own fault, not that of the batch
                request.fail(error)
                continue
            fitting = left[: _fitting(left, room)]
            if batch and len(fitting) < len(left):
                self._put_back(request, first=True)
                break
            part = fitting or left[:1]
            request.take(part, self._clock())
            batch.append((request, part))
            room -= sum(len(window) for window in part)
            if len(part) < len(left):
                self._put_back(request, first=False)
                break
        return batch

    def _put_back(self, request: _Request, *, first: bool) -> None:
        with self._changed:
            if not request.future.cancelled():
                self._put(request, first=first)

    def _score(self, batch: _Batch) -> None:
        windows = [window for _, part in batch for window in part]
        tokens = sum(len(window) for window in windows)
        self._on_batch(tokens)
        logits, embeddings = batch[0][0].classifier.engine.forward(windows)
        self._measure(sum(request.estimate_of(part) for request, part in batch))
        place = 0
        for request, part in batch:
            request.parts.append((logits[place : place + len(part)], embeddings[place : place + len(part)]))
            place += len(part)
            request.finish()

    def _measure(self, tokens: float) -> None:
        """A small batch has much overhead and says nothing of the pace of the full ones that a queue is scored in."""
        now = self._clock()
        seconds, self._free = now - self._free, now
        if seconds < tokens * self._pace() or 2 * tokens >= self._budget():
            kept = self._limit / (self._limit + seconds)
            self._busy_seconds = kept * self._busy_seconds + seconds
            self._busy_tokens = kept * self._busy_tokens + tokens


def _fitting(windows: list[list[int]], room: int) -> int:
    """How many of the first windows have no more than `room` tokens together."""
    for count, window in enumerate(windows):
        room -= len(window)
        if room < 0:
            return count
    return len(windows)
