"""A trained model: what it knows, how it behaves, and that its folder is refused once changed."""

import copy
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from components.batch.score import score_file
from components.classifier.classifier import PREDICTION_COLUMNS, Classifier
from components.classifier.engine import Engine
from components.classifier.model_folder import REFERENCE, describe
from components.classifier.packed_bert import PackedBert
from components.classifier.parity import parity
from components.config import BatchSettings, DriftSettings
from components.data.data_set import DataSet
from components.drift.detection import detect
from components.drift.reference import DriftReference
from components.errors import ModelFolderError
from components.evaluation.evaluate import evaluate

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def classifier(trained_model: Path) -> Classifier:
    return Classifier.load(trained_model)


def test_it_learned(trained_model: Path, data_set: Path) -> None:
    result = evaluate(trained_model, data_set)
    assert result["challenger"]["accuracy"] > 0.7
    assert result["challenger"]["rows"] == len(DataSet.load(data_set).frame("test"))


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("A wonderful, moving and funny film.", 1),
        ("One of the best movies of the year.", 1),
        ("A dull, lifeless and badly acted mess.", 0),
        ("A boring waste of time.", 0),
    ],
)
def test_minimum_functionality(classifier: Classifier, text: str, label: int) -> None:
    assert classifier.predict([text])[0].predicted_label == label


def test_markup_and_white_space_change_nothing(classifier: Classifier) -> None:
    plain, marked = classifier.predict(["A fine film & a joy.", "A <b>fine</b>  film &amp; a joy.<br />"])
    assert plain.predicted_label == marked.predicted_label
    assert plain.confidence_score == pytest.approx(marked.confidence_score, abs=2e-5)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_engine_answers_as_transformers_does(trained_model: Path, data_set: Path, precision: str) -> None:
    engine = Engine.load(trained_model, 128, precision)
    found = parity(engine, list(DataSet.load(data_set).frame("validation")["text"]))
    assert found.dtype == precision
    assert found.texts > 100
    assert found.largest_difference > 0  # two ways of computing, not the same one twice
    assert found.holds, found


def test_an_engine_that_lost_a_layer_is_found_out(trained_model: Path, data_set: Path) -> None:
    engine = Engine.load(trained_model, 128)
    texts = list(DataSet.load(data_set).frame("validation")["text"])
    assert parity(engine, texts).holds
    shorter = copy.deepcopy(engine.model)
    del shorter.bert.encoder.layer[2]
    with torch.inference_mode():
        engine._frozen = PackedBert(shorter, engine._dtype, frozen=True)
    assert not parity(engine, texts).holds


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_what_else_is_in_the_batch_does_not_matter(trained_model: Path, data_set: Path, precision: str) -> None:
    engine = Engine.load(trained_model, 128, precision)
    texts = list(DataSet.load(data_set).frame("validation")["text"])[:80]
    alone = np.concatenate([engine.score([text]).logits for text in texts])
    np.testing.assert_allclose(engine.score(texts).logits, alone, atol=1e-5, rtol=0)


def test_a_text_scores_the_same_alone_and_in_company(classifier: Classifier) -> None:
    texts = ["Good.", "A long and winding review, " * 20, "Bad, bad, bad."]
    together = classifier.predict(texts)
    for text, prediction in zip(texts, together, strict=True):
        alone = classifier.predict([text])[0]
        assert alone.predicted_label == prediction.predicted_label
        assert alone.confidence_score == pytest.approx(prediction.confidence_score, abs=2e-5)


def test_the_end_of_a_long_text_counts(classifier: Classifier) -> None:
    """It takes several windows, so that what stands past the first is not lost."""
    start = "The film runs for two hours and was shot in Spain. " * 40
    good, bad = classifier.score([start + "A wonderful joy. " * 40, start + "A dull, awful mess. " * 40]).logits
    assert good[1] - good[0] > bad[1] - bad[0]
    assert classifier.predict([start])[0].windows > 1


def test_batch_equals_predict(classifier: Classifier, tmp_path: Path) -> None:
    source, output = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_text('id,text\n1,"Great, really"\n2,\n3,Awful\n', encoding="utf-8")
    result = score_file(source, output, classifier, BatchSettings())
    assert (result.rows, result.quarantined) == (2, 1)
    header, *rows = output.read_text(encoding="utf-8").splitlines()
    assert header == "id,text," + ",".join(PREDICTION_COLUMNS)
    expected = classifier.predict(["Great, really"])[0]._asdict()
    assert rows[0].startswith('1,"Great, really",')
    assert rows[0].endswith(f",{expected['model_version']}")


def test_nonsense_is_drift(trained_model: Path, classifier: Classifier) -> None:
    reference = DriftReference.load(trained_model / REFERENCE)
    settings = DriftSettings()
    scores = classifier.score([f"Order {i} of part {i * 7} was shipped to depot {i % 9}." for i in range(100)])
    assert detect(reference, scores.embeddings, scores.logits, settings).drifted


@pytest.mark.parametrize("name", ["model.safetensors", REFERENCE, "config.json", "everbert.json"])
def test_a_changed_folder_is_refused(trained_model: Path, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(trained_model, folder)
    content = bytearray((folder / name).read_bytes())
    position = content.index(b"0.") if name == "everbert.json" else len(content) // 2
    content[position] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(ModelFolderError, match=name):
        describe(folder)


def test_a_pickle_is_refused(trained_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(trained_model, folder)
    (folder / "pytorch_model.bin").write_bytes(b"anything")
    with pytest.raises(ModelFolderError, match=r"pytorch_model\.bin is a pickle"):
        describe(folder)


def test_temperature_calibrates(trained_model: Path) -> None:
    metrics = describe(trained_model).metrics
    assert metrics["validation_ece"] <= metrics["validation_ece_uncalibrated"] + 0.02
    assert np.isfinite(describe(trained_model).temperature)


def test_the_model_card_says_what_it_was_trained_on_and_how_good_it_is(trained_model: Path, data_set: Path) -> None:
    card = (trained_model / "README.md").read_text(encoding="utf-8")
    rows = len(DataSet.load(data_set).frame("train"))
    assert f"| movies | {rows:,} |" in card
    assert f"| source movies | {len(DataSet.load(data_set).frame('validation'))} |" in card
    assert describe(trained_model).data_set_digest in card


def test_an_evaluation_says_how_sure_it_is_and_how_it_behaves(trained_model: Path, data_set: Path) -> None:
    challenger = evaluate(trained_model, data_set)["challenger"]
    low, high = challenger["intervals"]["accuracy"]
    assert low < challenger["accuracy"] < high
    rates = {test["kind"]: test["pass_rate"] for test in challenger["behaviours"]}
    assert set(rates) == {"minimum functionality", "negation", "names", "typos", "case"}
    assert rates["minimum functionality"] > 0.8
    assert rates["case"] == 1  # the vocabulary knows no capital letters
