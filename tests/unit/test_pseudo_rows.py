"""Which unlabelled texts the champion may label for training."""

import numpy as np

from components.classifier.labels import LabelSet
from components.drift.labels import KnownLabel, StreamText, pseudo_labelled_rows

TWO = LabelSet(["Negative", "Positive"])
TEXTS = [
    StreamText(0, "a", "sure, good", "tweets"),
    StreamText(1, "b", "sure, bad", "tweets"),
    StreamText(2, "c", "not so sure", "tweets"),
    StreamText(3, "d", "sure, but labelled", "tweets"),
    StreamText(4, "e", "sure, of a source without a label", "news"),
    None,
    StreamText(6, "f", "sure, good", "tweets"),
]
P = np.array([[0.05, 0.95], [0.9, 0.1], [0.11, 0.89], [0.01, 0.99], [0.01, 0.99], [0.01, 0.99], [0.05, 0.95]])
KNOWN = {"d": KnownLabel(0, "human", False)}
TRUSTED = [{"id": "d", "source": "tweets"}]


def chosen(confidence: float) -> list[tuple[str, str, str]]:
    rows = pseudo_labelled_rows(TEXTS, P, confidence, KNOWN, TRUSTED, TWO)
    return [(row["id"], row["label"], row["label_source"]) for row in rows]


def test_the_confident_ones_of_a_source_with_trusted_labels_each_text_once() -> None:
    assert chosen(0.9) == [("a", "Positive", "pseudo"), ("b", "Negative", "pseudo")]
    assert chosen(0.96) == []


def test_none_unless_it_is_asked_for() -> None:
    assert chosen(0.0) == []
