"""Large requests in the micro-batcher, on a real, small model: tokenized in slices, beside whoever else asks."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_batcher import TEXT, Clock, Gate, result

from components.classifier.classifier import Classifier
from serving.batcher import MicroBatcher
from serving.queued import QueueFullError

_PEAK = """
import json, pathlib, sys, threading, torch
from components.classifier.classifier import Classifier
from serving.batcher import MicroBatcher

def megabytes():  # at most until now; resource's figure starts at that of the process that started this one
    return int(pathlib.Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) / 1024

torch.set_num_threads(1)
classifier, begun = Classifier.load(sys.argv[1]), threading.Event()
classifier.predict(["word " * 2000] * 10)
batcher, large = MicroBatcher(2048, 2, lambda tokens: begun.set()), ["word " * 20_000] * 60  # 6 MB
before = megabytes()
futures = [batcher.submit(classifier, large) for _ in range(2)]
assert begun.wait(60)
for future in futures:
    future.cancel()
batcher.close()
print(json.dumps(megabytes() - before))
"""


class Texts(list[str]):
    """Tells whenever some of them are read in order to be tokenized: `on_read` gets how many slices were before."""

    def __init__(self, texts: list[str], on_read: Callable[[int], None]) -> None:
        super().__init__(texts)
        self.read, self._on_read = 0, on_read

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, slice):
            self.read += 1
            self._on_read(self.read - 1)
        return super().__getitem__(key)


@pytest.fixture(scope="module")
def classifier(small_model: Path) -> Classifier:
    return Classifier.load(small_model)


@pytest.fixture
def short_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two `TEXT`."""
    monkeypatch.setattr("components.classifier.engine._CHARACTERS_A_SLICE", 2 * len(TEXT))


@pytest.fixture
def batcher() -> Iterator[MicroBatcher]:
    batcher = MicroBatcher(100, 60)
    yield batcher
    batcher.close()


def test_slices_give_what_one_pass_gives(batcher: MicroBatcher, classifier: Classifier, short_slices: None) -> None:
    requests = [[f"film {n} is " + "good " * (n * i % 90) for i in range(n % 23 + 1)] for n in range(15)]
    futures = [batcher.submit(classifier, texts) for texts in requests]
    for texts, future in zip(requests, futures, strict=True):
        found = result(future)
        one_by_one = [classifier.score([text]) for text in texts]
        np.testing.assert_allclose(found.scores.logits, [one.logits[0] for one in one_by_one], atol=1e-4)
        np.testing.assert_allclose(found.scores.embeddings, [one.embeddings[0] for one in one_by_one], atol=1e-4)
        assert found.scores.windows.tolist() == [one.windows[0] for one in one_by_one]
        assert found.tokens == sum(len(window) for window in classifier.engine.encode(texts).windows)
    assert batcher.waiting_tokens == 0


def test_who_comes_meanwhile_is_tokenized_between_two_slices(
    batcher: MicroBatcher, classifier: Classifier, short_slices: None
) -> None:
    order: list[str] = []
    others_wait = threading.Event()

    def texts(name: str, count: int) -> Texts:
        def on_read(before: int) -> None:
            order.append(name)
            assert others_wait.wait(30)

        return Texts([TEXT] * count, on_read)

    futures = [batcher.submit(classifier, texts(*asked)) for asked in (("large", 8), ("other large", 8), ("small", 1))]
    others_wait.set()
    for future in futures:
        result(future)
    assert order[:5] == ["large", "other large", "small", "large", "other large"]
    assert sorted(order) == ["large"] * 4 + ["other large"] * 4 + ["small"]


