"""What one drift check found, for a reader (drift.html) and for a program (drift.json)."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from components import files
from components.drift.detection import DriftResult
from components.drift.policy import Verdict
from components.drift.reference import DriftReference
from components.report import Section, bars, histogram_pair, page

SLICES_SHOWN = 8
TEXTS_SHOWN = 8
CHARACTERS_SHOWN = 300


def write_report(
    folder: str | Path,
    result: DriftResult,
    verdict: Verdict,
    reference: DriftReference,
    projected_current: np.ndarray,
    texts: Sequence[str] | None = None,
) -> Path:
    """Write `drift.html` and `drift.json` into `folder`, each atomically; returns the path of the page.

    `projected_current` is [n, d + k'], what `reference.project` gives; `texts`, if given, are its n texts in order:
    those farthest from the reference are shown on the page.
    """
    path = Path(folder) / "drift.html"
    sections = [_test(result), _sources(result), *_shift(result, reference, projected_current)]
    if texts:
        sections.append(_examples(texts, reference, projected_current))
    titles = {"retrain": "Drift: retrain", "wait": "Drift: wait for labels", "quiet": "Drift check: quiet"}
    html = page(titles[verdict.verdict], verdict.reason, sections)
    files.write_json(path.with_name("drift.json"), facts(result, verdict))
    with files.new_file(path) as temporary:
        temporary.write_text(html, encoding="utf-8")
    return path


def facts(result: DriftResult, verdict: Verdict) -> dict[str, Any]:
    """All of the result and the verdict as plain JSON values."""
    return dataclasses.asdict(result) | dataclasses.asdict(verdict)


def _test(result: DriftResult) -> Section:
    shown = [
        ("texts tested", result.n),
        ("reference texts", result.reference_rows),
        ("p-value", result.p_value),
        ("level", result.level),
        ("drifted", result.drifted),
        ("shift of the texts", f"{result.effect_size:.3f} standard deviations"),
        ("shift of the predictions", f"{result.head_shift:.3f} standard deviations"),
        ("statistic", result.statistic),
        ("nearest source", result.nearest_source or "none"),
        ("permutations", result.permutations),
    ]
    text = (
        "Sliced Wasserstein-2 distance between these texts and held-out texts of the training sources, as the model "
        "sees them, against the distance that chance alone gives at this number of texts."
    )
    if result.window_rows > result.n:
        text += f" A seeded sample of {result.n:,} of the {result.window_rows:,} texts was tested."
    return Section("The test", text, shown)


def _sources(result: DriftResult) -> Section:
    columns = ("source", "rows", "p_value", "statistic", "effect_size", "head_shift")
    names = ("source", "rows", "p-value", "statistic", "shift of the texts", "shift of the predictions")
    rows = [[test[column] for column in columns] for test in result.by_source]
    text = "A window has drifted only if it is unlike every source, so the largest p-value decides."
    shifts = [[float(test[column]) for test in result.by_source] for column in ("effect_size", "head_shift")]
    chart = bars([str(test["source"]) for test in result.by_source], ["texts", "predictions"], shifts, "shift (sd)")
    return Section("Against each source", text, table=(names, rows), figures=[chart])


def _shift(result: DriftResult, reference: DriftReference, current: np.ndarray) -> list[Section]:
    """Where the shift is: the head's margin and the slices that moved most."""
    width = reference.slices.shape[1]
    distances = np.array(result.slice_distances)
    largest = np.argsort(-distances[:width], kind="stable")[:SLICES_SHOWN]
    heads = range(reference.head.shape[1])
    margins = [histogram_pair(reference.head[:, k], current[:, width + k], _margin_name(k, len(heads))) for k in heads]
    first = largest[0]
    moved = [
        bars([str(i + 1) for i in largest], ["distance"], [distances[largest].tolist()], "distance (sd)"),
        histogram_pair(reference.slices[:, first], current[:, first], f"principal component {first + 1} (sd)"),
    ]
    return [
        Section("The predictions", "How sure the model is, and of what, then and now.", figures=margins),
        Section("The texts", "The principal components of the embeddings that moved most.", figures=moved),
    ]


def _margin_name(column: int, columns: int) -> str:
    return "margin of label 1 over label 0 (sd)" if columns == 1 else f"logit of label {column} (sd)"


def _examples(texts: Sequence[str], reference: DriftReference, current: np.ndarray) -> Section:
    """The texts farthest from the reference's middle, in the whitened slices."""
    width = reference.slices.shape[1]
    distances = np.sqrt(np.square(current[:, :width] - reference.slices.mean(axis=0)).mean(axis=1))
    farthest = np.argsort(-distances, kind="stable")[:TEXTS_SHOWN]
    rows = [[float(distances[i]), _shortened(texts[i])] for i in farthest]
    return Section("The most unusual texts", table=(("distance (sd)", "text"), rows))


def _shortened(text: str) -> str:
    return text if len(text) <= CHARACTERS_SHOWN else text[: CHARACTERS_SHOWN - 1] + "…"
