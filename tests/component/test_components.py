"""Each component.py as a KFP task: two runs of the pipeline through the local runner, and what every step left.

The first run makes the first champion. The second starts from it, replays its data, and is held to a level of proof
that it cannot reach, so the champion stays. Object store, MLflow, model and reviews are real.
"""

import ast
import csv
import json
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from components import tracking
from components.accounting import outcomes
from components.classifier.model_folder import describe
from components.config import load
from components.data.data_set import DataSet
from components.data.sources import RawRow, read
from components.deployment import pointer
from components.errors import StepError
from components.evaluation.record import without_texts
from components.storage import ObjectStore, local_folder
from pipelines.local_runner import LocalRun, run_local

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
BUCKET = "components"
MODEL = "sentiment-of-the-component-tests"
SETTINGS: dict[str, dict[str, Any]] = {
    "data": {"minimum_rows": 5, "test_share": 0.2},
    "training": {"epochs": 2, "learning_rate": 2e-4, "warm_learning_rate": 2e-4, "batch_size": 8, "max_length": 48},
}


def clear_reviews(count: int, start: int) -> list[RawRow]:
    """Half of them Positive: movie reviews whose raters agreed, so that a few are enough to learn from."""
    rows = list(read(str(ROOT / "samples" / "movies.tar.gz"), load().data))
    ratings = {"neg": ("_1.txt", "_2.txt", "_3.txt"), "pos": ("_8.txt", "_9.txt", "_10.txt")}
    return [
        row
        for label, ends in ratings.items()
        for row in [r for r in rows if r.label == label and r.row.endswith(ends)][start:][: count // 2]
    ]


def write_csv(path: Path, rows: list[RawRow]) -> str:
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *((row.text, row.label) for row in rows), ("no label", "")])
    return str(path)


@pytest.fixture(scope="module")
def store(mlflow_server: str) -> ObjectStore:
    bucket = ObjectStore(BUCKET)
    bucket.create_bucket()
    return bucket


@pytest.fixture(scope="module")
def first(store: ObjectStore, tmp_path_factory: pytest.TempPathFactory) -> LocalRun:
    folder = tmp_path_factory.mktemp("first")
    source = write_csv(folder / "movies.csv", clear_reviews(300, 0))
    arguments = {"sources": [source], "sources_digest": "1", "bucket": BUCKET, "model_name": MODEL}
    return run_local(arguments | {"settings": SETTINGS}, folder / "run")


@pytest.fixture(scope="module")
def second(store: ObjectStore, first: LocalRun, tmp_path_factory: pytest.TempPathFactory) -> LocalRun:
    folder = tmp_path_factory.mktemp("second")
    champion = tracking.champion(MODEL)
    assert champion is not None
    arguments = {
        "sources": [write_csv(folder / "fresh.csv", clear_reviews(120, 200))], "sources_digest": "2", "bucket": BUCKET,
        "model_name": MODEL, "champion": champion.uri, "warm_start": champion.uri, "replay": said_by(first, "prepare"),
        "new_sources": ["fresh"], "cause": "the texts have changed", "retrain_id": "sentiment-1-1",
        "settings": SETTINGS | {"promotion": {"level": 1e-6}},
    }  # fmt: skip
    return run_local(arguments, folder / "run")


def left_by(run: LocalRun, step: str) -> dict[str, Any]:
    """What KFP keeps of a step: its output parameter, and the metadata of its output artifacts."""
    kept = json.loads(run.artifact(step, "executor_output.json").read_text(encoding="utf-8"))
    return {
        "Output": kept.get("parameterValues", {}).get("Output"),
        **{name: value["artifacts"][0]["metadata"] for name, value in kept.get("artifacts", {}).items()},
    }


def said_by(run: LocalRun, step: str) -> Any:
    return left_by(run, step)["Output"]


def evaluation_of(run: LocalRun) -> dict[str, Any]:
    return json.loads(run.artifact("evaluate", "evaluation").read_text(encoding="utf-8"))


