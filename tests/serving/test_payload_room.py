"""What the payload log does with a text before it is written: nothing on the event loop, and it counts as it is."""

import time
from pathlib import Path

import pytest
from test_payload_log import rows_of

from components.classifier.classifier import Classifier
from components.classifier.text import clean
from components.config import ServingSettings
from components.storage import ObjectStore
from serving import metrics
from serving.payload_log import PayloadLog

pytestmark = pytest.mark.slow


def test_an_offer_takes_the_event_loop_no_time(bucket: ObjectStore, small_model: Path) -> None:
    classifier, texts = Classifier.load(small_model), ["a fine &amp; good film\n" * 4000] * 20
    log = PayloadLog(bucket, ServingSettings(payload_share=1, payload_content="text"))  # not started yet
    scores, kept = classifier.score(["fine"] * 20), clean(texts[0])
    predictions = classifier.predictions(scores)
    start = time.thread_time()
    for text in texts:
        clean(text)
    cleaning, start = time.thread_time() - start, time.thread_time()
    log.offer("r", time.time(), texts, scores, predictions)
    assert time.thread_time() - start < cleaning / 10
    log.start()
    log.close()
    assert [row["text"] for row in rows_of(bucket)] == [kept] * 20


@pytest.mark.parametrize("content", ["embedding", "text"])
@pytest.mark.parametrize("long", ["<br />" * 3000, "word " * 3600])  # one of no text once it is cleaned
def test_texts_that_wait_count_as_they_were_asked_and_are_dropped_alike(
    bucket: ObjectStore, small_model: Path, content: str, long: str
) -> None:
    classifier = Classifier.load(small_model)
    settings = ServingSettings(payload_share=1, payload_content=content, payload_megabytes=2, maximum_characters=18_000)
    log, full = PayloadLog(bucket, settings), metrics.PAYLOAD.labels("full")  # the log is not started yet
    scores = classifier.score(["fine"])
    predictions, texts, before = classifier.predictions(scores), [long, "short", " "] * 100, full._value.get()
    for number, text in enumerate(texts):
        log.offer(f"{number:03d}", time.time(), [text], scores, predictions)
    taken = len(texts) - int(full._value.get() - before)
    most = 4 * 18_000 + 100  # bytes of a text
    assert (1 << 20) - most - 25_000 < sum(len(text) for text in texts[:taken]) + taken * 2200 <= 1 << 20
    log.start()
    log.close()
    assert log._held_bytes == 0
    expected = [f"{number:03d}" for number in range(taken) if clean(texts[number])]
    assert [row["id"] for row in rows_of(bucket)] == expected  # from the first that there was no room for on, none
