"""What a model gets right on held-out rows."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix, f1_score, precision_recall_fscore_support, roc_auc_score, roc_curve

from components.classifier.calibration import expected_calibration_error, reliability
from components.classifier.labels import LabelSet

_ROC_POINTS = 100


def measure(probabilities: NDArray[np.float64], labels: NDArray[np.integer], names: LabelSet) -> dict[str, Any]:
    """Metrics of calibrated `probabilities` [n, classes] against `labels` [n]; every share is 0 to 1.

    `roc_auc` is one against the rest, averaged over the classes, and None where the rows hold only one class.
    """
    numbers = np.arange(len(names))
    predicted = probabilities.argmax(axis=1)
    correct = predicted == labels
    precision, recall, f1, rows = precision_recall_fscore_support(labels, predicted, labels=numbers, zero_division=0)
    return {
        "rows": len(labels),
        "accuracy": float(correct.mean()),
        "macro_f1": float(f1_score(labels, predicted, labels=numbers, average="macro", zero_division=0)),
        "roc_auc": _roc_auc(probabilities, labels),
        "ece": expected_calibration_error(probabilities.max(axis=1), correct),
        "classes": [
            {"name": name, "precision": float(p), "recall": float(r), "f1": float(f), "rows": int(n)}
            for name, p, r, f, n in zip(names.names, precision, recall, f1, rows, strict=True)
        ],
        "confusion": confusion_matrix(labels, predicted, labels=numbers).tolist(),
        "reliability": reliability(probabilities.max(axis=1), correct),
    }


def roc_points(probabilities: NDArray[np.float64], labels: NDArray[np.integer]) -> dict[str, list[float]]:
    """At most 100 points of the ROC curve of the last class against the rest: fpr, tpr, threshold (finite)."""
    fpr, tpr, threshold = roc_curve(labels == probabilities.shape[1] - 1, probabilities[:, -1])
    keep = np.unique(np.linspace(0, len(fpr) - 1, _ROC_POINTS).round().astype(int))
    return {
        "fpr": fpr[keep].tolist(),
        "tpr": tpr[keep].tolist(),
        "threshold": np.minimum(threshold[keep], 1.0).tolist(),  # the first is infinite, which JSON cannot say
    }


def _roc_auc(probabilities: NDArray[np.float64], labels: NDArray[np.integer]) -> float | None:
    per_class = [
        roc_auc_score(labels == k, probabilities[:, k])
        for k in range(probabilities.shape[1])
        if 0 < (labels == k).sum() < len(labels)
    ]
    return float(np.mean(per_class)) if per_class else None
