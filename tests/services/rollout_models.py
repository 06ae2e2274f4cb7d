"""Models that a roll-out's tests put behind a storageUri: real ones, small, that keep their reference answers."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from kserve_controller import Model

from components.classifier.answers import TEXTS, answers
from components.classifier.classifier import Classifier
from components.classifier.model_folder import describe, seal


def answering_model(tiny_model: Path, folder: Path, temperature: float) -> Model:
    """A copy of the model at `folder`, of another temperature and so of another version; and what serves it."""
    shutil.copytree(tiny_model, folder)
    engine = Classifier.load(folder).engine
    kept = answers(TEXTS, engine.reference(TEXTS).logits, temperature)
    blank: dict[str, Any] = {"files": {}, "library_versions": {}, "model_version": ""}
    seal(folder, replace(describe(folder), temperature=temperature, answers=kept, **blank))
    classifier = Classifier.load(folder)
    return Model(classifier.version, lambda texts: [prediction._asdict() for prediction in classifier.predict(texts)])