def test_no_more_is_tokenized_than_the_model_needs_next(classifier: Classifier, short_slices: None) -> None:
    gate = Gate()
    batcher = MicroBatcher(100, 60, gate)
    held, large = batcher.submit(classifier, [TEXT]), Texts([TEXT] * 80, lambda before: None)
    assert gate.reached.wait(30)
    future = batcher.submit(classifier, large)
    for _ in range(3):  # the desk has done all that it will once it has answered for these
        with pytest.raises(IndexError):
            result(batcher.submit(classifier, []))
    assert large.read == 2
    gate.opened.set()
    result(held)
    assert len(result(future).scores.windows) == 80
    assert large.read == 40
    batcher.close()


def test_a_small_request_does_not_wait_for_the_slices_of_a_large_one(classifier: Classifier) -> None:
    large = ["a fine film " * 8000] * 25
    start = time.monotonic()
    classifier.engine.encode(large)
    tokenizing = time.monotonic() - start
    batcher = MicroBatcher(256, 60)
    future = batcher.submit(classifier, large)
    delays = []
    for _ in range(5):
        start = time.monotonic()
        result(batcher.submit(classifier, [TEXT]))
        delays.append(time.monotonic() - start)
    assert not future.done()
    assert max(delays) < tokenizing / 2
    future.cancel()
    batcher.close()


@pytest.mark.slow
def test_large_requests_take_little_memory(small_model: Path) -> None:
    command = [sys.executable, "-c", _PEAK, str(small_model)]
    answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert json.loads(answer) < 100  # megabytes; 500 if the first of them is tokenized in one go


def test_its_own_tokenizing_does_not_make_a_request_late(classifier: Classifier) -> None:
    clock = Clock()

    def on_read(before: int) -> None:
        clock.now += 10

    batcher = MicroBatcher(100, 0.2, clock=clock)
    assert len(result(batcher.submit(classifier, Texts([TEXT] * 3, on_read))).scores.windows) == 3
    batcher.close()


def test_what_is_too_late_is_not_even_tokenized(classifier: Classifier) -> None:
    clock, both_wait = Clock(), threading.Event()

    def on_read(before: int) -> None:
        assert both_wait.wait(30)
        clock.now += 0.21

    batcher = MicroBatcher(100, 0.2, clock=clock)
    first, late = Texts([TEXT], on_read), Texts([TEXT], on_read)
    futures = [batcher.submit(classifier, texts) for texts in (first, late)]
    both_wait.set()
    assert result(futures[0])
    with pytest.raises(QueueFullError):
        result(futures[1])
    assert (first.read, late.read) == (1, 0)
    batcher.close()


def test_what_was_given_up_is_not_tokenized_on(
    batcher: MicroBatcher, classifier: Classifier, short_slices: None
) -> None:
    reached, given_up = threading.Event(), threading.Event()

    def on_read(before: int) -> None:
        if before == 1:
            reached.set()
            assert given_up.wait(30)

    large = Texts([TEXT] * 80, on_read)
    future = batcher.submit(classifier, large)
    assert reached.wait(30)
    assert future.cancel()
    given_up.set()
    result(batcher.submit(classifier, [TEXT]))
    assert large.read == 2
    assert batcher.waiting_tokens == 0


def test_a_fault_of_a_later_slice_fails_its_request_alone(
    batcher: MicroBatcher, classifier: Classifier, short_slices: None
) -> None:
    def on_read(before: int) -> None:
        if before == 3:
            raise ValueError("of the fourth slice")

    failing = batcher.submit(classifier, Texts([TEXT] * 80, on_read))
    good = [batcher.submit(classifier, [TEXT] * 20) for _ in range(5)]
    with pytest.raises(ValueError, match="of the fourth slice"):
        result(failing)
    assert all(len(result(future).scores.windows) == 20 for future in good)
    assert batcher.waiting_tokens == 0


def test_closing_answers_what_is_not_tokenized_yet(classifier: Classifier, short_slices: None) -> None:
    batcher = MicroBatcher(100, 60)
    futures = [batcher.submit(classifier, [TEXT] * 40) for _ in range(5)]
    batcher.close()
    assert all(future.done() and len(result(future).scores.windows) == 40 for future in futures)
