"""The micro-batcher on a real, small model: batches, turns, bounds, cancellation, versions."""

import statistics
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from server_process import write_model

from components.classifier.classifier import Classifier
from serving.batcher import MicroBatcher, QueueFullError, Scored

TEXT = "a fine film"  # five tokens
LONG = "word " * 300  # several windows of 64 tokens
TOKENS = 5


class Gate:
    """Holds the worker before each batch until it is opened; remembers the tokens of each batch."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.opened = threading.Event()
        self.reached = threading.Event()

    def __call__(self, tokens: int) -> None:
        self.batches.append(tokens)
        self.reached.set()
        assert self.opened.wait(30)


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
    """A batcher whose worker is held in a first batch of one text, at most 100 tokens a batch."""
    batcher = MicroBatcher(100, 60, gate)
    batcher.submit(classifier, [TEXT])
    assert gate.reached.wait(30)
    yield batcher
    gate.opened.set()
    batcher.close()


def result(future: "Future[Scored]") -> Scored:
    return future.result(timeout=30)


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
    batched = seconds_of(lambda: result(batcher.submit(classifier, [TEXT])))
    assert batched < 2 * alone + 0.005
    assert result(batcher.submit(classifier, [TEXT])).queue_seconds < 0.05
    batcher.close()


def test_what_waits_goes_as_one_batch_within_the_budget(held: MicroBatcher, gate: Gate, classifier: Classifier) -> None:
    futures = [held.submit(classifier, [TEXT]) for _ in range(25)]
    gate.opened.set()
    assert len([result(future) for future in futures]) == 25
    assert gate.batches == [TOKENS, 20 * TOKENS, 5 * TOKENS]


def test_a_large_request_takes_turns(held: MicroBatcher, gate: Gate, classifier: Classifier) -> None:
    order: list[str] = []
    large = held.submit(classifier, [LONG] * 20)
    small = held.submit(classifier, [TEXT])
    for name, future in (("large", large), ("small", small)):
        future.add_done_callback(lambda _, name=name: order.append(name))
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
    batcher = MicroBatcher(100, 0.2, gate)
    held = batcher.submit(classifier, [TEXT])
    assert gate.reached.wait(30)
    late = batcher.submit(classifier, [TEXT])
    time.sleep(0.3)
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
    gate.opened.set()
    result(held)
    for future in waiting:
        result(future)
    assert 2000 < gate.batches[1] <= 4000  # tokens of a second, at the speed that is assumed
    batcher.close()


def test_the_measured_speed_lets_in_what_can_be_scored_in_time(classifier: Classifier) -> None:
    batcher = MicroBatcher(200, 1)
    while batcher.waiting_tokens == 0:  # until one more is waiting than is scored
        batcher.submit(classifier, [LONG] * 5)
    accepted: list[Future[Scored]] = []
    refusals = 0
    end = time.monotonic() + 3
    while time.monotonic() < end:
        try:
            accepted.append(batcher.submit(classifier, [TEXT] * 10))
        except QueueFullError:
            refusals += 1
            time.sleep(0.002)
    batcher.close()
    waits = [scored.result().queue_seconds for scored in accepted if not scored.exception()]
    assert refusals
    assert len(waits) > 0.5 * len(accepted)  # nearly all, but for what else the machine does meanwhile
    assert max(waits) <= 1.25  # the bound and the batch that was under way
    assert statistics.median(waits) > 0.1


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
    assert broken.engine._frozen is not None
    broken.engine._frozen._words = broken.engine._frozen._words[:10]  # most tokens have no embedding now
    failing, good = held.submit(broken, [TEXT]), held.submit(classifier, [TEXT])
    gate.opened.set()
    with pytest.raises(IndexError):
        failing.result(timeout=30)
    assert result(good).classifier is classifier


def test_closing_answers_what_waits(gate: Gate, classifier: Classifier) -> None:
    batcher = MicroBatcher(100, 60, gate)
    futures = [batcher.submit(classifier, [TEXT]) for _ in range(5)]
    gate.opened.set()
    batcher.close()
    assert all(future.done() and result(future) for future in futures)
