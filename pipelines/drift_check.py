"""The drift check: what came in against what the model was trained on; on a verdict of retrain, the pipeline again.

`compare` is `everbert drift`: one CSV, no side effects. `check` is what runs on a schedule: it takes the embeddings
that batch scoring kept (the same forward pass that scored), tests, decides, writes report and record, and resubmits.
"""

import csv
import hashlib
import io
import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from components import logs
from components.classifier.model_folder import REFERENCE
from components.config import RetrainSettings, Settings, as_overrides
from components.data.texts import read_texts, text_column
from components.drift.detection import DriftResult, detect
from components.drift.policy import Seen, Verdict, decide, decide_once
from components.drift.reference import DriftReference
from components.drift.report import write_report
from components.errors import DataError
from components.storage import ObjectStore

Submit = Callable[[dict[str, Any]], Any]


def compare(model: str, current: str, settings: Any, report: str | None) -> dict[str, Any]:
    """Test the texts of a CSV against the model's reference; with `report`, write the page there too."""
    from components.classifier.classifier import Classifier

    texts = read_texts(current)
    classifier = Classifier.load(model)
    reference = DriftReference.load(Path(model) / REFERENCE)
    scores = classifier.score(texts, description="score")
    result = detect(reference, scores.embeddings, scores.logits, settings)
    verdict = decide_once(result, None, RetrainSettings())
    page = {}
    if report:
        projected = reference.project(scores.embeddings, scores.logits)
        page = {"report": str(write_report(Path(report), result, verdict, reference, projected, texts))}
    return {**asdict(result), **page}


@dataclass(frozen=True)
class Check:
    """One check: the measurement, the policy's verdict, where the report is, and what the resubmitted run returned."""

    window: str
    result: DriftResult
    verdict: Verdict
    report: Path
    run: Any = None


def check(
    store: ObjectStore,
    window: str,
    model_folder: Path,
    reports: Path,
    settings: Settings,
    arguments: dict[str, Any],
    submit: Submit,
) -> Check:
    """Check the scored object predictions/<window>.csv, and on a verdict of retrain call `submit`.

    `arguments` are those of the last pipeline run; the new run gets the newly labelled rows as its sources, the last
    run's data set as its replay, and must be better on this window's source.
    """
    embeddings, logits, texts = _kept(store, window)
    reference = DriftReference.load(model_folder / REFERENCE)
    result = detect(reference, embeddings, logits, settings.drift)
    labelled = labelled_rows(store, window)
    seen = Seen(
        texts=result.window_rows, windows_counted=1, rows_waiting=0, window_size=result.n, evidence=1 / result.p_value,
        bar=1 / result.level, p_value=result.p_value, effect_size=result.effect_size,
        effect_interval=(result.effect_size, result.effect_size), harm=None, labelled_rows=len(labelled),
        hours_since_retrain=None, retrains_this_week=0,
    )  # fmt: skip
    verdict = decide(seen, settings.retrain)
    folder = reports / f"drift-{window}"
    report = write_report(folder, result, verdict, reference, reference.project(embeddings, logits), texts)
    store.upload_folder(folder, f"reports/drift-{window}")
    record = {"kind": "retrain", "window": window, **asdict(result), **asdict(verdict)}
    store.put(f"decisions/retrain-{window}.json", json.dumps(record, indent=2).encode())
    logs.event("drift_check", window=window, p_value=result.p_value, effect_size=result.effect_size, **asdict(verdict))
    if verdict.verdict != "retrain":
        return Check(window, result, verdict, report)
    source, digest = _publish_labelled(store, window, labelled)
    retrain = {"sources": [source], "sources_digest": digest, "new_sources": [window]}
    return Check(window, result, verdict, report, submit(arguments | retrain | {"settings": as_overrides(settings)}))


def labelled_rows(store: ObjectStore, window: str) -> list[dict[str, str]]:
    """The window's texts whose labels have come in since: predictions/<window>.csv joined with labels/ by id."""
    labels = {row["id"]: row["label"] for row in _rows(store, f"labels/{window}.csv")}
    joined = []
    for row in _rows(store, f"predictions/{window}.csv"):
        if row["id"] in labels:
            joined.append(
                {
                    "id": row["id"],
                    "text": _text(row),
                    "label": labels[row["id"]],
                    "source": window,
                    "label_source": "delayed",
                }
            )
    return joined


def _rows(store: ObjectStore, key: str) -> list[dict[str, str]]:
    stored = store.get(key)
    if stored is None:
        return []
    rows = list(csv.DictReader(io.StringIO(stored[0].decode("utf-8-sig"), newline="")))
    if rows and "id" not in rows[0]:
        raise DataError(f"{store.uri(key)} has no id column; it has {', '.join(rows[0])}")
    return rows


def _publish_labelled(store: ObjectStore, window: str, rows: list[dict[str, str]]) -> tuple[str, str]:
    """Put the joined rows where the pipeline can read them; the key holds their digest."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    content = text.getvalue().encode()
    digest = hashlib.sha256(content).hexdigest()
    key = f"labels/joined/{window}-{digest[:12]}.csv"
    store.put(key, content)
    return store.uri(key), digest


def _text(row: dict[str, str]) -> str:
    return row[text_column(list(row), "", "the predictions")]


def _kept(store: ObjectStore, window: str) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Embeddings [n, h] and logits [n, k] that batch scoring kept of the window, and their texts."""
    predicted = _rows(store, f"predictions/{window}.csv")
    with tempfile.NamedTemporaryFile(suffix=".npz") as file:
        store.download(f"predictions/{window}.embeddings.npz", file.name)
        with np.load(file.name, allow_pickle=False) as kept:
            return kept["embeddings"], kept["logits"], [_text(predicted[i]) for i in kept["rows"]]
