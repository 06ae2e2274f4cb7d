"""The held-out rows cut into slices, so that a loss in one place is not hidden by a gain in another."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from components.classifier.labels import LabelSet

CHALLENGER, CHAMPION = "challenger", "champion"
_CONFIDENCE_BOUNDS = (0.7, 0.9)
Mask = NDArray[np.bool_]


def slices(
    rows: pd.DataFrame, correct: Mapping[str, Mask], confidence: NDArray[np.float64], labels: LabelSet
) -> list[dict[str, Any]]:
    """Counts of each source as a whole (by "source") and of its parts by label, length and confidence.

    rows: text, label, source of n held-out rows. correct: role -> [n] bool. confidence: [n], of the model in service.
    Each entry: source, by, name, rows, and how many rows each role got right; with both roles, how many only one did.
    Counts of the same part of several sources may be added up.
    """
    found = []
    for source in sorted(rows["source"].unique()):
        inside = (rows["source"] == source).to_numpy()
        for by, name, part in _parts(rows, confidence, labels):
            if (inside & part).any():
                found.append({"source": str(source), "by": by, "name": name} | counts(correct, inside & part))
    return found


def counts(correct: Mapping[str, Mask], inside: Mask) -> dict[str, int]:
    """Of the rows `inside`: how many there are, and how many each role, or only one of the two, got right."""
    entry = {"rows": int(inside.sum())}
    entry |= {f"{role}_right": int(right[inside].sum()) for role, right in correct.items()}
    if CHAMPION in correct:
        new, old = correct[CHALLENGER][inside], correct[CHAMPION][inside]
        entry |= {"only_challenger_right": int((new & ~old).sum()), "only_champion_right": int((old & ~new).sum())}
    return entry


def _parts(rows: pd.DataFrame, confidence: NDArray[np.float64], labels: LabelSet) -> Iterator[tuple[str, str, Mask]]:
    yield "source", "all", np.ones(len(rows), dtype=bool)
    for number, name in labels.id2label.items():
        yield "label", name, (rows["label"] == number).to_numpy()
    length = rows["text"].str.len().to_numpy()
    short, long = np.quantile(length, (1 / 3, 2 / 3))
    yield "length", f"up to {short:.0f} characters", length <= short
    yield "length", f"{short:.0f} to {long:.0f} characters", (length > short) & (length <= long)
    yield "length", f"over {long:.0f} characters", length > long
    low, high = _CONFIDENCE_BOUNDS
    yield "confidence", f"below {low}", confidence < low
    yield "confidence", f"{low} to {high}", (confidence >= low) & (confidence < high)
    yield "confidence", f"{high} and more", confidence >= high
