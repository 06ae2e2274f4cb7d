"""The payload log on the real server and a real object store: what it holds, what it drops, and that nobody notices."""

import json
import secrets
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import requests
from server_process import Server, is_ready, megabytes, running, scrape, wait_until, write_model

from components import payload
from components.classifier.answers import Expected
from components.classifier.classifier import PREDICTION_COLUMNS, Classifier
from components.config import ServingSettings
from components.deployment.probes import Endpoint
from components.errors import SettingsError, StorageError
from components.storage import ObjectStore
from serving.client import predict_grpc, predict_v1, predict_v2
from serving.payload_log import PayloadLog

pytestmark = pytest.mark.slow
TEXTS = ["a <b>fine</b> film", "dull", "word " * 300, " <br /> "]  # the last has no text
OUTCOMES = {name: f'everbert_payload_texts_total{{outcome="{name}"}}' for name in ("written", "full", "failed")}


def settings_of(bucket: ObjectStore, **settings: Any) -> str:
    on = {"threads": 1, "payload_bucket": f"s3://{bucket.bucket}", "payload_share": 1, "payload_seconds": 0.5}
    return json.dumps(on | settings)


def parts_of(bucket: ObjectStore) -> list[tuple[payload.PayloadPart, pa.Table]]:
    found = []
    for part, _ in payload.parts(bucket):
        loaded = payload.load(bucket, part.key)
        assert loaded is not None
        found.append((part, loaded[0]))
    return found


def rows_of(bucket: ObjectStore) -> list[dict[str, Any]]:
    return [row for _, table in parts_of(bucket) for row in table.to_pylist()]


def lines(server: Server, event: str) -> list[dict[str, Any]]:
    return [line for line in map(json.loads, server.log.read_text().splitlines()) if line["event"] == event]


def ask(server: Server, text: str, request_id: str = "") -> requests.Response:
    url, headers = f"{server.url}/v1/models/sentiment:predict", {"x-request-id": request_id} if request_id else None
    return requests.post(url, json={"instances": [text]}, headers=headers, timeout=30)


def test_it_holds_what_was_asked_and_answered_over_all_protocols(
    bucket: ObjectStore, small_model: Path, tmp_path: Path
) -> None:
    start = datetime.now(UTC)
    with running(str(small_model), tmp_path / "log", settings_of(bucket, payload_content="text")) as server:
        predict_v1(server.url, "sentiment", TEXTS)
        predict_v2(server.url, "sentiment", TEXTS)
        predict_grpc(server.address, "sentiment", TEXTS)
        assert ask(server, TEXTS[1], "mine").status_code == 200
        wait_until(lambda: scrape(server)[OUTCOMES["written"]] == 10, 20)
        ids = [line["id"] for line in lines(server, "request")]
        assert "mine" in ids
        assert not any(word in server.log.read_text() for word in ("film", "dull"))
    classifier = Classifier.load(small_model)
    scores, predictions = classifier.score(TEXTS), classifier.predict(TEXTS)
    rows = {row["id"]: row for row in rows_of(bucket)}
    assert sorted(rows) == sorted(["mine", *(f"{i}/{place}" for i in ids[:3] for place in range(3))])
    for row_id, row in rows.items():
        place = 1 if row_id == "mine" else int(row_id.rpartition("/")[2])
        assert row["text"] == ["a fine film", "dull", ("word " * 300).strip()][place]
        assert start <= row["received"] <= datetime.now(UTC)
        assert [row[name] for name in PREDICTION_COLUMNS if name != "confidence_score"] == [
            value for name, value in predictions[place]._asdict().items() if name != "confidence_score"
        ]
        assert row["confidence_score"] == pytest.approx(predictions[place].confidence_score, abs=2e-6)
        np.testing.assert_allclose(row["embedding"], scores.embeddings[place], atol=1e-4)
        np.testing.assert_allclose(row["logits"], scores.logits[place], atol=1e-4)
    times = [row["received"] for row in rows_of(bucket)]
    assert times == sorted(times)


