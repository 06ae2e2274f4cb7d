"""The micro-batcher on a real, small model: batches, turns, bounds, cancellation, versions."""

import statistics
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from server_process import write_model

from components.classifier.classifier import Classifier
from serving.batcher import MicroBatcher
from serving.queued import QueueFullError, Scored

TEXT = "a fine film"  # five tokens
LONG = "word " * 300  # several windows of 64 tokens
TOKENS = 5


class Gate:
    """Holds the model before each batch until it is opened; remembers the tokens of each batch."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.opened = threading.Event()
        self.reached = threading.Event()

    def __call__(self, tokens: int) -> None:
        self.batches.append(tokens)
        self.reached.set()
        assert self.opened.wait(30)


class Clock:
    """Time that passes only by what the test says."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Machine:
    """The real model on a machine that scores `speed` tokens a second by `clock`; asked every `gap` seconds."""

    arrive: Callable[[], None]
    handed_over: Callable[[], None]

    def __init__(self, clock: Clock, speed: float, gap: float, until: float) -> None:
        self.clock, self.speed, self.gap, self.until = clock, speed, gap, until
        self.idle = threading.Event()
        self._next = 0.0

    def __call__(self, tokens: int) -> None:
        self.handed_over()  # the last batch, before time passes
        end = self.clock.now + tokens / self.speed
        while self._next < min(end, self.until):
            self.clock.now = max(self.clock.now, self._next)
            self.arrive()
            self._next += self.gap
        self.clock.now = end
        if end >= self.until:
            self.idle.set()


@pytest.fixture(scope="module")
def classifier(small_model: Path) -> Classifier:
    return Classifier.load(small_model)


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.opened.set()


@pytest.fixture
def held(gate: Gate, classifier: Classifier) -> Iterator[MicroBatcher]:
    """A batcher whose model is held in a first batch of one text, at most 100 tokens a batch."""
    batcher = MicroBatcher(100, 60, gate)
    batcher.submit(classifier, [TEXT])
    assert gate.reached.wait(30)
    yield batcher
    gate.opened.set()
    batcher.close()


def result(future: "Future[Scored]") -> Scored:
    return future.result(timeout=30)


def tokenized(batcher: MicroBatcher) -> None:
    """Until all that waits is."""
    while batcher._requests > len(batcher._ready):
        time.sleep(0.0005)


def test_answers_are_those_of_the_classifier(classifier: Classifier) -> None:
    batcher = MicroBatcher(100, 60)
    requests = [[TEXT] * (n % 3 + 1) + ([LONG] if n % 4 == 0 else []) + [f"text {n}"] for n in range(40)]
    with ThreadPoolExecutor(8) as pool:
        futures = list(pool.map(lambda texts: batcher.submit(classifier, texts), requests))
    for texts, future in zip(requests, futures, strict=True):
        found, expected = result(future).scores, classifier.score(texts)
        np.testing.assert_allclose(found.logits, expected.logits, atol=1e-4)
        np.testing.assert_allclose(found.embeddings, expected.embeddings, atol=1e-4)
        assert found.windows.tolist() == expected.windows.tolist()
    batcher.close()


def test_a_lone_request_never_waits(classifier: Classifier) -> None:
    batcher = MicroBatcher(2048, 2)

    def seconds_of(ask: object) -> float:
        times = []
        for _ in range(30):
            start = time.monotonic()
            ask()  # type: ignore[operator]
            times.append(time.monotonic() - start)
        return statistics.median(times)

    alone = seconds_of(lambda: classifier.score([TEXT]))
    queued: list[float] = []
    batched = seconds_of(lambda: queued.append(result(batcher.submit(classifier, [TEXT])).queue_seconds))
    assert batched < 2 * alone + 0.005
    assert statistics.median(queued) < 0.005
    batcher.close()


def test_what_waits_goes_as_one_batch_within_the_budget(held: MicroBatcher, gate: Gate, classifier: Classifier) -> None:
    futures = [held.submit(classifier, [TEXT]) for _ in range(25)]
    tokenized(held)
    gate.opened.set()
    assert len([result(future) for future in futures]) == 25
    assert gate.batches == [TOKENS, 20 * TOKENS, 5 * TOKENS]


