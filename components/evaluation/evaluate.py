"""evaluate: a challenger, and the champion if there is one, on the same held-out rows."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from components.classifier.classifier import Classifier
from components.data.data_set import DataSet
from components.errors import DataError
from components.evaluation.metrics import measure, roc_points


def evaluate(
    challenger: str | Path, data: str | Path, champion: str | Path | None = None, split: str = "test"
) -> dict[str, Any]:
    """Metrics over all rows of the split and by source, for the challenger and the champion; plain JSON values.

    `sources` holds for each source the number of rows that only one of the two got right, which is what the paired
    test needs. Raises DataError if a model's labels are not the data set's.
    """
    data_set = DataSet.load(data)
    rows = data_set.frame(split)
    labels = rows["label"].to_numpy()
    result: dict[str, Any] = {"split": split, "data_set_digest": data_set.digest}
    correct: dict[str, NDArray[np.bool_]] = {}
    for role, folder in (("challenger", challenger), ("champion", champion)):
        if folder is None:
            result[role] = None
            continue
        classifier = Classifier.load(folder)
        if classifier.labels.names != data_set.labels.names:
            raise DataError(f"the {role}'s labels are {classifier.labels}, the data set's are {data_set.labels}")
        p = classifier.probabilities(classifier.score(list(rows["text"]), description=f"evaluate {role}"))
        correct[role] = p.argmax(axis=1) == labels
        result[role] = measure(p, labels, classifier.labels) | {
            "model_version": classifier.version,
            "roc": roc_points(p, labels),
        }
    result["sources"] = _by_source(rows, correct)
    result["majority_share"] = float(np.bincount(labels).max() / len(labels))
    return result


def _by_source(rows: pd.DataFrame, correct: dict[str, NDArray[np.bool_]]) -> list[dict[str, Any]]:
    entries = []
    for source in sorted(rows["source"].unique()):
        inside = (rows["source"] == source).to_numpy()
        entry: dict[str, Any] = {"source": source, "rows": int(inside.sum())}
        for role, right in correct.items():
            entry[f"{role}_accuracy"] = float(right[inside].mean())
        if "champion" in correct:
            entry["only_challenger_right"] = int((correct["challenger"] & ~correct["champion"])[inside].sum())
            entry["only_champion_right"] = int((correct["champion"] & ~correct["challenger"])[inside].sum())
        entries.append(entry)
    return entries
