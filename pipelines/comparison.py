"""everbert drift: the texts of one CSV file against a model's reference, once and without side effects."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from components.classifier.classifier import Classifier
from components.config import Settings
from components.data.texts import read_texts
from components.drift.detection import detect
from components.drift.harm import assess
from components.drift.measurement import Measure
from components.drift.policy import decide_once
from components.drift.report import Report, write_report


def compare(model: str, current: str, settings: Settings, report: str | None) -> dict[str, Any]:
    """Test the texts of a CSV against the model's reference; with `report`, write the page into that folder too."""
    texts = read_texts(current)
    classifier, measure = Classifier.load(model), Measure.load(Path(model))
    scores = classifier.score(texts, description="score")
    result = detect(measure.reference, scores.embeddings, scores.logits, settings.drift)
    probabilities = classifier.probabilities(scores)
    harm = assess(measure.reference, measure.labels, probabilities, np.full(len(texts), -1))
    verdict = decide_once(result, harm, settings.retrain)
    page: dict[str, Any] = {}
    if report:
        projected = measure.reference.project(scores.embeddings, scores.logits)
        confidence = probabilities.max(axis=1)
        content = Report(
            verdict, measure.labels, measure.reference, result, projected, confidence, texts, harm=harm,
            name=str(current), model_version=classifier.version,
        )  # fmt: skip
        page = {"report": str(write_report(Path(report), content))}
    return {**asdict(verdict), **asdict(result), "harm": asdict(harm), **page}