def test_two_batches_take_turns_where_there_is_enough_for_two(gate: Gate, classifier: Classifier) -> None:
    batcher = MicroBatcher(2048, 60, gate)
    futures = [batcher.submit(classifier, [TEXT])]
    assert gate.reached.wait(30)
    futures += [batcher.submit(classifier, [" ".join([TEXT] * 10)]) for _ in range(32)]  # of 32 tokens each
    tokenized(batcher)
    waiting = batcher.waiting_tokens
    gate.opened.set()
    assert [len(result(future).scores.windows) for future in futures] == [1] * 33
    assert gate.batches[0] == TOKENS
    assert waiting / 2 - 32 <= gate.batches[1] <= waiting / 2
    assert gate.batches[1:] == [gate.batches[1], 32 * 32 - gate.batches[1]]
    batcher.close()


@pytest.mark.parametrize("texts", [[[TEXT]] * 40, [[TEXT] * 200]])  # little together; much, but of one request
def test_one_batch_does_where_two_would_gain_nothing(
    texts: list[list[str]], gate: Gate, classifier: Classifier
) -> None:
    batcher = MicroBatcher(2048, 60, gate)
    held = batcher.submit(classifier, [TEXT])
    assert gate.reached.wait(30)
    futures = [batcher.submit(classifier, some) for some in texts]
    tokenized(batcher)
    gate.opened.set()
    for future in (held, *futures):
        result(future)
    assert gate.batches == [TOKENS, sum(map(len, texts)) * TOKENS]
    batcher.close()


def test_a_large_request_takes_turns(held: MicroBatcher, gate: Gate, classifier: Classifier) -> None:
    order: list[str] = []
    large = held.submit(classifier, [LONG] * 20)
    small = held.submit(classifier, [TEXT])
    for name, future in (("large", large), ("small", small)):
        future.add_done_callback(lambda _, name=name: order.append(name))
    tokenized(held)
    gate.opened.set()
    assert result(large).scores.windows.tolist() == classifier.score([LONG] * 20).windows.tolist()
    result(small)
    assert order == ["small", "large"]
    assert max(gate.batches) <= 100


def test_what_would_wait_too_long_is_refused_at_once(gate: Gate, classifier: Classifier) -> None:
    batcher = MicroBatcher(100, 1, gate)
    accepted = [batcher.submit(classifier, [TEXT])]
    assert gate.reached.wait(30)
    expected = 0.8 * 1 * 4000  # tokens of a second, at the speed that is assumed before any was measured
    while batcher.waiting_tokens <= expected:
        accepted.append(batcher.submit(classifier, [TEXT]))
    assert batcher.waiting_tokens == expected + 4  # 4 is the estimate for its 11 bytes
    with pytest.raises(QueueFullError, match="about 3204 tokens wait already; try again in 1 s"):
        batcher.submit(classifier, [TEXT])
    gate.opened.set()
    batcher.close()
    assert all(future.done() for future in accepted)
    assert batcher.waiting_tokens == 0


def test_what_has_waited_too_long_is_refused_in_its_turn(gate: Gate, classifier: Classifier) -> None:
    clock = Clock()
    batcher = MicroBatcher(100, 0.2, gate, clock)
    held = batcher.submit(classifier, [TEXT])
    assert gate.reached.wait(30)
    late = batcher.submit(classifier, [TEXT])
    clock.now = 0.21
    gate.opened.set()
    result(held)
    with pytest.raises(QueueFullError) as refused:
        late.result(timeout=30)
    assert refused.value.retry_after >= 1
    assert gate.batches == [TOKENS]
    result(batcher.submit(classifier, [TEXT]))
    batcher.close()


def test_a_batch_takes_at_most_a_quarter_of_the_longest_wait(gate: Gate, classifier: Classifier) -> None:
    batcher = MicroBatcher(1_000_000, 4, gate)
    held = batcher.submit(classifier, [TEXT])
    assert gate.reached.wait(30)
    waiting = [batcher.submit(classifier, [LONG]) for _ in range(12)]
    tokenized(batcher)
    gate.opened.set()
    result(held)
    for future in waiting:
        result(future)
    assert 2000 < gate.batches[1] <= 4000  # tokens of a second, at the speed that is assumed
    batcher.close()


