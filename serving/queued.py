"""A request on its way through the micro-batcher: its texts, what of them is scored, and who waits for it.

A large one is tokenized in slices, each when the one before it is being scored: all its tokens at once would be ten
times its text.
"""

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from components.classifier.classifier import Classifier
from components.classifier.engine import Encoded, Scores, end_of_slice

_SLICES_AHEAD = 2  # are tokenized: one to be scored next, one that the model need not wait for
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
class Slice:
    """Some texts of a request, tokenized."""

    encoded: Encoded
    estimate: int  # tokens, as the pace counts them
    taken: int = 0  # windows that are scored, or in the batch that is being scored
    parts: list[tuple[NDArray[np.float32], NDArray[np.float32]]] = field(default_factory=list)

    def left(self) -> list[list[int]]:
        """The windows that were in no batch yet."""
        return self.encoded.windows[self.taken :]

    def receive(self, logits: NDArray[np.float32], embeddings: NDArray[np.float32]) -> Scores | None:
        """Of the next windows. The scores of its texts, if these were the last."""
        self.parts.append((logits, embeddings))
        if sum(len(part) for part, _ in self.parts) < len(self.encoded.windows):
            return None
        return self.encoded.combine(*(np.concatenate(part) for part in zip(*self.parts, strict=True)))


@dataclass(frozen=True)
class Part:
    """What of a request is in a batch."""

    request: "Request"
    slice: Slice
    windows: list[list[int]]

    @property
    def estimate(self) -> float:
        """What of its slice's estimate it stands for."""
        return self.slice.estimate * len(self.windows) / len(self.slice.encoded.windows)


@dataclass(eq=False)
class Request:
    """Texts to be scored, in one batch or in several."""

    classifier: Classifier
    texts: Sequence[str]
    share: int  # estimated tokens of it that whoever comes later has to wait for: at most one batch
    submitted: float
    future: "Future[Scored]" = field(default_factory=Future)
    waits: bool = False  # something of it is in no batch, and somebody wants it
    with_desk: bool = True  # waits to be tokenized, or is being
    read: int = 0  # texts that are tokenized
    excused: float = 0.0  # seconds that tokenizing its first slice took: no wait, else a large one would refuse itself
    queue_seconds: float = 0.0
    taken: bool = False  # in part, at least
    slices: deque[Slice] = field(default_factory=deque)  # that have windows left
    scores: list[Scores] = field(default_factory=list)  # of the slices before
    tokens: int = 0  # of those that are scored

    def tokenize(self) -> Slice:
        """The next slice; `add` must follow."""
        texts = self.texts[self.read : end_of_slice(self.texts, self.read)]
        return Slice(self.classifier.engine.encode(texts), estimated_tokens(texts))

    def add(self, piece: Slice) -> None:
        """It can be scored from now on."""
        self.slices.append(piece)
        self.read += len(piece.encoded.counts)

    def wants_the_desk(self) -> bool:
        """Whether it is time for its next slice."""
        return not self.with_desk and self.read < len(self.texts) and len(self.slices) < _SLICES_AHEAD

    def left(self) -> list[list[int]]:
        """The windows that can be scored next; none if the desk has to come first."""
        return self.slices[0].left() if self.slices else []

    def take(self, count: int, now: float) -> Part:
        """So many of them are in a batch now."""
        if not self.taken:
            self.taken, self.queue_seconds = True, now - self.submitted
        piece = self.slices[0]
        part = Part(self, piece, piece.left()[:count])
        piece.taken += count
        if piece.taken == len(piece.encoded.windows):
            self.slices.popleft()
        return part

    def is_taken(self) -> bool:
        """As a whole."""
        return not self.slices and self.read == len(self.texts)

    def receive(self, part: Part, logits: NDArray[np.float32], embeddings: NDArray[np.float32]) -> None:
        """Its parts come in their order. Hands over the scores, if it was the last and somebody still wants them."""
        self.tokens += sum(len(window) for window in part.windows)
        scores = part.slice.receive(logits, embeddings)
        if scores is not None:
            self.scores.append(scores)
        if sum(len(some.windows) for some in self.scores) == len(self.texts):
            scored = Scored(self.classifier, Scores.concatenate(self.scores), self.tokens, self.queue_seconds)
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
