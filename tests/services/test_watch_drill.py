"""The drill: a bad model is promoted by force, labels come in, and the watch puts its predecessor back."""

import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from stream_samples import SAMPLES, SETTINGS, as_csv, drop

from components import tracking
from components.data.prepare import prepare
from components.data.sources import read
from components.deployment import pointer
from components.deployment.deploy import deploy
from components.registry.register import register
from components.storage import ObjectStore, local_folder
from components.training.train import train
from pipelines.drift_check import check
from pipelines.watch import watch

pytestmark = pytest.mark.slow
NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def bad_model(small_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Really trained, on movie reviews whose labels are the wrong way round."""
    folder = tmp_path_factory.mktemp("bad")
    rows = list(read(str(SAMPLES / "movies.tar.gz"), SETTINGS.data))[::5]
    wrong = {"pos": "neg", "neg": "pos"}
    (folder / "movies.csv").write_bytes(as_csv(["text", "label"], [[row.text, wrong[row.label]] for row in rows]))
    prepare([str(folder / "movies.csv")], folder / "data", SETTINGS.data)
    train(folder / "data", folder / "model", SETTINGS, base_model=str(small_bert))
    return folder / "model"


@pytest.fixture(scope="module")
def live() -> list[tuple[str, str, str]]:
    """(id, text, label) of movie reviews that trained neither model."""
    rows = list(read(str(SAMPLES / "movies.tar.gz"), SETTINGS.data))[1::5]
    return [(row.id, row.text, row.label) for row in rows[::2]][:480]


def test_a_bad_champion_is_rolled_back_and_a_good_one_is_left_alone(
    mlflow_server: str, bucket: ObjectStore, champion_uri: str, bad_model: Path, live: list[tuple[str, str, str]]
) -> None:
    with local_folder(champion_uri) as folder:
        good = register(folder, "sentiment", data_set="good", evaluation={}, decision={})
    bad = register(bad_model, "sentiment", data_set="bad", evaluation={}, decision={})
    deploy(bucket, good)
    assert watch(bucket, "sentiment", SETTINGS.promotion) is None  # nothing to compare with
    deploy(bucket, bad)
    drop(bucket, "movies/1.csv", [row[:2] for row in live[:240]])
    check(bucket, "sentiment", SETTINGS, None, at=NOON)
    assert watch(bucket, "sentiment", SETTINGS.promotion) is None  # no label has come in
    bucket.put("labels/movies.csv", as_csv(["id", "label"], [(row[0], row[2]) for row in live]))
    started = time.monotonic()
    seen = watch(bucket, "sentiment", SETTINGS.promotion)
    seconds = time.monotonic() - started
    assert seen is not None
    assert seen.evidence >= seen.bar == 100
    assert seen.lost > seen.won
    assert seen.rollback is not None
    assert "wrong where its predecessor was right" in seen.rollback.reason
    assert seconds < 60
    found = pointer.read(bucket, "sentiment")
    assert found is not None
    assert found[0].model_version == good.digest
    champion = tracking.champion("sentiment")
    assert champion is not None
    assert champion.version == good.version
    print(f"rolled back in {seen.rollback.seconds:.1f} s, {seconds:.1f} s with the scoring of {seen.rows} rows twice")

    deploy(bucket, bad)  # the other way round: the bad one is the predecessor, and the good one stays
    deploy(bucket, good)
    check(bucket, "sentiment", SETTINGS, None, at=NOON)
    drop(bucket, "movies/2.csv", [row[:2] for row in live[240:]])
    check(bucket, "sentiment", SETTINGS, None, at=NOON)
    stays = watch(bucket, "sentiment", SETTINGS.promotion)
    assert stays is not None
    assert stays.evidence < 1
    assert stays.rollback is None
    assert not stays.over

    for item in [*bucket.list("incoming/movies/"), *bucket.list("predictions/movies/")]:  # as a lifecycle rule does
        bucket.delete(item.key)
    later = watch(bucket, "sentiment", replace(SETTINGS.promotion, watch_rows=stays.rows))
    assert later == replace(stays, over=True)  # what is counted stays counted


def test_of_more_rows_than_the_watch_takes_the_first_ones_are_enough_and_no_further_ones_count(
    mlflow_server: str, bucket: ObjectStore, champion_uri: str, bad_model: Path, live: list[tuple[str, str, str]]
) -> None:
    with local_folder(champion_uri) as folder:
        good = register(folder, "sentiment", data_set="good", evaluation={}, decision={})
    bad = register(bad_model, "sentiment", data_set="bad", evaluation={}, decision={})
    for version in (bad, good):
        deploy(bucket, version)
    bucket.put("labels/movies.csv", as_csv(["id", "label"], [(row[0], row[2]) for row in live]))
    promotion = replace(SETTINGS.promotion, watch_rows=30)
    seen = []
    for number, rows in enumerate((live[:20], live[20:200], live[200:])):
        drop(bucket, f"movies/{number}.csv", [row[:2] for row in rows])
        check(bucket, "sentiment", SETTINGS, None, at=NOON)
        check(bucket, "sentiment", SETTINGS, None, at=NOON)
        seen.append(watch(bucket, "sentiment", promotion))
    first, second, third = seen
    assert second is not None
    assert (second.rows, second.over, second.rollback) == (30, True, None)
    assert third == second
    if first is not None:
        assert first.rows < 30
        assert first.lost <= second.lost
        assert first.won <= second.won
    assert second.won > second.lost
