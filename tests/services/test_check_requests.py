"""everbert check on what model servers were asked: the payload log of the served version, by the real server."""

import contextlib
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import requests
from server_process import Server, running
from stream_samples import SETTINGS, Samples, drop
from test_check import label, rows_of, state_of

from components import payload
from components.batch import sample
from components.classifier.text import clean
from components.drift import request_rows
from components.storage import ObjectStore
from pipelines.drift_check import check
from pipelines.replay import replay

pytestmark = pytest.mark.slow
NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)


@contextlib.contextmanager
def served(stream: ObjectStore, tmp_path: Path, content: str = "embedding") -> Iterator[Server]:
    """The champion, by a server with the payload log on, which is written when the server stops."""
    settings = {"threads": 1, "payload_bucket": f"s3://{stream.bucket}", "payload_share": 1, "payload_content": content}
    tmp_path.mkdir(exist_ok=True)
    log = tmp_path / f"log-{len(list(tmp_path.iterdir()))}"
    with running(f"s3://{stream.bucket}/models/sentiment", log, json.dumps(settings)) as server:
        yield server


def ask(server: Server, rows: Sequence[Sequence[str]]) -> None:
    """A request for each of the [id, text] rows, under its id."""
    with requests.Session() as session:
        for row_id, text in rows:
            body = {"instances": [text]}
            url, headers = f"{server.url}/v1/models/sentiment:predict", {"x-request-id": row_id}
            assert session.post(url, json=body, headers=headers, timeout=60).status_code == 200


