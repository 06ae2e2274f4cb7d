"""Batch scoring of a bucket: once, in whole, and what happens when objects change or others are at work too."""

import contextlib
import csv
import gzip
import io
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components import storage
from components.batch import sample, tables
from components.batch.prefix import score_prefix, watch
from components.batch.published import published
from components.batch.score import Share, score_object
from components.classifier.classifier import PREDICTION_COLUMNS, Classifier
from components.classifier.engine import Scores
from components.config import BatchSettings
from components.drift.labels import texts_of
from components.errors import ConflictError, DataError, InputError, OvertakenError, StorageError
from components.storage import ObjectStore
from pipelines import local_services

pytestmark = pytest.mark.slow
CSV = b'id,text,shop\na,"a fine, film",x\nb,,y\nc,dull and long,z\nd,too,many,fields\ne,N/A,w\n'
SETTINGS = BatchSettings(chunk_rows=2)
KEY = "incoming/day.csv"


@pytest.fixture(scope="session")
def classifier(tiny_model: Path) -> Classifier:
    return Classifier.load(tiny_model)


def content(store: ObjectStore, key: str) -> bytes:
    found = store.get(key)
    assert found is not None, key
    return found[0]


def rows_of(data: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(data.decode(), newline="")))


def ids(store: ObjectStore, key: str = "predictions/day.csv") -> list[str]:
    return [row["id"] for row in rows_of(content(store, key))]


def leftovers(store: ObjectStore) -> list[str]:
    """Parts that should be gone."""
    return [item.key for item in store.list("ledger/batch/") if item.key.endswith(".npz")]


def table(*names: str) -> bytes:
    """A row for each name; one without a name has no text."""
    return ("id,text\n" + "".join(f"{name},{name and 'a text that is ' + name}\n" for name in names)).encode()


def counting(classifier: Classifier, scored: list[int]) -> Classifier:
    """The same, that notes how many texts each call scores."""

    class Counting(Classifier):
        def score(self, texts: Any, *, description: str = "") -> Scores:
            scored.append(len(texts))
            return super().score(texts, description=description)

    return Counting(classifier.engine, classifier.labels, classifier.description, classifier.folder)


class Interrupted(ObjectStore):
    """Calls `act` before the write with that number, or before a key that starts with that text is written."""

    def __init__(self, bucket: str, at: int | str, act: Callable[[], object]) -> None:
        super().__init__(bucket)
        self.at, self.act, self.writes = at, act, 0

    def _write(self, key: str) -> None:
        self.writes += 1
        if self.at == self.writes or (isinstance(self.at, str) and key.startswith(self.at)):
            self.at = -1
            self.act()

    def put(self, key: str, content: bytes, **conditions: Any) -> str:
        self._write(key)
        return super().put(key, content, **conditions)

    def publish(self, path: str | Path, key: str, metadata: dict[str, str], **conditions: Any) -> None:
        self._write(key)
        super().publish(path, key, metadata, **conditions)


class DiedError(Exception):
    pass


def die() -> None:
    raise DiedError


def test_batch_keeps_the_columns_sets_bad_rows_aside_and_scores_once(
    bucket: ObjectStore, classifier: Classifier
) -> None:
    bucket.put(KEY, CSV)
    (result,) = score_prefix(bucket, classifier, SETTINGS)
    assert (result.rows, result.quarantined, result.model_version) == (3, 2, classifier.version)
    rows = rows_of(content(bucket, "predictions/day.csv"))
    assert list(rows[0]) == ["id", "text", "shop", *PREDICTION_COLUMNS]
    assert [row["id"] for row in rows] == ["a", "c", "e"]
    alone = classifier.predict(["a fine, film"])[0]
    assert rows[0]["predicted_sentiment"] == alone.predicted_sentiment
    assert float(rows[0]["confidence_score"]) == pytest.approx(alone.confidence_score, abs=1e-5)
    aside = rows_of(content(bucket, "quarantine/day.csv.reasons.csv"))
    assert [(row["object"], row["row"], row["reason"]) for row in aside] == [
        (KEY, "3", "no text"), (KEY, "5", "4 fields, the header has 3"),
    ]  # fmt: skip
    kept = sample.load(bucket, result.embeddings)
    assert kept is not None
    assert kept.rows.tolist() == [0, 1, 2]
    assert kept.embeddings.shape == (3, 32)
    assert kept.digests[2].decode() == sample.extended(kept.digests[1].decode(), "N/A")
    bucket.put("predictions/day.csv", b"untouched")
    (again,) = score_prefix(bucket, classifier, SETTINGS)
    assert again.already_scored
    assert content(bucket, "predictions/day.csv") == b"untouched"
    bucket.put(KEY, CSV + b"f,one more,v\n")
    assert score_object(bucket, KEY, classifier, SETTINGS).rows == 4
    assert not leftovers(bucket)


