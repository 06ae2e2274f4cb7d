"""evaluate: a challenger, and the champion if there is one, on the same held-out rows."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from components.classifier.classifier import Classifier
from components.classifier.parity import parity
from components.data.data_set import DataSet
from components.errors import DataError
from components.evaluation.behaviour import behaviours
from components.evaluation.bootstrap import intervals
from components.evaluation.metrics import measure, roc_points
from components.evaluation.slices import CHALLENGER, CHAMPION, slices

_SAMPLE_TEXTS = 200  # of the held-out ones, for what would take long on all of them
_WORST_ERRORS = 20


def evaluate(
    challenger: str | Path,
    data: str | Path,
    champion: str | Path | None = None,
    split: str = "test",
    parity_on_all: bool = False,
) -> dict[str, Any]:
    """Metrics, intervals, behaviours and slices of the challenger and the champion; plain JSON values.

    `slices` holds how many rows only one of the two got right, which is what the paired tests need; `sources` are
    those of them that are whole sources. `parity` says whether the engine answers as transformers does, on a sample of
    the rows or on all of them; `data_set` what the data are made of. Raises DataError if a model's labels are not the
    data set's.
    """
    data_set = DataSet.load(data)
    rows = data_set.frame(split)
    labels = rows["label"].to_numpy()
    result: dict[str, Any] = {"split": split, "data_set_digest": data_set.digest, CHAMPION: None}
    result["data_set"] = {name: data_set.description.get(name) for name in ("counts", "new_rows", "replay")}
    p: dict[str, NDArray[np.float64]] = {}
    for role, folder in ((CHALLENGER, challenger), (CHAMPION, champion)):
        if folder is not None:
            classifier = _load(folder, role, data_set)
            scores = classifier.score(list(rows["text"]), description=f"evaluate {role}")
            p[role] = classifier.probabilities(scores)
            result[role] = _measured(classifier, p[role], rows)
            if role == CHALLENGER:
                texts = list(rows["text"]) if parity_on_all else _sample(rows)
                found = parity(classifier.engine, texts)
                result["parity"] = asdict(found) | {"holds": found.holds}
    correct = {role: found.argmax(axis=1) == labels for role, found in p.items()}
    confidence = p.get(CHAMPION, p[CHALLENGER]).max(axis=1)
    result["slices"] = slices(rows, correct, confidence, data_set.labels)
    result["sources"] = [_with_accuracy(entry, correct) for entry in result["slices"] if entry["by"] == "source"]
    result["majority_share"] = float(np.bincount(labels).max() / len(labels))
    result["worst_errors"] = _worst_errors(rows, p[CHALLENGER], data_set)
    return result


def _load(folder: str | Path, role: str, data_set: DataSet) -> Classifier:
    classifier = Classifier.load(folder)
    if classifier.labels.names != data_set.labels.names:
        raise DataError(f"the {role}'s labels are {classifier.labels}, the data set's are {data_set.labels}")
    return classifier


def _measured(classifier: Classifier, p: NDArray[np.float64], rows: pd.DataFrame) -> dict[str, Any]:
    labels = rows["label"].to_numpy()
    tests = behaviours(
        lambda texts: [prediction.predicted_label for prediction in classifier.predict(texts)],
        classifier.labels,
        _sample(rows),
    )
    return measure(p, labels, classifier.labels) | {
        "intervals": intervals(p, labels),
        "behaviours": [asdict(test) | {"pass_rate": test.pass_rate} for test in tests],
        "model_version": classifier.version,
        "roc": roc_points(p, labels),
    }


def _sample(rows: pd.DataFrame) -> list[str]:
    """Texts from all over the rows, which may be in the order of their labels."""
    return list(rows["text"])[:: -(-len(rows) // _SAMPLE_TEXTS)]


def _with_accuracy(entry: dict[str, Any], correct: dict[str, Any]) -> dict[str, Any]:
    return entry | {f"{role}_accuracy": entry[f"{role}_right"] / entry["rows"] for role in correct}


def _worst_errors(rows: pd.DataFrame, p: NDArray[np.float64], data_set: DataSet) -> list[dict[str, Any]]:
    """The rows whose true label the challenger finds least likely."""
    labels = rows["label"].to_numpy()
    true = p[np.arange(len(p)), labels]
    worst = [i for i in np.argsort(true, kind="stable")[:_WORST_ERRORS] if p[i].argmax() != labels[i]]
    names = data_set.labels.names
    return [
        {
            "id": rows["id"].iloc[i], "source": rows["source"].iloc[i], "label": names[labels[i]],
            "predicted": names[int(p[i].argmax())], "confidence": float(p[i].max()), "text": rows["text"].iloc[i],
        }
        for i in worst
    ]  # fmt: skip
