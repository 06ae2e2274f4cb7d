"""Where labels come from: what the champion says of new texts may train its successor, and judges nothing."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from stream_samples import SAMPLES, SETTINGS, Samples, as_csv, drop

from components.data.csv_rows import records
from components.data.data_set import DataSet
from components.data.prepare import prepare
from components.data.sources import read
from components.evaluation.decide import decide
from components.evaluation.evaluate import evaluate
from components.storage import ObjectStore, local_folder
from pipelines.drift_check import check

pytestmark = pytest.mark.slow
NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
# The answer of two labels has at least this confidence; that others are left out is held by a unit test.
PSEUDO = replace(SETTINGS, retrain=replace(SETTINGS.retrain, pseudo_confidence=0.5))


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, "rb") as file:
        header, *rows = [row for _, row, _, _ in records(file) if row]
    return [dict(zip(header, row, strict=True)) for row in rows]


def test_without_trusted_labels_nothing_is_trained_and_labels_are_asked_for(
    stream: ObjectStore, samples: Samples
) -> None:
    drop(stream, "tweets/1.csv", samples.tweets[:240])
    waits = check(stream, "sentiment", PSEUDO, None, at=NOON)
    assert (waits.verdict.verdict, waits.retrain) == ("wait", None)
    assert "only 0 of the 60 labelled texts it needs are there" in waits.verdict.reason
    assert stream.head(waits.request)
    assert not list(stream.list("datasets/"))


def test_confident_answers_train_beside_trusted_labels_and_are_held_out_nowhere(
    stream: ObjectStore, samples: Samples, tmp_path: Path
) -> None:
    drop(stream, "tweets/1.csv", samples.tweets[:240])
    drop(stream, "news/1.csv", [[f"n{i}", f"{text} {i}"] for i, (_, text) in enumerate(samples.tweets[240:290])])
    labelled = list(samples.labels.items())[:160]
    stream.put("labels/tweets.csv", as_csv(["id", "label"], labelled))
    fires = check(stream, "sentiment", PSEUDO, None, at=NOON)
    assert fires.retrain is not None
    arguments = fires.retrain.arguments
    assert arguments["new_sources"] == ["tweets"]
    stream.download(arguments["sources"][0].removeprefix(stream.uri("")), tmp_path / "new.csv")
    rows = rows_of(tmp_path / "new.csv")
    pseudo = [row for row in rows if row["label_source"] == "pseudo"]
    assert len(pseudo) > 60
    assert {row["label_source"] for row in rows} == {"delayed", "pseudo"}
    assert {row["source"] for row in rows} == {"tweets"}  # of news there is nothing to judge by
    assert not {row["id"] for row in pseudo} & {row_id for row_id, _ in labelled}
    made = prepare([str(tmp_path / "new.csv")], tmp_path / "data", replace(SETTINGS.data, minimum_rows=1))
    data = DataSet.load(tmp_path / "data")
    assert (data.frame("train").label_source == "pseudo").sum() == made["new_rows"]["pseudo"] > 0
    for split in ("validation", "test"):
        assert set(data.frame(split).label_source) == {"delayed"}


def test_a_domain_with_pseudo_labels_alone_promotes_nobody(champion_uri: str, samples: Samples, tmp_path: Path) -> None:
    movies = [[row.text, row.label] for row in list(read(str(SAMPLES / "movies.tar.gz"), SETTINGS.data))[::5]]
    (tmp_path / "movies.csv").write_bytes(as_csv(["text", "label"], movies))
    prepare([str(tmp_path / "movies.csv")], tmp_path / "old", SETTINGS.data)
    tweets = [[text, samples.labels[row_id], "pseudo"] for row_id, text in samples.tweets[:200]]
    (tmp_path / "tweets.csv").write_bytes(as_csv(["text", "label", "label_source"], tweets))
    made = prepare([str(tmp_path / "tweets.csv")], tmp_path / "data", SETTINGS.data, replay=str(tmp_path / "old"))
    assert set(made["new_rows"]) == {"pseudo"}
    with local_folder(champion_uri) as folder:
        decision = decide(evaluate(folder, tmp_path / "data", folder), SETTINGS.promotion, ["tweets"])
    assert decision.verdict == "keep"
    assert decision.reason.startswith("No held-out row of the new domain has a trusted label")
    assert "labels/requested/" in decision.reason
