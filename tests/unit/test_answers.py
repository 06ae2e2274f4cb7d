"""The reference answers of a model, and what counts as the same answer."""

from pathlib import Path

import numpy as np
import pytest

from components.classifier.answers import BOUNDS, TEXTS, Expected, answers
from components.classifier.classifier import Classifier
from components.config import load
from components.errors import SettingsError

LOGITS = np.array([[0.0, 2.0], [0.0, 0.1], [3.0, -1.0]], dtype=np.float32)


def test_they_hold_label_calibrated_confidence_and_margin() -> None:
    kept = answers(["a", "b", "c"], LOGITS, 2.0)
    assert [answer["label"] for answer in kept] == [1, 1, 0]
    assert kept[0]["confidence"] == pytest.approx(1 / (1 + np.exp(-1.0)))
    assert [answer["margin"] for answer in kept] == pytest.approx([2.0, 0.1, 4.0])


def test_only_what_rounding_explains_is_the_same_answer() -> None:
    expected = Expected.of(answers(["a", "b", "c"], LOGITS, 2.0), 2.0, "auto")
    bound = BOUNDS["bfloat16"] / 4
    sure = 1 / (1 + np.exp(-1.0))
    assert expected.difference("a", 1, sure + 0.9 * bound) == ""
    assert "confidence" in expected.difference("a", 1, sure + 1.1 * bound)
    assert "label 0 instead of 1" in expected.difference("a", 0, sure)
    assert expected.difference("b", 0, 0.505) == ""  # the two are within twice the bound of each other
    assert expected.difference("unknown", 0, 0.5) == ""
    strict = Expected.of(answers(["a", "b", "c"], LOGITS, 2.0), 2.0, "float32")
    assert "confidence" in strict.difference("a", 1, sure + 0.9 * bound)
    assert "label" in strict.difference("b", 0, 0.505)


def test_the_bound_on_logits_bounds_the_confidence() -> None:
    """Any logits within the bound, of two to six classes, stay within the bound on the confidence."""
    random = np.random.default_rng(3)
    for _ in range(2000):
        temperature, classes = random.uniform(0.3, 3), random.integers(2, 7)
        logits = random.normal(0, 2, (1, classes)).astype(np.float32)
        moved = logits + random.choice([-1.0, 1.0], logits.shape).astype(np.float32) * BOUNDS["bfloat16"]
        expected = Expected.of(answers(["a"], logits, temperature), temperature, "auto")
        (got,) = answers(["a"], moved, temperature)
        assert expected.difference("a", got["label"], got["confidence"]) == "" or got["label"] != int(logits.argmax())


def test_a_real_engine_gives_the_answers_that_transformers_gave(tiny_model: Path) -> None:
    classifier = Classifier.load(tiny_model)
    temperature = classifier.description.temperature
    kept = answers(TEXTS, classifier.engine.reference(TEXTS).logits, temperature)
    expected = Expected.of(kept, temperature, "auto")
    for text, got in zip(TEXTS, classifier.predict(TEXTS), strict=True):
        assert expected.difference(text, got.predicted_label, got.confidence_score) == ""
    assert max(got.windows for got in classifier.predict(TEXTS)) > 1


def test_steps_are_whole_numbers_that_rise_to_100() -> None:
    assert load(None, {"deployment": {"steps": "5,100"}}).deployment.steps == (5, 100)
    for wrong, said in (
        ("50,10,100", "must rise"),
        ("10,50", "end with 100"),
        ("a", "whole numbers"),
        ("0,100", "1 to"),
    ):
        with pytest.raises(SettingsError, match=said):
            load(None, {"deployment": {"steps": wrong}})