def test_texts_are_kept_only_if_asked_for_and_nothing_unless_a_bucket_is_named(
    bucket: ObjectStore, small_model: Path, tmp_path: Path
) -> None:
    with running(str(small_model), tmp_path / "off") as server:
        predict_v1(server.url, "sentiment", TEXTS)
    assert list(bucket.list()) == []
    with running(str(small_model), tmp_path / "on", settings_of(bucket)) as server:
        predict_v1(server.url, "sentiment", TEXTS)
    (part, table), *_ = parts_of(bucket)
    assert not part.has_text
    assert table.column_names == ["id", "received", *PREDICTION_COLUMNS, "embedding", "logits"]
    assert not any(b"film" in (bucket.get(item.key) or (b"",))[0] for item in bucket.list())


def test_the_probes_of_a_roll_out_are_not_kept(bucket: ObjectStore, small_model: Path, tmp_path: Path) -> None:
    version = Classifier.load(small_model).version
    with running(str(small_model), tmp_path / "log", settings_of(bucket)) as server:
        endpoint = Endpoint(server.url, "sentiment", {version: Expected.of([], 1.0, "auto")})
        assert endpoint.version() == version
        assert endpoint.ask("fine", 10).version == version
        assert endpoint.smoke(version, 10) == ""
        assert ask(server, "fine", "mine").status_code == 200
    assert [row["id"] for row in rows_of(bucket)] == ["mine"]


def test_replicas_write_side_by_side_and_a_stop_writes_the_rest(
    bucket: ObjectStore, small_model: Path, tmp_path: Path
) -> None:
    late = settings_of(bucket, payload_seconds=3600)
    with (
        running(str(small_model), tmp_path / "1", settings_of(bucket, payload_seconds=0.1)) as one,
        running(str(small_model), tmp_path / "2", late) as two,
        ThreadPoolExecutor(8) as pool,
    ):
        asked = [pool.submit(ask, (one, two)[i % 2], f"text {i}", f"r{i}") for i in range(400)]
        assert {future.result().status_code for future in asked} == {200}
        series = {part.series for part, _ in payload.parts(bucket)}
        assert len(series) == 1  # the other waits
    assert sorted(row["id"] for row in rows_of(bucket)) == sorted(f"r{i}" for i in range(400))
    by_series: dict[str, list[payload.PayloadPart]] = {}
    for part, table in parts_of(bucket):
        assert part.end - part.first == len(table)
        by_series.setdefault(part.series, []).append(part)
    assert len(by_series) == 2
    for made in by_series.values():
        assert [part.first for part in made] == [0, *(part.end for part in made[:-1])]
    assert sorted(len(made) > 1 for made in by_series.values()) == [False, True]


