"""A request on its way through the micro-batcher: its texts, what of them is scored, and who waits for it."""

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from components.classifier.classifier import Classifier
from components.classifier.engine import Encoded, Scores

_BYTES_A_TOKEN = 4  # of UTF-8, roughly; how wrong that is of what is asked here, the measured speed makes up for


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


def estimated_tokens(texts: Sequence[str]) -> int:
    """Before they are tokenized."""
    return sum(2 + len(text.encode("utf-8", "surrogatepass")) // _BYTES_A_TOKEN for text in texts)


@dataclass(eq=False)
class Request:
    """Texts to be scored, in one batch or in several."""

    classifier: Classifier
    texts: Sequence[str]
    estimate: int  # tokens
    share: int  # of them, those that whoever comes later has to wait for: at most one batch
    submitted: float
    future: "Future[Scored]" = field(default_factory=Future)
    waits: bool = False  # in a queue, or on its way from one to the next
    encoded: Encoded = field(init=False)  # after `tokenize`
    queue_seconds: float = 0.0
    taken: int = 0  # windows that are scored, or in the batch that is being scored
    parts: list[tuple[NDArray[np.float32], NDArray[np.float32]]] = field(default_factory=list)

    def tokenize(self) -> None:
        """Before all that follows."""
        self.encoded = self.classifier.engine.encode(self.texts)

    def left(self) -> list[list[int]]:
        """The windows that were in no batch yet."""
        return self.encoded.windows[self.taken :]

    def estimate_of(self, windows: Sequence[list[int]]) -> float:
        """What of the estimate these, which are some of its own, stand for."""
        return self.estimate * len(windows) / len(self.encoded.windows)

    def take(self, windows: Sequence[list[int]], now: float) -> None:
        """These are in a batch now."""
        if not self.taken:
            self.queue_seconds = now - self.submitted
        self.taken += len(windows)

    def receive(self, logits: NDArray[np.float32], embeddings: NDArray[np.float32]) -> None:
        """Of the next windows. Hands over the scores, if these were the last and somebody still wants them."""
        self.parts.append((logits, embeddings))
        windows = self.encoded.windows
        if sum(len(part) for part, _ in self.parts) == len(windows):
            scores = self.encoded.combine(*(np.concatenate(part) for part in zip(*self.parts, strict=True)))
            scored = Scored(self.classifier, scores, sum(len(window) for window in windows), self.queue_seconds)
            if self.future.set_running_or_notify_cancel():
                self.future.set_result(scored)

    def fail(self, error: Exception) -> None:
        """Unless it is done, or given up."""
        if not self.future.done() and self.future.set_running_or_notify_cancel():
            self.future.set_exception(error)


def fitting(windows: Sequence[list[int]], room: float) -> int:
    """How many of the first windows have no more than `room` tokens together."""
    for count, window in enumerate(windows):
        room -= len(window)
        if room < 0:
            return count
    return len(windows)