def test_every_component_of_the_tree_is_executed(first: LocalRun) -> None:
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in (ROOT / "components").rglob("component.py")]
    components = {node.name for tree in trees for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert {path.parent.name for path in first.root.rglob("executor_output.json")} == components
    assert set(first.seconds) == components


def test_prepare_describes_and_publishes_the_data_set(first: LocalRun, store: ObjectStore) -> None:
    data = DataSet.load(first.artifact("prepare", "dataset.json").parent)
    metadata = left_by(first, "prepare")["data"]
    assert metadata == {"digest": data.digest, "counts": data.description["counts"], "sources_digest": "1"}
    assert sum(counts["rows"] for counts in metadata["counts"].values()) == 300
    assert data.description["quarantined"] == {"the label is empty": 1}
    assert said_by(first, "prepare") == store.uri(f"datasets/{data.digest}")
    with local_folder(said_by(first, "prepare")) as folder:
        published = DataSet.load(folder)
        assert published.digest == data.digest
        assert published.frame("test").equals(data.frame("test"))


def test_prepare_replays_the_rows_of_the_first_run(first: LocalRun, second: LocalRun) -> None:
    old, new = (DataSet.load(run.artifact("prepare", "dataset.json").parent) for run in (first, second))
    assert new.description["replay"] == old.digest
    assert set(old.frame("test").text) <= set(new.frame("test").text)
    assert set(new.frame("train").source) == {"movies", "fresh"}


def test_train_logs_metrics_and_writes_a_whole_model(first: LocalRun, second: LocalRun) -> None:
    model = describe(first.artifact("train", "everbert.json").parent)
    left = left_by(first, "train")
    assert left["Output"] == left["model"]["model_version"] == model.model_version
    assert left["metrics"] == model.metrics
    assert [entry["epoch"] for entry in model.history] == [1, 2]
    assert model.data_set_digest == left_by(first, "prepare")["data"]["digest"]
    assert describe(second.artifact("train", "everbert.json").parent).warm_start == model.model_version


def test_evaluate_logs_metrics_confusion_roc_and_a_page(first: LocalRun) -> None:
    left, result = left_by(first, "evaluate"), evaluation_of(first)["challenger"]
    assert left["metrics"] == {name: result[name] for name in ("accuracy", "macro_f1", "roc_auc", "ece")}
    assert result["accuracy"] > 0.7
    confusion = left["classification"]["confusionMatrix"]
    assert [row["row"] for row in confusion["rows"]] == result["confusion"]
    assert [column["displayName"] for column in confusion["annotationSpecs"]] == ["Negative", "Positive"]
    curve = left["classification"]["confidenceMetrics"]
    assert len(curve) == len(result["roc"]["tpr"]) > 2
    assert (curve[-1]["recall"], curve[-1]["falsePositiveRate"]) == (1, 1)
    page = first.artifact("evaluate", "report").read_text(encoding="utf-8")
    assert f"{result['accuracy']:.3f}" in page
    assert page.lstrip().lower().startswith("<!doctype html>")


def test_evaluate_scores_the_champion_on_the_same_rows(first: LocalRun, second: LocalRun) -> None:
    result = evaluation_of(second)
    assert result["champion"]["model_version"] == said_by(first, "train")
    assert result["challenger"]["model_version"] == said_by(second, "train")
    assert {source["source"] for source in result["sources"]} == {"movies", "fresh"}
    assert result["champion"]["rows"] == result["challenger"]["rows"] == sum(s["rows"] for s in result["sources"])


@pytest.mark.parametrize(("run", "verdict"), [("first", "promote"), ("second", "keep")])
def test_decide_keeps_the_record(run: str, verdict: str, store: ObjectStore, request: pytest.FixtureRequest) -> None:
    done: LocalRun = request.getfixturevalue(run)
    record = json.loads(done.artifact("decide", "decision").read_text(encoding="utf-8"))
    assert record["verdict"] == verdict
    assert said_by(done, "decide") is (verdict == "promote")
    assert record["evaluation"] == without_texts(evaluation_of(done))
    decisions = [store.get(item.key) for item in store.list("decisions/")]
    assert record in [json.loads(found[0]) for found in decisions if found]


def test_register_makes_a_version_with_what_is_known_of_it(first: LocalRun) -> None:
    version = tracking.version(MODEL, said_by(first, "register"))
    assert version.digest == said_by(first, "train")
    assert version.tags["verdict"] == "promote"
    with local_folder(version.uri) as folder:
        assert describe(folder).model_version == version.digest
    client = MlflowClient()
    run = client.get_run(client.get_model_version(MODEL, version.version).run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["epochs"] == "2"
    assert run.data.params["data_set_digest"] == left_by(first, "prepare")["data"]["digest"]
    assert run.data.metrics["challenger.accuracy"] == evaluation_of(first)["challenger"]["accuracy"]
    assert [metric.step for metric in client.get_metric_history(run.info.run_id, "validation_loss")] == [1, 2]


def test_the_whole_lineage_of_a_version_is_in_mlflow(first: LocalRun, second: LocalRun) -> None:
    client = MlflowClient()
    made = client.get_model_version(MODEL, said_by(second, "register"))
    data = DataSet.load(second.artifact("prepare", "dataset.json").parent)
    run = client.get_run(made.run_id)
    for tags in (made.tags, run.data.tags):
        assert tags["parent_version"] == said_by(first, "register")
        assert tags["parent_model_version"] == said_by(first, "train")
        assert tags["data_set"] == said_by(second, "prepare")
    (used,) = run.inputs.dataset_inputs
    assert used.dataset.digest == data.digest[:36]
    assert json.loads(used.dataset.source) == {"uri": said_by(second, "prepare")}
    profile = json.loads(used.dataset.profile)
    assert (profile["new_rows"], profile["replay"]) == ({"human": 120}, data.description["replay"])
    assert profile["counts"]["train"]["source"] == data.frame("train").source.value_counts().to_dict()
    assert run.data.params["training_rows_by_label_source"] == f"human {len(data.frame('train'))}"
    assert run.data.params["new_rows"] == "human 120"
    losses = client.get_metric_history(run.info.run_id, "train_loss")
    assert len(losses) == len(describe(second.artifact("train", "everbert.json").parent).history)
    decision = Path(client.download_artifacts(run.info.run_id, "decision.json"))
    assert json.loads(decision.read_text("utf-8")) == json.loads(
        second.artifact("decide", "decision").read_text("utf-8")
    )
    card = second.artifact("train", "README.md").read_text("utf-8")
    assert made.description.startswith("# BERT text classifier")
    assert made.description in card
    assert client.get_model_version(MODEL, said_by(first, "register")).tags["parent_version"] == ""


def test_the_ledger_has_a_line_for_each_run_with_what_it_cost_and_gained(
    first: LocalRun, second: LocalRun, store: ObjectStore
) -> None:
    made, kept = outcomes.read(store, MODEL)
    assert (made.verdict, made.champion, made.gain, made.cause) == ("promote", "", {}, "by hand")
    assert (kept.verdict, kept.id, kept.cause) == ("keep", "sentiment-1-1", "the texts have changed")
    assert kept.gain == {"fresh": 0.0, "movies": 0.0}
    for run, line in ((first, made), (second, kept)):
        data = DataSet.load(run.artifact("prepare", "dataset.json").parent)
        assert (line.data_set, line.rows) == (data.digest, len(data.frame("train")))
        assert line.challenger == said_by(run, "train")
        costs = [json.loads(run.artifact(step, "cost").read_text("utf-8")) for step in ("prepare", "train", "evaluate")]
        assert line.cost.seconds == pytest.approx(sum(cost["seconds"] for cost in costs))
        assert line.cost.seconds < sum(run.seconds[step] for step in ("prepare", "train", "evaluate"))
        assert costs[1]["cpu_seconds"] > 0.5
        assert store.head(line.record)
    assert made.labels == {"human": 300}
    assert kept.labels == {"human": 120}
    assert kept.champion == made.challenger


def test_deploy_makes_the_first_version_champion(first: LocalRun, store: ObjectStore) -> None:
    number = said_by(first, "register")
    found = pointer.read(store, MODEL)
    assert found is not None
    assert (found[0].version, found[0].model_version) == (number, said_by(first, "train"))
    champion = tracking.champion(MODEL)
    assert champion is not None
    assert (champion.version, champion.uri) == (number, found[0].uri)


def test_a_challenger_without_proof_is_registered_and_not_deployed(
    first: LocalRun, second: LocalRun, store: ObjectStore
) -> None:
    assert set(second.seconds) == set(first.seconds) - {"deploy"}
    champion, challenger = (tracking.with_alias(MODEL, alias) for alias in (tracking.CHAMPION, tracking.CHALLENGER))
    found = pointer.read(store, MODEL)
    assert champion is not None
    assert challenger is not None
    assert found is not None
    assert champion.version == found[0].version == said_by(first, "register")
    assert challenger.version == said_by(second, "register")
    assert challenger.tags["verdict"] == "keep"


def test_a_step_that_fails_is_named_with_what_it_said_and_its_log(store: ObjectStore, tmp_path: Path) -> None:
    source = write_csv(tmp_path / "loud.csv", [row for row in clear_reviews(60, 0) if row.label == "pos"])
    arguments = {"sources": [source], "sources_digest": "3", "bucket": BUCKET, "settings": SETTINGS}
    before = {item.key for item in store.list()}
    with pytest.raises(StepError, match=r"step prepare failed: every row has the label Positive") as caught:
        run_local(arguments, tmp_path / "run")
    assert "\n" not in str(caught.value)
    log = tmp_path / "run" / "pipeline.log"
    assert str(log) in str(caught.value)
    assert "Traceback" in log.read_text(encoding="utf-8")
    (new,) = {item.key for item in store.list()} - before
    assert {path.name for path in (tmp_path / "run").glob("*/*")} <= {"prepare", "record"}
    line = outcomes.read(store, "sentiment")[-1]
    assert (outcomes.key_of(line.id), line.verdict, line.cause) == (new, "failed", "by hand")
    assert line.reason.startswith("ended as FAILED")