def test_a_store_that_is_away_costs_no_request_and_one_line(
    bucket: ObjectStore, small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, and nobody listens
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{taken.getsockname()[1]}")
        with running(str(small_model), tmp_path / "log", settings_of(bucket, payload_seconds=0.2)) as server:
            for i in range(60):
                assert ask(server, f"text {i}").status_code == 200
                time.sleep(0.05)
            wait_until(lambda: scrape(server)[OUTCOMES["failed"]] == 60, 30)
            assert scrape(server)[OUTCOMES["written"]] == 0
    (line,) = lines(server, "payload log not written")
    assert "does not answer" in line["reason"]
    assert lines(server, "stopped")


@pytest.fixture
def deaf_store(bucket: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:  # the bucket is made before
    """An object store that takes connections and never answers."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(64)
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{listening.getsockname()[1]}")
        yield


@pytest.mark.usefixtures("deaf_store")
def test_a_store_that_hangs_fills_the_bound_and_no_more(bucket: ObjectStore, small_model: Path, tmp_path: Path) -> None:
    settings = settings_of(bucket, payload_content="text", payload_megabytes=8, maximum_characters=20_000)
    with running(str(small_model), tmp_path / "log", settings) as server:
        text = "å" * 10_000  # 20 kB as it is kept; one token
        for _ in range(20):
            assert requests.post(
                f"{server.url}/v1/models/sentiment:predict", json={"instances": [text] * 50}, timeout=30
            ).ok
        before = megabytes(server)
        for _ in range(40):  # 40 MB
            assert requests.post(
                f"{server.url}/v1/models/sentiment:predict", json={"instances": [text] * 50}, timeout=30
            ).ok
        found = scrape(server)
        assert found[OUTCOMES["full"]] > 2500
        assert megabytes(server) < before + 12
        start = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(30) == 0
        assert time.monotonic() - start < 20
    assert lines(server, "payload log not finished")


def test_old_parts_are_deleted_and_nothing_else(bucket: ObjectStore, small_model: Path, tmp_path: Path) -> None:
    def key(days: float) -> str:
        written = datetime.now(UTC) - timedelta(days=days)
        return f"payload/some-version/a-writer/{written:%Y%m%dT%H%M%S%f}-000000000000-000000000003.parquet"

    old, older, young = key(3.1), key(400), key(2.9)
    others = ["payload/some-version/notes.parquet", "incoming/20200101T000000000000-0-1.parquet"]
    for name in (old, older, young, *others):
        bucket.put(name, b"content")
    with running(str(small_model), tmp_path / "log", settings_of(bucket, payload_days=3)) as server:
        wait_until(lambda: not bucket.head(old), 20)
        wait_until(lambda: not bucket.head(older), 20)
        (swept,) = lines(server, "payload log swept")
        assert swept["parts"] == 2
    assert [item.key for item in bucket.list()] == sorted([young, *others])


def offer(log: PayloadLog, classifier: Classifier, texts: list[str], request_id: str = "r") -> None:
    scores = classifier.score(texts)
    log.offer(request_id, time.time(), texts, scores, classifier.predictions(scores))


def test_what_is_drawn_depends_on_the_share_and_the_process_alone(
    bucket: ObjectStore, small_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    classifier = Classifier.load(small_model)
    settings = ServingSettings(payload_bucket=f"s3://{bucket.bucket}", payload_share=0.3)
    drawn = []
    long = [f"a longer text, number {i}, that is another one each time" for i in range(200)]
    for texts, token in ((["short"] * 200, "0000000d"), (long, "0000000d"), (long, "0000000e")):
        monkeypatch.setattr(secrets, "token_hex", lambda _, token=token: token)
        log = PayloadLog.started(settings)
        assert log is not None
        for _ in range(5):
            offer(log, classifier, texts)
        log.close()
        drawn.append([row["id"] for row in rows_of(bucket)])
        for item in list(bucket.list()):
            bucket.delete(item.key)
    assert drawn[0] == drawn[1] != drawn[2]
    assert all(240 <= len(ids) <= 360 for ids in drawn)  # 300, and four standard deviations of 14.5


def test_the_rows_of_a_new_champion_are_a_series_of_its_own(
    bucket: ObjectStore, small_model: Path, tmp_path: Path
) -> None:
    first, second = Classifier.load(small_model), Classifier.load(write_model(tmp_path / "other", seed=2))
    log = PayloadLog.started(ServingSettings(payload_bucket=f"s3://{bucket.bucket}", payload_share=1))
    assert log is not None
    for classifier in (first, second, first):
        offer(log, classifier, ["a", "b", "c"])
    log.close()
    found = {part.series.split("/")[1]: (part.first, part.end) for part, _ in payload.parts(bucket)}
    assert found == {first.version: (0, 6), second.version: (0, 3)}


def test_settings_that_cannot_work_are_one_line() -> None:
    with pytest.raises(StorageError, match="'reviews' is not an object store address; expected s3://BUCKET"):
        PayloadLog.started(ServingSettings(payload_bucket="reviews"))
    with pytest.raises(SettingsError, match=r"payload_megabytes must be at least 4 for texts of 100000 characters"):
        PayloadLog.started(ServingSettings(payload_bucket="s3://b", payload_content="text", payload_megabytes=1))
    with pytest.raises(SettingsError, match=r"payload_megabytes must be at least 2 for texts of 150000 characters"):
        PayloadLog.started(ServingSettings(payload_bucket="s3://b", maximum_characters=150_000, payload_megabytes=1))


def test_a_server_starts_while_the_store_is_away(
    bucket: ObjectStore, small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with running(str(small_model), tmp_path / "log", settings_of(bucket)) as server:
        assert is_ready(server)
