"""A check that is killed at any of its writes: the next one ends where an unbroken one would have."""

import json
import secrets
from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import pytest
from kfp_server import kfp_server
from line_process import line_process
from stream_samples import Samples, as_csv, drop, serve

from components.drift import ledger
from components.storage import ObjectStore

pytestmark = pytest.mark.slow
NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
Ask = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def ask(champion_uri: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ask]:
    """Runs a check in a process of its own, killed at a write if asked to."""
    with line_process("check_process.py", temporary=tmp_path_factory.mktemp("killed")) as process:

        def ask(store: ObjectStore, kfp: str, kill: int = 0) -> dict[str, Any]:
            return process.ask({"bucket": store.bucket, "kfp": kfp, "at": NOON.isoformat(), "kill": kill})

        yield ask


def drifted_stream(champion_uri: str, samples: Samples) -> ObjectStore:
    """A fresh bucket in which labelled tweets have come in."""
    store = ObjectStore(f"test-{secrets.token_hex(6)}")
    store.create_bucket()
    serve(store, champion_uri)
    drop(store, "tweets.csv", samples.tweets[:110])
    store.put("labels/tweets.csv", as_csv(["id", "label"], list(samples.labels.items())))
    return store


def outcome(store: ObjectStore) -> dict[str, Any]:
    """The committed state, without what differs by bucket and by attempt: names, and numbers that were used up."""
    (item,) = store.list("ledger/drift/sentiment/")
    state, _ = ledger.read(store, "sentiment", item.key.rpartition("/")[2].removesuffix(".json"))
    content = json.loads(json.dumps(asdict(state)).replace(store.bucket, "BUCKET"))
    for entry in [*content["history"], *content["retrains"]]:
        entry.pop("number", entry.pop("id", None))
    return dict(content)


def expire_claims(store: ObjectStore) -> None:
    """As if two minutes had gone by."""
    for item in list(store.list("ledger/retrains/")):
        found = store.get(item.key)
        assert found is not None
        store.put(item.key, json.dumps(json.loads(found[0]) | {"until": 0.0}).encode())


@pytest.mark.timeout(1500)
def test_a_check_that_is_killed_at_any_write_loses_and_doubles_nothing(
    ask: Ask, champion_uri: str, samples: Samples
) -> None:
    with kfp_server() as server:
        whole = drifted_stream(champion_uri, samples)
        unbroken = ask(whole, server.url)
        assert len(server.runs) == 1
    expected = outcome(whole)
    assert [entry["verdict"] for entry in expected["history"]] == ["retrain"]
    assert unbroken["writes"] >= 10
    for write in range(1, unbroken["writes"] + 1):
        with kfp_server() as server:
            store = drifted_stream(champion_uri, samples)
            assert ask(store, server.url, kill=write)["killed"], f"write {write}"
            ask(store, server.url)
            expire_claims(store)
            ask(store, server.url)
            assert len(server.runs) == 1, f"killed at write {write}"
            assert outcome(store) == expected, f"killed at write {write}"
