"""The micro-batcher: texts of concurrent requests share a forward pass.

There is no timer. Whenever the model is free, what waits goes into one batch up to a budget of tokens, so a lone
request starts at once and batches grow only while the model is busy. A request of more than one batch takes turns with
the others. So does one of more than one slice (queued.py) where texts are tokenized.

Where there is enough for two batches, two take turns: one is answered, and its clients ask again, while the model has
the other. So a batch takes no more than half of what there is, of what waits and what was in the last batch.

The wait is bounded in seconds, instead of making every answer late: a request that would wait longer, at the speed that
the model has shown, is refused at once; one that has waited longer all the same is refused when its turn comes. A batch
takes at most a quarter of that time, so a request of one batch is answered within 1.25 times the bound, or refused; its
own tokenizing comes on top.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future

import numpy as np
from numpy.typing import NDArray

from components.classifier.classifier import Classifier
from serving.pace import Pace
from serving.queued import Part, QueueFullError, Request, Scored, estimated_tokens, fitting

_ENOUGH = 256  # tokens of a batch that is worth making two: of fewer, each takes longer
_LITTLE = 64  # tokens that are not left for a batch of their own

_Batch = list[Part]


class MicroBatcher:
    """Scores what is submitted, at most `batch_tokens` at a time, after at most `queue_seconds`.

    By two threads, so that the model never waits for anything else: the desk tokenizes what has arrived and hands over
    what is scored, while the model has a batch. `on_batch` is told the tokens of each batch, on the model's thread,
    before it is scored. `clock` gives seconds.
    """

    def __init__(
        self,
        batch_tokens: int,
        queue_seconds: float,
        on_batch: Callable[[int], None] = lambda tokens: None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._pace = Pace(batch_tokens, queue_seconds)
        self._on_batch = on_batch
        self._clock = clock
        lock = threading.RLock()  # of all that follows; re-entered by the callback of a request that fails
        self._for_desk, self._for_model = threading.Condition(lock), threading.Condition(lock)
        self._arrived: deque[Request] = deque()  # to be tokenized, as a whole or the next slice
        self._ready: deque[Request] = deque()  # that have windows to be scored
        self._scored: deque[tuple[_Batch, NDArray[np.float32], NDArray[np.float32]]] = deque()  # to be handed over
        self._requests = self._tokens = 0  # that wait; the tokens estimated
        self._last_tokens = 0.0  # of the last batch, estimated
        self._free = clock()  # since when the model could have been at the batch
        self._closed = self._ended = False
        self._model = threading.Thread(target=self._run_model, name="model", daemon=True)
        self._desk = threading.Thread(target=self._run_desk, name="desk", daemon=True)
        self._model.start()
        self._desk.start()

    @property
    def waiting_tokens(self) -> int:
        """About how many tokens wait, no request counting for more than one batch."""
        return self._tokens

    def submit(self, classifier: Classifier, texts: Sequence[str]) -> "Future[Scored]":
        """Have `texts` scored by `classifier`. Cancel the future to give up. Raises QueueFullError, or the future does.

        A request is always taken when nothing waits, however large it is.
        """
        share = min(estimated_tokens(texts), self._pace.batch_tokens())
        request = Request(classifier, texts, share, self._clock())
        request.future.add_done_callback(lambda _: self._drop(request))  # first: it may fail at once
        with self._for_desk:
            if self._closed:
                raise RuntimeError("the batcher is closed")
            if not self._pace.lets_in(self._tokens):
                raise self._full()
            self._enter(request)
            self._arrived.append(request)
            self._for_desk.notify()
        return request.future

    def close(self) -> None:
        """Score what waits, then end the threads."""
        with self._for_model:
            self._closed = True
            self._for_model.notify()
        self._model.join()
        with self._for_desk:
            self._ended = True
            self._for_desk.notify()
        self._desk.join()

    def _full(self) -> QueueFullError:
        return QueueFullError(self._tokens, self._pace.retry_after(self._tokens))

    def _enter(self, request: Request) -> None:
        request.waits = True
        self._requests += 1
        self._tokens += request.share

    def _leave(self, request: Request) -> None:
        request.waits = False
        self._requests -= 1
        self._tokens -= request.share
        if self._closed:
            self._for_model.notify()  # that may have been the last

    def _drop(self, request: Request) -> None:
        """Called when the request is done, which it is while it waits only if it was given up or has failed."""
        with self._for_model:
            if request.waits:
                self._leave(request)
                for queue in (self._arrived, self._ready):
                    if request in queue:
                        queue.remove(request)

    def _run_desk(self) -> None:
        while True:
            with self._for_desk:
                while not (self._scored or self._arrived or self._ended):
                    self._for_desk.wait()
                request = self._arrived.popleft() if self._arrived and not self._scored else None
            if request:
                self._tokenize(request)
            elif self._scored:
                self._hand_over(*self._scored[0])
                self._scored.popleft()
            else:
                return

    def _tokenize(self, request: Request) -> None:
        """Its next slice."""
        start = self._clock()
        if not request.read and self._too_late(request):
            self._fail(request, self._full())
            return
        try:
            piece = request.tokenize()
        except Exception as error:  # its own fault, not that of a batch
            self._fail(request, error)
            return
        with self._for_model:
            if not request.read:
                request.excused = self._clock() - start
            request.with_desk = False
            if request.waits:
                request.add(piece)
                if len(request.slices) == 1:
                    self._ready.append(request)
                    self._for_model.notify()
                self._read_on(request)

    def _read_on(self, request: Request) -> None:
        """Have its next slice tokenized, if it is time, after what others have had to wait with."""
        if request.wants_the_desk():
            request.with_desk = True
            self._arrived.append(request)
            self._for_desk.notify()

    def _too_late(self, request: Request) -> bool:
        return self._clock() - request.submitted - request.excused > self._pace.longest_wait

    def _fail(self, request: Request, error: Exception) -> None:
        with self._for_model:  # both threads may find a fault with different slices of it
            request.fail(error)

    def _hand_over(self, batch: _Batch, logits: NDArray[np.float32], embeddings: NDArray[np.float32]) -> None:
        """Each request of the batch its own windows' rows."""
        place = 0
        for part in batch:
            end = place + len(part.windows)
            try:
                part.request.receive(part, logits[place:end], embeddings[place:end])
            except Exception as error:  # the others are answered
                self._fail(part.request, error)
            place = end

    def _run_model(self) -> None:
        while batch := self._compose():
            try:
                self._score(batch)
            except Exception as error:  # the next batch is another chance
                for part in batch:
                    self._fail(part.request, error)

    def _compose(self) -> _Batch:
        """The next batch; empty only when the batcher is closed and nothing waits."""
        with self._for_model:
            batch: _Batch = []
            while not batch and (self._requests or not self._closed):
                while not self._ready and (self._requests or not self._closed):
                    idle = not self._requests
                    self._for_model.wait()
                    if idle:  # else the wait for the desk is part of what a request takes
                        self._free = self._clock()
                batch = self._fill()
            return batch

    def _fill(self) -> _Batch:
        """A batch of one model's requests, the first of those that are ready."""
        batch: _Batch = []
        most, used = self._pace.batch_tokens(), 0
        half = max(_ENOUGH, (self._tokens + self._last_tokens) / 2)
        shared = most if self._tokens - half < _LITTLE else min(most, half)
        while self._ready:
            request = self._ready[0]
            if not request.taken and self._too_late(request):
                self._leave(self._ready.popleft())
                request.fail(self._full())
                continue
            left = request.left()
            count = fitting(left, shared - used if batch else most)
            if batch and (request.classifier is not batch[0].request.classifier or count < len(left)):
                break
            self._leave(self._ready.popleft())
            batch.append(request.take(max(1, count), self._clock()))
            used += sum(len(window) for window in batch[-1].windows)
            self._queue_rest(request)
            if count < len(left):
                break
        return batch

    def _queue_rest(self, request: Request) -> None:
        """What of it is in no batch yet. Had it been given up, `_drop` would have dropped it, or is about to."""
        if not request.is_taken():
            self._enter(request)
            if request.slices:
                self._ready.append(request)
            self._read_on(request)

    def _score(self, batch: _Batch) -> None:
        windows = [window for part in batch for window in part.windows]
        self._on_batch(sum(len(window) for window in windows))
        logits, embeddings = batch[0].request.classifier.engine.forward(windows)
        self._last_tokens = sum(part.estimate for part in batch)
        now = self._clock()
        self._pace.measure(self._last_tokens, now - self._free)
        self._free = now
        with self._for_desk:
            self._scored.append((batch, logits, embeddings))
            self._for_desk.notify()
