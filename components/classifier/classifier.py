"""The classifier as its users see it: texts in, the fields of DESIGN's Predictions contract out.

Every surface (V1, V2, gRPC, batch, the command) gives these fields, by this code.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from components.classifier.calibration import probabilities
from components.classifier.engine import Engine, Scores
from components.classifier.labels import LabelSet
from components.classifier.model_folder import ModelDescription, describe, labels_of


class Prediction(NamedTuple):
    """One text's prediction."""

    predicted_label: int
    predicted_sentiment: str
    confidence_score: float  # calibrated probability of the predicted label, six decimals
    abstained: bool  # the confidence is below the model's abstain threshold
    windows: int
    model_version: str


PREDICTION_COLUMNS = Prediction._fields


class Classifier:
    """A model folder, checked and loaded."""

    def __init__(self, engine: Engine, labels: LabelSet, description: ModelDescription, folder: Path) -> None:
        self.engine = engine
        self.labels = labels
        self.description = description
        self.folder = folder

    @classmethod
    def load(cls, folder: str | Path) -> "Classifier":
        """Raises ModelFolderError if the folder is not a model, holds a pickle, or was changed."""
        description = describe(folder)
        engine = Engine.load(folder, description.max_length, description.training.get("precision", "auto"))
        return cls(engine, labels_of(folder), description, Path(folder))

    @property
    def version(self) -> str:
        return self.description.model_version

    def score(self, texts: Sequence[str], *, description: str = "") -> Scores:
        """Logits and embeddings, in one pass; a progress bar if `description` is given."""
        return self.engine.score(texts, description=description)

    def probabilities(self, scores: Scores) -> NDArray[np.float64]:
        """Calibrated probabilities [n, classes]."""
        return probabilities(scores.logits, self.description.temperature)

    def predictions(self, scores: Scores) -> list[Prediction]:
        """The fields of the Predictions contract for scores of this classifier."""
        p = self.probabilities(scores)
        best = p.argmax(axis=1)
        confidence = p[np.arange(len(p)), best]
        least = self.description.abstain_threshold
        abstained = (confidence < least) | (least >= 1)  # 1: nothing could be promised
        return [
            Prediction(
                predicted_label=int(label),
                predicted_sentiment=self.labels.names[label],
                confidence_score=round(float(c), 6),
                abstained=bool(a),
                windows=int(w),
                model_version=self.version,
            )
            for label, c, a, w in zip(best, confidence, abstained, scores.windows, strict=True)
        ]

    def predict(self, texts: Sequence[str]) -> list[Prediction]:
        """score, then predictions."""
        return self.predictions(self.score(texts)) if texts else []
