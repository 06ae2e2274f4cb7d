"""everbert replay: a decision comes out again bit for bit, and a record that was touched does not."""

import copy
import json
import secrets
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from stream_samples import SETTINGS, Samples, as_csv, drop, serve

from components.config import PromotionSettings
from components.errors import DataError
from components.evaluation.decide import decide
from components.storage import ObjectStore
from pipelines.drift_check import check
from pipelines.replay import replay

pytestmark = pytest.mark.slow
NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)


Decided = tuple[ObjectStore, str, dict[str, Any]]


@pytest.fixture(scope="module")
def decided(champion_uri: str, samples: Samples) -> Decided:
    """A bucket, and the key and content of a record in it whose verdict is retrain."""
    store = ObjectStore(f"test-{secrets.token_hex(6)}")
    store.create_bucket()
    serve(store, champion_uri)
    drop(store, "tweets.csv", samples.tweets[:240])
    store.put("labels/tweets.csv", as_csv(["id", "label"], list(samples.labels.items())))
    made = check(store, "sentiment", SETTINGS, None, at=NOON)
    found = store.get(made.record)
    assert found is not None
    return store, made.record, json.loads(found[0])


def test_a_check_is_recomputed_bit_for_bit(decided: Decided) -> None:
    store, key, record = decided
    again = replay(store.uri(key))
    assert again == {
        "same": True,
        "verdict": "retrain",
        "said": "The same, bit for bit: retrain. Recomputed: 9 windows, the evidence, size and harm of the change, and "
        "the verdict.",
        "differences": [],
    }
    assert record["seen"]["harm"]["labelled_rows"] == len(record["judged"]["known_labels"])


@pytest.mark.parametrize(
    ("touch", "said"),
    [
        (lambda r: r["windows"][-1].update(p_value=0.5), "evidence is"),
        (lambda r: r["windows"][0].update(p_value=0.5), "window 1 p_value is 0.5"),
        (lambda r: r["seen"].update(evidence=5.0), "evidence is 5.0"),
        (lambda r: r.update(verdict="warn"), 'verdict is "warn" in the record and "retrain" now'),
        (lambda r: r["seen"].update(labelled_rows=5), 'verdict is "retrain" in the record and "wait" now'),
        (lambda r: r["windows"][0]["result"].update(statistic=1.0), "window 1 result: statistic is 1.0"),
        (lambda r: r["judged"]["result"].update(effect_size=0.1), "size of the change: effect_size is 0.1"),
        (lambda r: r["judged"]["known_labels"].__setitem__(0, -1), "harm: labelled_rows is 234"),
        (lambda r: r.update(reference_digest="0"), "reference_digest"),
    ],
)
def test_a_record_that_was_touched_differs(decided: Decided, touch: Any, said: str, tmp_path: Path) -> None:
    _, _, record = decided
    touched = copy.deepcopy(record)
    touch(touched)
    (tmp_path / "record.json").write_text(json.dumps(touched))
    again = replay(str(tmp_path / "record.json"))
    assert not again["same"]
    assert any(said in difference for difference in again["differences"]), again["differences"]
    assert again["said"].startswith("Different: ")


def test_without_what_was_measured_the_verdict_is_recomputed_from_the_record(
    decided: Decided, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, _, record = decided
    orphan = tmp_path / "orphan.json"
    orphan.write_text(json.dumps(record | {"number": 99}))
    assert "never committed" in replay(str(orphan))["said"]
    (kept,) = store.list("ledger/embeddings/")
    store.put(kept.key, b"damaged")
    (tmp_path / "record.json").write_text(json.dumps(record))
    again = replay(str(tmp_path / "record.json"))
    assert again["same"]
    assert "The measurements were not repeated" in again["said"]
    assert "damaged" in again["said"]
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert "does not answer" in replay(str(tmp_path / "record.json"))["said"]


def test_a_promotion_is_recomputed_from_its_record(tmp_path: Path) -> None:
    one = {"by": "source", "name": "all", "rows": 500}
    old = one | {"source": "movies", "only_challenger_right": 10, "only_champion_right": 10}
    new = one | {"source": "tweets", "only_challenger_right": 60, "only_champion_right": 10}
    scored = {"ece": 0.03, "behaviours": []}
    evaluation: dict[str, Any] = {"champion": scored, "challenger": scored, "slices": [old, new]}
    settings = PromotionSettings(margin=0.05, slice_margin=0.05)
    record = decide(evaluation, settings, ["tweets"]).record(evaluation, settings, ["tweets"])
    path = tmp_path / "promotion.json"
    path.write_text(json.dumps(record))
    assert record["verdict"] == "promote"
    assert replay(str(path))["same"]
    new["only_champion_right"] = 59
    path.write_text(json.dumps(record))
    said = subprocess.run(
        [sys.executable, "-m", "pipelines", "replay", str(path), "--json"], capture_output=True, text=True
    )
    assert said.returncode == 1
    assert 'verdict is "promote" in the record and "keep" now' in json.loads(said.stdout)["differences"]


def test_what_is_no_record_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    for content, said in (
        ("not json", "is not JSON"),
        ("[]", "is not a decision record"),
        ('{"kind": "lunch"}', "kind 'lunch'; there are check and promotion"),
        ('{"kind": "check", "bucket": "b"}', "is not a whole decision record: KeyError"),
    ):
        path.write_text(content)
        with pytest.raises(DataError, match=said):
            replay(str(path))
    with pytest.raises(DataError, match="there is no decision record"):
        replay(str(tmp_path / "none.json"))
