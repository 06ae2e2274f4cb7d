"""Batch workers that are killed at random moments, two at a time: every row once, the bytes of an unbroken run.

EVERBERT_KILL_POINTS says how many kills it takes (12 if not set; 50 take a minute or two).
"""

import csv
import gzip
import io
import os
import random
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from line_process import LineProcess, line_process

from components.storage import ObjectStore
from pipelines.local_services import S3Service

pytestmark = pytest.mark.slow
KILLS = int(os.environ.get("EVERBERT_KILL_POINTS", "12"))
ROWS = 43
Ask = Callable[[dict[str, Any]], dict[str, Any]]


@pytest.fixture(scope="module")
def process(
    tiny_model: Path, object_store: S3Service, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LineProcess]:
    """Asks batch_process.py, and reads its answer."""
    with line_process("batch_process.py", str(tiny_model), temporary=tmp_path_factory.mktemp("killed")) as talk:
        yield talk


@pytest.fixture
def ask(process: LineProcess) -> Ask:
    return process.ask


def texts(name: str) -> list[tuple[str, str]]:
    """(id, text) of the rows of an object; every ninth has no text."""
    return [(f"{name}{i}", "" if i % 9 == 4 else f"text {i} of {name}, " * (1 + i % 5)) for i in range(ROWS)]


def as_csv(name: str) -> bytes:
    content = io.StringIO(newline="")
    csv.writer(content).writerows([("id", "text"), *texts(name)])
    return content.getvalue().encode()


def filled() -> ObjectStore:
    """A fresh bucket with an object of each kind, and one that is damaged half-way."""
    store = ObjectStore(f"test-{secrets.token_hex(6)}")
    store.create_bucket()
    table = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([{"id": i, "text": text} for i, text in texts("b")]), table)
    store.put("incoming/a.csv", as_csv("a"))
    store.put("incoming/b.parquet", table.getvalue())
    store.put("incoming/c.csv.gz", gzip.compress(as_csv("c"), mtime=0))
    store.put("incoming/d.csv.gz", gzip.compress(as_csv("d"), mtime=0)[:-20])
    return store


def outcome(store: ObjectStore) -> dict[str, bytes]:
    """All that was written, key by key."""
    found: dict[str, bytes] = {}
    for item in store.list():
        if not item.key.startswith("incoming/"):
            stored = store.get(item.key)
            assert stored is not None
            found[item.key] = stored[0].replace(store.bucket.encode(), b"BUCKET")
    return found


def require_every_row_once(written: dict[str, bytes]) -> None:
    scored = {
        "a": [row["id"] for row in csv.DictReader(io.StringIO(written["predictions/a.csv"].decode()))],
        "b": pq.read_table(io.BytesIO(written["predictions/b.parquet"])).column("id").to_pylist(),
        "c": [r["id"] for r in csv.DictReader(io.StringIO(gzip.decompress(written["predictions/c.csv.gz"]).decode()))],
    }
    for name, ids in scored.items():
        assert ids == [row_id for row_id, text in texts(name) if text]
        (aside,) = (content for key, content in written.items() if key.startswith(f"quarantine/{name}."))
        raw = [row["raw"] for row in csv.DictReader(io.StringIO(aside.decode()))]
        assert len(raw) == len(texts(name)) - len(ids)
        assert all(row_id in line for line, row_id in zip(raw, (i for i, t in texts(name) if not t), strict=True))


@pytest.mark.timeout(900)
def test_workers_that_race_and_are_killed_lose_and_double_nothing(ask: Ask) -> None:
    whole = filled()
    assert ask({"bucket": whole.bucket, "kill": [0]})["done"] == 1
    expected = outcome(whole)
    require_every_row_once(expected)
    assert not [key for key in expected if key.startswith("ledger/batch/") and key.endswith(".npz")]
    seconds = ask({"bucket": filled().bucket, "kill": [0, 0]})["seconds"]
    seed = secrets.randbits(32)
    chosen, killed = random.Random(seed), 0  # noqa: S311
    while killed < KILLS:
        store = filled()
        for _ in range(2):
            killed += ask({"bucket": store.bucket, "kill": [chosen.uniform(0.001, seconds) for _ in range(2)]})[
                "killed"
            ]
        assert ask({"bucket": store.bucket, "kill": [0, 0]})["done"] == 2
        assert outcome(store) == expected, f"seed {seed}, {killed} killed"


def test_watching_scores_what_comes_in_until_it_is_told_to_end(process: LineProcess, bucket: ObjectStore) -> None:
    say, answer = process.say, process.hear
    bucket.put("incoming/a.csv", as_csv("a"))
    say({"bucket": bucket.bucket, "watch": True})
    for name in ("a", "b"):
        bucket.put(f"incoming/{name}.csv", as_csv(name))
        deadline = time.monotonic() + 30
        while not bucket.head(f"predictions/{name}.csv"):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    say({})
    assert answer() == {"exit": 0}
