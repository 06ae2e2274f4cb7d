"""everbert check against a real object store, with a model that was really trained."""

import csv
import io
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from kfp_server import KfpServer
from stream_samples import SETTINGS, Samples, as_csv, drop, serve

from components.config import load
from components.deployment import pointer
from components.drift import ledger
from components.drift.state import State
from components.errors import DataError, StorageError
from components.storage import ObjectStore
from pipelines.cluster_runner import ClusterRuns
from pipelines.drift_check import check

pytestmark = pytest.mark.slow
NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
WINDOW = 26  # a tenth of the model's reference


def state_of(store: ObjectStore) -> State:
    """The only state in the bucket."""
    (item,) = store.list("ledger/drift/sentiment/")
    return ledger.read(store, "sentiment", item.key.rpartition("/")[2].removesuffix(".json"))[0]


def rows_of(store: ObjectStore, key: str) -> list[dict[str, str]]:
    found = store.get(key)
    assert found is not None
    return list(csv.DictReader(io.StringIO(found[0].decode("utf-8-sig"), newline="")))


def label(store: ObjectStore, samples: Samples) -> None:
    store.put("labels/tweets.csv", as_csv(["id", "label"], list(samples.labels.items())))


def test_quiet_then_drift_waits_for_labels_then_retrains_once(
    stream: ObjectStore, samples: Samples, kfp: KfpServer
) -> None:
    runs = ClusterRuns(kfp.url)
    drop(stream, "movies/1.csv", samples.movies[:130])
    drop(stream, "movies/2.csv", samples.movies[130:240])
    quiet = check(stream, "sentiment", SETTINGS, runs, at=NOON)
    assert (quiet.verdict.verdict, quiet.windows, quiet.number) == ("quiet", 240 // WINDOW, 1)
    assert quiet.seen.evidence < quiet.seen.bar
    assert stream.head(quiet.report)
    again = check(stream, "sentiment", SETTINGS, runs, at=NOON)
    assert (again.verdict.verdict, again.windows, again.number) == ("quiet", 0, 0)

    drop(stream, "tweets/1.csv", samples.tweets[:240])
    waits = check(stream, "sentiment", SETTINGS, runs, at=NOON + timedelta(hours=1))
    assert waits.verdict.verdict == "wait"
    assert "0 of the 60 labelled texts" in waits.verdict.reason
    assert waits.seen.effect_size > SETTINGS.retrain.effect_size
    questions = rows_of(stream, waits.request)
    assert len(questions) == SETTINGS.retrain.annotation_rows
    assert {row["why"] for row in questions} == {"uncertain", "unusual"}
    assert sum(row["id"].startswith("tweets") for row in questions) > len(questions) / 2
    assert check(stream, "sentiment", SETTINGS, runs, at=NOON + timedelta(hours=2)).number == 0
    assert kfp.runs == []

    label(stream, samples)
    fires = check(stream, "sentiment", SETTINGS, runs, at=NOON + timedelta(hours=3), server_url="http://server")
    assert (fires.verdict.verdict, fires.windows) == ("retrain", 0)
    assert fires.seen.harm is not None
    counted = samples.tweets[: 480 // WINDOW * WINDOW - 240]
    assert fires.seen.labelled_rows == len(counted)
    assert SETTINGS.retrain.minimum_measured <= fires.seen.harm.labelled_rows <= len(counted)
    (run,) = kfp.runs
    assert run["run_id"] == fires.run
    assert fires.retrain is not None
    assert run["display_name"] == f"retrain-{fires.retrain.id}"
    assert kfp.version_of(run)["pipeline_spec"]["pipelineInfo"]["name"] == "continuous-training"
    parameters = run["runtime_config"]["parameters"]
    assert parameters["new_sources"] == ["tweets"]
    assert parameters["champion"] == parameters["warm_start"]
    assert parameters["server_url"] == "http://server"
    learned = rows_of(stream, parameters["sources"][0].removeprefix(stream.uri("")))
    assert [row["id"] for row in learned] == [row[0] for row in counted]
    assert {row["label_source"] for row in learned} == {"delayed"}

    after = check(stream, "sentiment", SETTINGS, runs, at=NOON + timedelta(hours=4))
    assert after.verdict.verdict == "quiet"
    assert len(kfp.runs) == 1
    assert [e.verdict for e in state_of(stream).history] == ["quiet", "wait", "retrain"]


def test_a_filled_in_request_is_learnt_from_but_not_measured_on(stream: ObjectStore, samples: Samples) -> None:
    settings = replace(SETTINGS, retrain=replace(SETTINGS.retrain, minimum_labels=30))
    drop(stream, "tweets/1.csv", samples.tweets[:240])
    waits = check(stream, "sentiment", settings, None, at=NOON)
    questions = rows_of(stream, waits.request)
    for row in questions[:35]:
        row["label"] = "Positive" if samples.labels[row["id"]] == "1" else "Negative"
    stream.put(waits.request, as_csv(list(questions[0]), [list(row.values()) for row in questions]))
    fires = check(stream, "sentiment", settings, None, at=NOON)
    assert (fires.verdict.verdict, fires.run) == ("retrain", "")
    assert fires.retrain is not None
    assert fires.seen.labelled_rows == 35
    assert fires.seen.harm is not None
    assert fires.seen.harm.labelled_rows == 0
    learned = rows_of(stream, fires.retrain.arguments["sources"][0].removeprefix(stream.uri("")))
    assert {row["label_source"] for row in learned} == {"human"}


def test_rest_rows_of_small_files_accumulate_to_a_window(stream: ObjectStore, samples: Samples) -> None:
    for i in range(2):
        drop(stream, f"movies/{i}.csv", samples.movies[10 * i : 10 * i + 10])
    few = check(stream, "sentiment", SETTINGS, None, at=NOON)
    assert (few.windows, few.seen.rows_waiting, few.number) == (0, 20, 0)
    assert f"20 texts wait until a window of {WINDOW} is full" in few.verdict.reason
    for i in range(2, 5):
        drop(stream, f"movies/{i}.csv", samples.movies[10 * i : 10 * i + 10])
    full = check(stream, "sentiment", SETTINGS, None, at=NOON)
    assert (full.windows, full.seen.rows_waiting) == (1, 24)
    drop(stream, "movies/5.csv", samples.movies[50:60])
    assert check(stream, "sentiment", SETTINGS, None, at=NOON).seen.rows_waiting == 60 - 2 * WINDOW
    marks = state_of(stream).objects
    assert [(mark.end, mark.done) for _, mark in sorted(marks.items())] == [(10, True)] * 5 + [(2, False)]


def test_an_object_that_grows_is_counted_on_and_one_that_is_replaced_anew(
    stream: ObjectStore, samples: Samples
) -> None:
    drop(stream, "movies.csv", samples.movies[:30])
    assert check(stream, "sentiment", SETTINGS, None, at=NOON).windows == 1
    drop(stream, "movies.csv", samples.movies[: 2 * WINDOW + 2])
    grown = check(stream, "sentiment", SETTINGS, None, at=NOON)
    assert (grown.windows, grown.seen.rows_waiting) == (1, 2)
    drop(stream, "movies.csv", samples.movies[100 : 100 + WINDOW + 6])
    replaced = check(stream, "sentiment", SETTINGS, None, at=NOON)
    assert (replaced.windows, replaced.seen.windows_counted, replaced.seen.rows_waiting) == (1, 3, 6)


def test_a_file_that_cannot_be_scored_does_not_stop_the_check(stream: ObjectStore, samples: Samples) -> None:
    stream.put("incoming/empty.csv", b"")
    stream.put("incoming/no-text.csv", b"id,body\n1,x\n")
    drop(stream, "movies.csv", samples.movies[:30])
    made = check(stream, "sentiment", SETTINGS, None, at=NOON)
    assert (made.windows, made.refused) == (1, ["incoming/empty.csv", "incoming/no-text.csv"])


def test_a_file_that_the_store_fails_on_does_not_stop_the_check(stream: ObjectStore, samples: Samples) -> None:
    drop(stream, "broken.csv", samples.movies[:30])
    item, served = stream.head("incoming/broken.csv"), pointer.read(stream, "sentiment")
    assert item is not None
    assert served is not None
    part = f"{item.etag}-{served[0].model_version}/2048-10000-same/000000.npz"
    stream.put(f"ledger/batch/broken.csv/{part}", b"half a part")
    drop(stream, "movies.csv", samples.movies[30:60])
    made = check(stream, "sentiment", SETTINGS, None, at=NOON)
    assert (made.windows, made.refused) == (1, ["incoming/broken.csv"])


def test_what_cannot_be_checked_is_one_line(stream: ObjectStore, bucket: ObjectStore) -> None:
    with pytest.raises(DataError, match=r"supports windows of at most 26 texts, and drift\.minimum_window is 50"):
        check(stream, "sentiment", load(None, {"drift": {"minimum_window": 50}}), None)
    with pytest.raises(DataError, match="no version of the model 'other' is served"):
        check(bucket, "other", SETTINGS, None)
    version = serve(stream, _served_uri(stream), "2")
    stream.put(f"ledger/drift/sentiment/{version}.json", b'{"schema": 1}')
    with pytest.raises(StorageError, match=r"ledger/drift/sentiment/.* is damaged .*restore an earlier version"):
        check(stream, "sentiment", SETTINGS, None)


def _served_uri(store: ObjectStore) -> str:
    found = store.get("models/sentiment/champion.json")
    assert found is not None
    return str(json.loads(found[0])["uri"])


def test_checks_that_overlap_count_every_window_once_and_submit_once(
    stream: ObjectStore, samples: Samples, kfp: KfpServer
) -> None:
    drop(stream, "tweets/1.csv", samples.tweets[:240])
    label(stream, samples)
    runs = ClusterRuns(kfp.url)
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: check(stream, "sentiment", SETTINGS, runs, at=NOON), range(4)))
    assert sorted(c.windows for c in made) == [0, 0, 0, 9]
    state = state_of(stream)
    assert (state.windows, state.rows) == (9, 9 * WINDOW)
    assert [e.verdict for e in state.history if e.windows] == ["retrain"]
    assert len(state.retrains) == len(kfp.runs) == 1


def test_the_command_exits_0_for_every_verdict_and_2_for_what_cannot_be_checked(
    stream: ObjectStore, samples: Samples
) -> None:
    drop(stream, "tweets.csv", samples.tweets[:240])
    command = [sys.executable, "-m", "pipelines", "check", "--bucket", f"s3://{stream.bucket}", "--submit", "none"]
    small = ["--minimum-window", "20", "--permutations", "199", "--checks-a-year", "400", "--json"]
    made = subprocess.run([*command, *small], capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    result = json.loads(made.stdout)
    assert (result["verdict"], result["windows"], result["run"]) == ("wait", 240 // WINDOW, "")
    events = [json.loads(line) for line in made.stderr.splitlines() if line.startswith("{")]
    (event,) = [event for event in events if event["event"] == "drift_check"]
    assert event["evidence"] == result["evidence"] >= event["bar"]
    assert not any(text in made.stderr for _, text in samples.tweets[:240] if len(text) > 30)
    refused = subprocess.run([*command, "--model-name", "other"], capture_output=True, text=True)
    assert refused.returncode == 2
    assert refused.stderr.startswith("everbert: no version of the model 'other' is served")