@pytest.mark.parametrize("wanted", ["same", "csv", "parquet"])
def test_the_drift_check_reads_the_texts_of_every_format(
    wanted: str, bucket: ObjectStore, classifier: Classifier
) -> None:
    settings = BatchSettings(chunk_rows=2, predictions_format=wanted)
    texts = [f"text {i}\nof two lines" for i in range(5)]
    columns = pa.table({"id": [f"r{i}" for i in range(5)], "n": range(5), "text": texts})
    file = io.BytesIO()
    pq.write_table(columns, file)
    bucket.put("incoming/tweets/a.parquet", file.getvalue())
    plain = "id,text\n" + "".join(f'r{i},"{text}"\n' for i, text in enumerate(texts))
    bucket.put("incoming/tweets/b.csv.gz", gzip.compress(plain.encode()))
    bucket.put("incoming/tweets/_SUCCESS", b"")
    for result in score_prefix(bucket, classifier, settings):
        assert (result.rows, result.problem) == (5, "")
        kept = sample.load(bucket, result.embeddings)
        assert kept is not None
        found = texts_of(bucket, result.source, 3, 5, kept.digests[4].decode())
        assert [(text.id, text.text, text.source) for text in found] == [(f"r{i}", texts[i], "tweets") for i in (3, 4)]
    assert sum(1 for item in bucket.list("predictions/")) == 2


def test_one_bad_object_stops_no_other_and_is_refused_once(bucket: ObjectStore, classifier: Classifier) -> None:
    bucket.put("incoming/a.csv.gz", gzip.compress(table(*map(str, range(500))))[:-30])
    bucket.put("incoming/b/отзывы, день 1.csv", table("x", "y"))
    bucket.put("incoming/c.pdf", b"%PDF")
    damaged, good, neither = score_prefix(bucket, classifier, SETTINGS)
    assert good.rows == 2
    assert "incoming/a.csv.gz is not a whole gzip file" in damaged.problem
    assert "incoming/c.pdf is neither CSV nor Parquet" in neither.problem
    for result in (damaged, neither):
        (row,) = rows_of(content(bucket, f"quarantine/{result.source.removeprefix('incoming/')}.reasons.csv"))
        assert (row["object"], row["row"], row["reason"]) == (result.source, "", result.problem)
    assert not leftovers(bucket)
    assert [item.key for item in bucket.list("predictions/")] == ["predictions/b/отзывы, день 1.csv"]
    scored: list[int] = []
    assert score_prefix(bucket, counting(classifier, scored), SETTINGS)[0] == damaged
    assert not scored
    bucket.put("incoming/a.csv.gz", gzip.compress(table("z")))
    assert score_object(bucket, "incoming/a.csv.gz", classifier, SETTINGS).rows == 1


def damage(store: ObjectStore, key: str, classifier: Classifier) -> None:
    """Leave a part of the object that no worker can read, and none writes over."""
    item = store.head(key)
    assert item is not None
    name = key.removeprefix("incoming/")
    store.put(f"ledger/batch/{name}/{item.etag}-{classifier.version}/2-10000-same/000000.npz", b"half a part")


def test_an_object_that_the_store_fails_on_stops_no_other(bucket: ObjectStore, classifier: Classifier) -> None:
    for name in "abc":
        bucket.put(f"incoming/{name}.csv", table(name))
    damage(bucket, "incoming/a.csv", classifier)
    for _ in range(2):
        with pytest.raises(
            StorageError, match=r"1 of 3 objects could not be scored.*incoming/a\.csv: .*000000\.npz is d"
        ):
            score_prefix(bucket, classifier, SETTINGS)
        assert [item.key for item in bucket.list("predictions/")] == ["predictions/b.csv", "predictions/c.csv"]