def test_requests_like_the_reference_are_quiet_and_others_are_drift(
    stream: ObjectStore, samples: Samples, tmp_path: Path
) -> None:
    with served(stream, tmp_path) as server:
        ask(server, samples.movies[:140])
    quiet = check(stream, "sentiment", SETTINGS, None, at=NOON)
    window = quiet.seen.window_size
    assert (quiet.verdict.verdict, quiet.windows, quiet.seen.rows_waiting) == ("quiet", 140 // window, 140 % window)
    assert stream.head(quiet.report)
    with served(stream, tmp_path) as server:
        ask(server, samples.movies[140:240])
    again = check(stream, "sentiment", SETTINGS, None, at=NOON)
    assert (again.verdict.verdict, again.seen.windows_counted) == ("quiet", 240 // window)
    assert check(stream, "sentiment", SETTINGS, None, at=NOON).windows == 0

    with served(stream, tmp_path) as server:
        ask(server, samples.tweets[:240])
    drifted = check(stream, "sentiment", SETTINGS, None, at=NOON)
    assert drifted.seen.evidence >= drifted.seen.bar
    assert drifted.seen.effect_size > SETTINGS.retrain.effect_size
    assert (drifted.verdict.verdict, drifted.request) == ("wait", "")  # no text was kept that could be asked about
    state = state_of(stream)
    assert state.rows == 480 // window * window
    assert len(state.objects) == 3  # a mark for each server, however many parts it wrote
    record = replay(stream.uri(drifted.record))
    assert record["same"], record["said"]
    assert "windows, the evidence, size and harm" in record["said"]


def test_kept_texts_are_asked_about_learnt_from_and_measured_on(
    stream: ObjectStore, samples: Samples, tmp_path: Path
) -> None:
    with (
        served(stream, tmp_path, "text") as one,
        served(stream, tmp_path, "text") as two,
        ThreadPoolExecutor(2) as pool,
    ):
        halves = (one, samples.tweets[:240:2]), (two, samples.tweets[1:240:2])
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda half: ask(*half), halves))
    waits = check(stream, "sentiment", SETTINGS, None, at=NOON)
    window = waits.seen.window_size
    assert (waits.verdict.verdict, waits.windows) == ("wait", 240 // window)
    texts = dict(samples.tweets[:240])
    questions = rows_of(stream, waits.request)
    assert len(questions) == SETTINGS.retrain.annotation_rows
    for row in questions:  # what a spreadsheet would take for a formula has a ' before it
        assert row["text"].removeprefix("'") == clean(texts[row["id"]]).removeprefix("'")
    label(stream, samples)
    fires = check(stream, "sentiment", SETTINGS, None, at=NOON)
    assert fires.verdict.verdict == "retrain"
    assert fires.seen.labelled_rows == 240 // window * window
    assert fires.seen.harm is not None
    assert fires.seen.harm.labelled_rows >= SETTINGS.retrain.minimum_measured
    assert fires.retrain is not None
    assert fires.retrain.arguments["new_sources"] == ["requests"]
    learned = rows_of(stream, fires.retrain.arguments["sources"][0].removeprefix(stream.uri("")))
    assert len({row["id"] for row in learned}) == len(learned) == fires.seen.labelled_rows
    assert {row["id"] for row in learned} < set(texts)


def test_a_damaged_part_of_the_log_stops_no_check(stream: ObjectStore, samples: Samples, tmp_path: Path) -> None:
    drop(stream, "movies.csv", samples.movies[:60])
    with served(stream, tmp_path, "text") as server:
        ask(server, samples.movies[60:180])
    ((part, _),) = payload.parts(stream)
    stream.put(part.key, b"no Parquet")
    with served(stream, tmp_path, "text") as server:
        ask(server, samples.movies[180:240])
    made = check(stream, "sentiment", SETTINGS, None, at=NOON)
    window = made.seen.window_size
    assert made.refused == [part.key]
    assert (made.windows, made.seen.rows_waiting) == (120 // window, 120 % window)
    assert list(request_rows.texts(stream, part.series, 0, 1000)) == []


def test_files_and_requests_are_one_stream_and_the_log_has_what_batch_keeps(
    stream: ObjectStore, samples: Samples, tmp_path: Path
) -> None:
    rows = samples.movies[:60]
    drop(stream, "movies.csv", rows)
    with served(stream, tmp_path) as server:
        ask(server, rows)
    made = check(stream, "sentiment", SETTINGS, None, at=NOON)
    window = made.seen.window_size
    assert (made.windows, made.seen.rows_waiting) == (120 // window, 120 % window)
    marks = state_of(stream).objects
    assert sorted(key.partition("/")[0] for key in marks) == ["incoming", "payload"]
    ((part, _),) = payload.parts(stream)
    loaded = payload.load(stream, part.key)
    (item,) = stream.list(f"{sample.PREFIX}/")
    kept = sample.load(stream, item.key)
    assert loaded is not None
    assert kept is not None
    assert loaded[0]["id"].to_pylist() == [row_id for row_id, _ in rows]
    np.testing.assert_allclose(payload.vectors(loaded[0], "embedding"), kept.embeddings, atol=0.02)  # of other batches
    np.testing.assert_allclose(payload.vectors(loaded[0], "logits"), kept.logits, atol=0.02)


def test_only_the_served_version_counts_and_parts_that_go_are_not_counted_again(
    stream: ObjectStore, samples: Samples, tmp_path: Path
) -> None:
    with served(stream, tmp_path) as server:
        ask(server, samples.movies[:50])
    ((part, _),) = payload.parts(stream)
    other = part.key.replace(part.series.split("/")[1], "another-version")
    stream.put(other, (stream.get(part.key) or (b"",))[0])
    made = check(stream, "sentiment", SETTINGS, None, at=NOON)
    assert (made.windows, made.seen.rows_waiting) == (1, 50 - made.seen.window_size)
    stream.delete(part.key)
    gone = check(stream, "sentiment", SETTINGS, None, at=NOON)
    assert (gone.windows, gone.seen.rows_waiting) == (0, 0)


def test_what_is_left_is_judged_when_the_oldest_requests_are_gone(
    stream: ObjectStore, samples: Samples, tmp_path: Path
) -> None:
    for rows in (samples.tweets[:120], samples.tweets[120:240]):
        with served(stream, tmp_path, "text") as server:
            ask(server, rows)
    waits = check(stream, "sentiment", SETTINGS, None, at=NOON)
    assert waits.verdict.verdict == "wait"
    oldest = min((part for part, _ in payload.parts(stream)), key=lambda part: part.written)
    stream.delete(oldest.key)  # as a server does after payload_days, while labels are waited for
    label(stream, samples)
    fires = check(stream, "sentiment", SETTINGS, None, at=NOON)
    assert fires.verdict.verdict == "retrain"
    assert 60 < fires.seen.labelled_rows <= 120
    assert fires.seen.harm is not None
    record = replay(stream.uri(fires.record))
    assert record["same"], record["said"]


def test_checks_that_overlap_count_requests_once(stream: ObjectStore, samples: Samples, tmp_path: Path) -> None:
    with served(stream, tmp_path) as server:
        ask(server, samples.movies[:130])
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: check(stream, "sentiment", SETTINGS, None, at=NOON), range(4)))
    window = made[0].seen.window_size
    assert sorted(c.windows for c in made) == [0, 0, 0, 130 // window]
    assert state_of(stream).rows == 130 // window * window