@pytest.mark.parametrize("speed", [1000, 4000, 12_000])  # 4000 is assumed before any was measured
def test_the_measured_speed_lets_in_what_can_be_scored_in_time(classifier: Classifier, speed: float) -> None:
    clock = Clock()
    accepted: list[Future[Scored]] = []
    answered: list[float] = []  # seconds from submission to answer
    refusals = 0

    def handed_over() -> None:
        while batcher._scored:
            time.sleep(0.0005)

    def arrive() -> None:
        nonlocal refusals
        start = clock.now
        learnt = start > 5  # before, the speed that is assumed may let in too much or too little
        try:
            future = batcher.submit(classifier, [TEXT] * 10)
        except QueueFullError:
            refusals += learnt
            return
        tokenized(batcher)
        if learnt:
            accepted.append(future)
            future.add_done_callback(lambda done: done.exception() or answered.append(clock.now - start))

    machine = Machine(clock, speed, gap=0.5 * 10 * TOKENS / speed, until=15)  # twice what it can
    machine.arrive, machine.handed_over = arrive, handed_over
    batcher = MicroBatcher(1_000_000, 1, machine, clock)
    batcher.submit(classifier, [TEXT])
    assert machine.idle.wait(120)
    batcher.close()
    waits = [scored.result().queue_seconds for scored in accepted if not scored.exception()]
    assert 0.4 < refusals / (refusals + len(accepted)) < 0.6
    assert len(waits) > 0.9 * len(accepted)
    assert max(waits) <= 1
    assert max(answered) <= 1.25
    assert statistics.median(waits) > 0.5  # it lets in what it can, too


def test_a_request_larger_than_the_queue_is_taken_when_nothing_waits(
    held: MicroBatcher, gate: Gate, classifier: Classifier
) -> None:
    future = held.submit(classifier, [LONG] * 50)
    held.submit(classifier, [TEXT])  # it counts for one batch only
    gate.opened.set()
    assert len(result(future).scores.windows) == 50


def test_what_was_given_up_is_not_computed(held: MicroBatcher, gate: Gate, classifier: Classifier) -> None:
    waiting = held.submit(classifier, [TEXT] * 3)
    kept = held.submit(classifier, [TEXT])
    assert waiting.cancel()
    tokenized(held)
    gate.opened.set()
    result(kept)
    assert gate.batches == [TOKENS, TOKENS]
    assert held.waiting_tokens == 0


def test_the_rest_of_a_large_request_that_was_given_up_is_not_computed(gate: Gate, classifier: Classifier) -> None:
    batcher = MicroBatcher(100, 60, gate)
    large = batcher.submit(classifier, [LONG] * 20)
    assert gate.reached.wait(30)
    assert large.cancel()
    gate.opened.set()
    result(batcher.submit(classifier, [TEXT]))
    assert len(gate.batches) == 2
    assert batcher.waiting_tokens == 0
    batcher.close()


def test_a_request_is_scored_by_the_version_it_was_submitted_to(
    held: MicroBatcher, gate: Gate, classifier: Classifier, tmp_path: Path
) -> None:
    other = Classifier.load(write_model(tmp_path / "other", seed=2))
    models = [classifier, other, other, classifier]
    texts = [TEXT, "word " * 30]
    futures = [held.submit(model, texts) for model in models]
    gate.opened.set()
    for model, future in zip(models, futures, strict=True):
        scored = result(future)
        assert scored.classifier is model
        np.testing.assert_allclose(scored.scores.logits, model.score(texts).logits, atol=1e-4)


def test_a_failing_model_fails_its_own_requests_only(
    held: MicroBatcher, gate: Gate, classifier: Classifier, small_model: Path
) -> None:
    broken = Classifier.load(small_model)
    broken.engine._frozen = None  # the weights as they are now
    embeddings = broken.engine.model.bert.embeddings.word_embeddings
    embeddings.weight = torch.nn.Parameter(embeddings.weight[:10])  # most tokens have none
    failing, good = held.submit(broken, [TEXT]), held.submit(classifier, [TEXT])
    gate.opened.set()
    with pytest.raises(RuntimeError, match="index out of range"):
        failing.result(timeout=30)
    assert result(good).classifier is classifier


def test_a_request_that_cannot_be_read_fails_alone(classifier: Classifier) -> None:
    batcher = MicroBatcher(100, 60)
    for _ in range(100):
        failing, good = batcher.submit(classifier, []), batcher.submit(classifier, [TEXT])
        with pytest.raises(IndexError):
            failing.result(timeout=30)
        assert result(good)
    assert batcher.waiting_tokens == 0
    batcher.close()


def test_closing_answers_what_waits(gate: Gate, classifier: Classifier) -> None:
    batcher = MicroBatcher(100, 60, gate)
    futures = [batcher.submit(classifier, [TEXT]) for _ in range(5)]
    gate.opened.set()
    batcher.close()
    assert all(future.done() and result(future) for future in futures)