def test_watching_goes_on_past_an_object_that_the_store_fails_on(
    bucket: ObjectStore, classifier: Classifier, caplog: pytest.LogCaptureFixture
) -> None:
    """To what was there, and to what comes in; once the fault is mended, it is scored too."""
    for name in "abc":
        bucket.put(f"incoming/{name}.csv", table(name))
    damage(bucket, "incoming/a.csv", classifier)
    damage(bucket, "incoming/b.csv", classifier)
    looks = 0

    def by_now() -> Classifier:
        nonlocal looks
        looks += 1
        assert looks < 30
        if model_of(bucket, "c") and not bucket.head("incoming/d.csv"):
            bucket.put("incoming/d.csv", table("d"))
        if model_of(bucket, "d"):
            for part in leftovers(bucket):
                if part.startswith("ledger/batch/b.csv/"):
                    bucket.delete(part)
        if model_of(bucket, "b"):
            raise KeyboardInterrupt  # as a signal does
        return classifier

    seen = watch(bucket, by_now, replace(SETTINGS, poll_seconds=0.1))
    assert (seen.objects, seen.problems) == (3, 1)
    warned = [record.__dict__ for record in caplog.records if record.message == "batch_left"]
    assert len(warned) == 2  # once for each, however often it was tried


def test_a_store_that_is_away_ends_the_pass_at_once(
    tmp_path: Path, classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0
    with contextlib.ExitStack() as stack:
        service = stack.enter_context(local_services.object_store(tmp_path))
        for name, value in service.environment.items():
            monkeypatch.setenv(name, value)
        store = ObjectStore("away")
        store.create_bucket()
        for key in "abcd":
            store.put(f"incoming/{key}.csv", table(key))

        def by_now() -> Classifier:
            nonlocal looks
            looks += 1
            if looks == 2:
                stack.close()
            return classifier

        with pytest.raises(StorageError, match="does not answer"):
            score_prefix(store, by_now, SETTINGS)
    assert looks == 2


class Replaced(ObjectStore):
    """The object is replaced by what `contents` gives next, before or after it is read."""

    def __init__(self, bucket: str, contents: Iterator[bytes], *, before: bool) -> None:
        super().__init__(bucket)
        self.contents, self.before = contents, before

    def download_version(self, key: str, etag: str, path: str | Path) -> None:
        new = next(self.contents, None)
        if new and self.before:
            self.put(key, new)
        super().download_version(key, etag, path)
        if new and not self.before:
            self.put(key, new)


@pytest.mark.parametrize("before", [True, False])
def test_an_object_that_changes_while_it_is_read_is_noticed(
    before: bool, bucket: ObjectStore, classifier: Classifier, caplog: pytest.LogCaptureFixture
) -> None:
    bucket.put(KEY, table("old"))
    replaced = Replaced(bucket.bucket, iter([table("new", "", "rows")]), before=before)
    assert score_object(replaced, KEY, classifier, SETTINGS).rows == 2
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == ["batch_starts_again"]
    assert ids(bucket) == ["new", "rows"]
    bucket.put(KEY, table("old"))
    endless = Replaced(bucket.bucket, (table(str(i)) for i in count()), before=before)
    (result,) = score_prefix(endless, classifier, SETTINGS)
    assert "could not be scored in 5 attempts" in result.problem
    assert ids(bucket) == ["new", "rows"]
    with pytest.raises(DataError, match="there is no object"):
        score_object(bucket, "incoming/none.csv", classifier, SETTINGS)


@pytest.mark.parametrize("at", ["quarantine/", "predictions/"])
def test_a_slow_worker_does_not_cover_what_came_of_a_newer_content(
    at: str, bucket: ObjectStore, classifier: Classifier
) -> None:
    """Whether the newer content is new, or was here before and finds its own predictions."""

    def overtake() -> None:
        bucket.put(KEY, table("new", "", "rows"))
        score_object(bucket, KEY, classifier, SETTINGS)

    for _ in range(2):
        bucket.put(KEY, table("old", ""))
        assert score_object(Interrupted(bucket.bucket, at, overtake), KEY, classifier, SETTINGS).rows == 2
        assert ids(bucket) == ["new", "rows"]
        (aside,) = rows_of(content(bucket, "quarantine/day.csv.reasons.csv"))
        assert aside["row"] == "3"
        assert not leftovers(bucket)
    bucket.put(KEY, table("old"))
    score_object(bucket, KEY, classifier, SETTINGS)
    assert ids(bucket) == ["old"]


def test_a_content_that_comes_back_is_published_again(bucket: ObjectStore, classifier: Classifier) -> None:
    for name in ("one", "two", "one"):
        bucket.put(KEY, table(name))
        assert not score_object(bucket, KEY, classifier, SETTINGS).already_scored
        assert ids(bucket) == [name]
    assert score_object(bucket, KEY, classifier, SETTINGS).already_scored


def test_a_run_goes_on_in_the_middle_of_a_file(bucket: ObjectStore, classifier: Classifier) -> None:
    names = [f"n{i}" for i in range(9)]
    bucket.put(KEY, table(*names))
    with pytest.raises(DiedError):
        score_object(Interrupted(bucket.bucket, 4, die), KEY, classifier, SETTINGS)
    scored: list[int] = []
    assert score_object(bucket, KEY, counting(classifier, scored), SETTINGS).rows == 9
    assert scored == [2, 1]  # three chunks of two were there
    assert ids(bucket) == names
    bucket.put("incoming/copy.csv", table(*names))
    unbroken = score_object(bucket, "incoming/copy.csv", classifier, SETTINGS)
    assert content(bucket, "predictions/copy.csv") == content(bucket, "predictions/day.csv")
    key = score_object(bucket, KEY, classifier, SETTINGS).embeddings
    assert content(bucket, unbroken.embeddings) == content(bucket, key)


def test_a_worker_whose_parts_another_removed_ends_with_what_the_other_wrote(
    bucket: ObjectStore, classifier: Classifier
) -> None:
    bucket.put(KEY, table("a", "b", "c"))

    def overtake() -> None:
        score_object(bucket, KEY, classifier, SETTINGS)

    for at in (2, 3, 4, 5):  # the second part, the predictions, the embeddings, the manifest
        result = score_object(Interrupted(bucket.bucket, at, overtake), KEY, classifier, SETTINGS)
        assert (result.rows, result.problem) == (3, "")
        assert ids(bucket) == ["a", "b", "c"]
        assert not leftovers(bucket)
        for prefix in ("ledger/", "predictions/"):
            for item in list(bucket.list(prefix)):
                bucket.delete(item.key)


def test_workers_that_share_an_object_score_it_once(bucket: ObjectStore, classifier: Classifier) -> None:
    names = [f"n{i}" for i in range(9)]
    bucket.put(KEY, table(*names))
    scored: list[int] = []
    counted = counting(classifier, scored)
    first, second = (score_object(bucket, KEY, counted, SETTINGS, Share(number, 3)) for number in (1, 3))
    assert (first.missing, second.missing, first.predictions) == (3, 2, "")
    assert not list(bucket.list("predictions/"))
    assert score_object(bucket, KEY, counted, SETTINGS, Share(2, 3)).rows == 9
    assert sum(scored) == 9
    assert score_object(bucket, KEY, counted, SETTINGS, Share(1, 3)).already_scored
    assert not leftovers(bucket)
    shared = content(bucket, "predictions/day.csv")
    for prefix in ("ledger/", "predictions/"):
        for item in list(bucket.list(prefix)):
            bucket.delete(item.key)
    score_object(bucket, KEY, classifier, SETTINGS)
    assert content(bucket, "predictions/day.csv") == shared


@pytest.mark.parametrize("text", ["2", "0/2", "3/2", "a/2", "1/", "-1/2"])
def test_what_is_no_share_is_one_line(text: str) -> None:
    with pytest.raises(InputError, match="a share is I/N"):
        Share.parse(text)


def test_two_objects_are_not_published_as_one(bucket: ObjectStore, classifier: Classifier) -> None:
    settings = BatchSettings(predictions_format="csv")
    file = io.BytesIO()
    pq.write_table(pa.table({"id": ["p"], "text": ["of the Parquet file"]}), file)
    bucket.put("incoming/day.parquet", file.getvalue())
    bucket.put("incoming/day.parquet.csv", table("c"))
    first, second = score_prefix(bucket, classifier, settings)
    assert first.predictions == "predictions/day.parquet.csv"
    assert "predictions/day.parquet.csv is of another object than incoming/day.parquet.csv" in second.problem
    assert [row["id"] for rows in published(bucket, "incoming/day.parquet") for row in rows] == ["p"]


def test_large_outputs_are_published_in_parts_under_the_same_conditions(
    bucket: ObjectStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(storage, "PART_BYTES", 5 << 20)
    path = tmp_path / "large"
    path.write_bytes(bytes(range(256)) * 50_000)
    bucket.publish(path, "large", {"version": "1"}, only_if_new=True)
    found = bucket.metadata("large")
    assert found is not None
    assert found[0] == {"version": "1"}
    for condition in ({"only_if_new": True}, {"if_match": "0" * 32}):
        with pytest.raises(ConflictError):
            bucket.publish(path, "large", {"version": "2"}, **condition)
    bucket.publish(path, "large", {"version": "3"}, if_match=found[1])
    assert bucket.metadata("large") == ({"version": "3"}, found[1])
    assert content(bucket, "large") == path.read_bytes()


def test_a_refused_content_that_comes_back_stands_in_quarantine_again(
    bucket: ObjectStore, classifier: Classifier
) -> None:
    for body, refused in ((b"id,shop\n1,x\n", True), (table("a"), False), (b"id,shop\n1,x\n", True)):
        bucket.put(KEY, body)
        (result,) = score_prefix(bucket, classifier, SETTINGS)
        assert bool(result.problem) == refused
        reasons = bucket.get("quarantine/day.csv.reasons.csv")
        assert (b"no text column" in (reasons or (b"",))[0]) == refused


def named(classifier: Classifier, version: str) -> Classifier:
    """The same model under another version."""
    described = replace(classifier.description, model_version=version)
    return Classifier(classifier.engine, classifier.labels, described, classifier.folder)


def test_a_successor_of_the_model_takes_the_objects_from_then_on(bucket: ObjectStore, classifier: Classifier) -> None:
    for name in ("a", "b"):
        bucket.put(f"incoming/{name}.csv", table(name))
    models = iter([classifier, named(classifier, "newer")])
    first, second = score_prefix(bucket, lambda: next(models), SETTINGS)
    assert (first.model_version, second.model_version) == (classifier.version, "newer")


def test_what_is_there_is_scored_anew_by_each_model_that_a_watching_process_has(
    bucket: ObjectStore, classifier: Classifier
) -> None:
    """A champion, its successor, and the champion again, after a rollback, within one pass."""
    newer, looks = named(classifier, "newer"), 0
    for name in "abc":
        bucket.put(f"incoming/{name}.csv", table(name))

    def by_now() -> Classifier:
        nonlocal looks
        looks += 1
        if looks > 3 and all(model_of(bucket, name) == classifier.version for name in "abc"):
            raise KeyboardInterrupt  # as a signal does
        assert looks < 20
        return newer if looks == 2 else classifier

    seen = watch(bucket, by_now, replace(SETTINGS, poll_seconds=0.1))
    assert (seen.objects, seen.problems) == (4, 0)  # that of the successor twice


def model_of(bucket: ObjectStore, name: str) -> str:
    found = bucket.get(f"predictions/{name}.csv")
    return rows_of(found[0])[0]["model_version"] if found else ""


def test_a_slow_worker_of_an_older_model_leaves_the_newer_ones_predictions(
    bucket: ObjectStore, classifier: Classifier
) -> None:
    newer = named(classifier, "newer")
    bucket.put(KEY, table("a", "b"))
    slow = Interrupted(bucket.bucket, "predictions/", lambda: score_prefix(bucket, newer, SETTINGS))
    with pytest.raises(OvertakenError, match="another model's predictions"):
        score_object(slow, KEY, classifier, SETTINGS)
    assert {row["model_version"] for row in rows_of(content(bucket, "predictions/day.csv"))} == {"newer"}
    assert not leftovers(bucket)


def test_a_watching_worker_of_a_newer_model_covers_what_an_older_one_finished_meanwhile(
    bucket: ObjectStore, classifier: Classifier
) -> None:
    """The older model is at the object first, and is done when the newer one is about to publish."""
    bucket.put(KEY, table("a", "b"))
    at_it, go_on, looks = threading.Event(), threading.Event(), 0

    def wait() -> None:
        at_it.set()
        assert go_on.wait(60)

    def by_now() -> Classifier:
        nonlocal looks
        looks += 1
        if model_of(bucket, "day") == "newer":
            raise KeyboardInterrupt  # as a signal does
        assert looks < 5
        return named(classifier, "newer")

    with ThreadPoolExecutor() as threads:
        older = threads.submit(
            score_object, Interrupted(bucket.bucket, "predictions/", wait), KEY, classifier, SETTINGS
        )

        def finish() -> None:
            go_on.set()
            older.result()
            assert model_of(bucket, "day") == classifier.version

        assert at_it.wait(60)
        newer = Interrupted(bucket.bucket, "predictions/", finish)
        seen = watch(newer, by_now, replace(SETTINGS, poll_seconds=0.1))
    assert (seen.objects, seen.problems, looks) == (1, 0, 3)
    assert not leftovers(bucket)


def test_whoever_finishes_an_object_removes_no_parts_that_others_still_want(
    bucket: ObjectStore, classifier: Classifier
) -> None:
    bucket.put(KEY, table("a"))
    item = bucket.head(KEY)
    assert item is not None
    wanted = {
        f"ledger/batch/day.csv/{item.etag}-other/2-1-same/000000.npz",  # another model is at it
        "ledger/batch/day.csv/part.csv/0123-other/2-1-same/000000.npz",  # of incoming/day.csv/part.csv
    }
    for key in (*wanted, "ledger/batch/day.csv/0123-other/2-1-same/000000.npz"):  # the last is of a replaced content
        bucket.put(key, b"a part")
    score_prefix(bucket, classifier, SETTINGS)
    assert set(leftovers(bucket)) == wanted


def test_a_name_that_is_too_long_stops_no_other(bucket: ObjectStore, classifier: Classifier) -> None:
    bucket.put(f"incoming/{'a' * 245}.csv", table("a"))
    bucket.put("incoming/b.csv", table("b"))
    long, short = score_prefix(bucket, classifier, SETTINGS)
    assert "too long" in long.problem
    assert not short.problem
    assert ids(bucket, "predictions/b.csv") == ["b"]


def test_a_hostile_file_stops_no_other(
    bucket: ObjectStore, classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A list with text that is not UTF-8 is scored; a column with such a name, and too much zipped, are set aside."""
    texts = pa.array([b"\xffx"]).view(pa.string())
    nested = pa.ListArray.from_arrays(pa.array([0, 1], pa.int32()), texts)
    for name, columns in (("a", {"tags": nested}), ("b", {"naïve": [1]})):
        file = io.BytesIO()
        pq.write_table(pa.table({"text": ["fine"], **columns}), file, store_schema=False)
        bucket.put(f"incoming/{name}.parquet", file.getvalue().replace("naïve".encode(), b"na\xff\xffve"))
    monkeypatch.setattr(tables, "MOST_UNZIPPED", 1 << 20)
    bucket.put("incoming/c.parquet.gz", gzip.compress(bytes((1 << 20) + 1)))
    bucket.put("incoming/d.csv", table("d"))
    scored, named_badly, zipped, good = score_prefix(bucket, classifier, replace(SETTINGS, predictions_format="csv"))
    assert (scored.rows, good.rows) == (1, 1)
    assert rows_of(content(bucket, "predictions/a.parquet.csv"))[0]["tags"] == '["\ufffdx"]'
    for result, said in ((named_badly, "is not a readable Parquet file"), (zipped, "takes more than 1 MB unzipped")):
        (row,) = rows_of(content(bucket, f"quarantine/{result.source.removeprefix('incoming/')}.reasons.csv"))
        assert row["reason"] == result.problem
        assert said in result.problem
