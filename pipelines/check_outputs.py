"""What a check writes before its commit: the rows to learn from, a request for labels, the record, the report.

Each has a name of its own. What a check that lost the race or died has written stays there and counts for nothing:
the committed checks are those in the state's history.
"""

import csv
import hashlib
import io
import json
import tempfile
from dataclasses import asdict, replace
from datetime import datetime
from importlib.metadata import version as library_version
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np

from components import config, logs
from components.accounting import outcomes
from components.accounting.outcomes import Outcome
from components.config import Settings
from components.data.data_set import DataSet
from components.drift import annotation
from components.drift.labels import REQUESTED, as_csv, pseudo_labelled_rows
from components.drift.measurement import Judged, numbers_of
from components.drift.policy import Verdict
from components.drift.report import PastCheck, Report, write_report
from components.drift.state import MOST_HISTORY, Entry, State
from components.errors import ConflictError, InputError
from components.storage import ObjectStore
from pipelines.check_findings import Champion, Findings

_LIBRARIES = ("numpy", "scipy", "torch", "transformers")


def record_key(model_version: str, number: int) -> str:
    return f"decisions/check-{model_version}-{number}.json"


def report_prefix(model_version: str, number: int) -> str:
    return f"reports/drift/{model_version}/{number}"


def entry_of(found: Findings, number: int, at: datetime) -> Entry:
    """The check's line in the history."""
    seen = found.seen
    return Entry(
        number=number,
        at=at.isoformat(),
        verdict=found.verdict.verdict,
        windows=len(found.tested),
        rows=sum(t.window.rows for t in found.tested),
        p_value=found.tested[-1].window.p_value if found.tested else None,
        evidence=seen.evidence,
        bar=seen.bar,
        effect_size=seen.effect_size,
        estimated_accuracy=seen.harm.estimated_accuracy if seen.harm else None,
    )


def retrain_arguments(
    store: ObjectStore, champion: Champion, found: Findings, settings: Settings, served: dict[str, str]
) -> dict[str, Any]:
    """The pipeline's arguments: learn from the labelled rows of the stream, replay the champion's data set.

    `served` are those that say what its deployment reaches.
    Pseudo-labelled rows, if the settings allow any, only train: the new sources are those with trusted labels.
    The rows are published under the digest of their content, so that the same rows are the same source.
    """
    content = as_csv([*found.labelled, *_pseudo_labelled(champion, found, settings)])
    digest = hashlib.sha256(content).hexdigest()
    key = f"datasets/incoming/{digest}.csv"
    store.put(key, content)
    model = champion.classifier.description
    overrides = config.for_steps(settings)
    read = {"text_column": "text", "label_column": "label", "labels": list(champion.measure.labels.names)}
    overrides["data"] = {**overrides.get("data", {}), **read}
    return {
        "sources": [store.uri(key)],
        "sources_digest": digest,
        "bucket": store.bucket,
        "model_name": champion.pointer.name,
        "base_model": model.base_model,
        "champion": champion.pointer.uri,
        "warm_start": champion.pointer.uri,
        "replay": store.uri(f"datasets/{model.data_set_digest}"),
        "new_sources": sorted({row["source"] for row in found.labelled}),
        **served,
        "cause": found.verdict.reason,
        "settings": overrides,
    }


def _pseudo_labelled(champion: Champion, found: Findings, settings: Settings) -> list[dict[str, str]]:
    if found.judged is None:
        return []
    p = champion.measure.probabilities(found.judged.rows.logits)
    confidence, labels = settings.retrain.pseudo_confidence, champion.measure.labels
    return pseudo_labelled_rows(found.texts, p, confidence, found.known, found.labelled, labels)


def account_for_waiting(store: ObjectStore, state: State, verdict: Verdict) -> None:
    """The ledger's line of a retrain that is suspected to be due and not done: one for as long as the verdict stays."""
    same = list(takewhile(lambda entry: entry.verdict == verdict.verdict, reversed(state.history)))
    if verdict.verdict in ("wait", "warn") and 0 < len(same) < MOST_HISTORY:  # beyond that, nobody knows where it began
        name = f"{state.model_name}-{state.model_version}-{same[-1].number}"
        record = record_key(state.model_version, same[-1].number)
        line = Outcome(name, same[-1].at, state.model_name, "drift", verdict.verdict, verdict.reason)
        outcomes.write(store, replace(line, champion=state.model_version, record=record))


def request_labels(store: ObjectStore, champion: Champion, found: Findings, settings: Settings) -> str:
    """The key of the open request for labels; a new one is written if there is none, or the last is filled in.

    A request is never written over: somebody may be filling it in.
    """
    state, judged = found.counted, found.judged
    if any(not (row.get("label") or "").strip() for row in _rows_of(store, state.request)):
        return state.request
    if judged is None:
        return ""
    p = champion.measure.probabilities(judged.rows.logits)
    projected = champion.measure.reference.project(judged.rows.embeddings, judged.rows.logits)
    unusual = annotation.unusualness(champion.measure.reference, projected)
    asked = [i for i, text in enumerate(found.texts) if text and text.id and text.id not in found.known]
    texts = [text for i in asked if (text := found.texts[i])]
    names = [champion.measure.labels.names[i] for i in p[asked].argmax(axis=1)]
    questions = annotation.choose(
        [text.id for text in texts], [text.text for text in texts], names, p[asked].max(axis=1), unusual[asked],
        settings.retrain.annotation_rows,
    )  # fmt: skip
    if not questions:
        return ""
    key = f"{REQUESTED}{state.model_version}-{state.requests + 1}.csv"
    try:
        store.put(key, annotation.as_csv(questions), only_if_new=True)
        logs.event("labels_requested", key=key, rows=len(questions))
    except ConflictError:
        logs.event("labels_requested_before", key=key)
    return key


def _rows_of(store: ObjectStore, request: str) -> list[dict[str, str]]:
    """The rows of a request for labels, as far as they are filled in."""
    found = store.get(request) if request else None
    content = found[0].decode("utf-8-sig", "replace") if found else ""
    return list(csv.DictReader(io.StringIO(content, newline="")))


def keep_record(
    store: ObjectStore, champion: Champion, found: Findings, settings: Settings, at: datetime, extra: dict[str, Any]
) -> int:
    """Write the decision record under the next free number, and return the number; a record is never written over.

    Holds all that `everbert replay` needs. `extra`: what the decision led to.
    """
    judged, number = found.judged, found.before.number
    record = {
        "kind": "check",
        "at": at.isoformat(),
        "bucket": store.bucket,
        "model_name": champion.pointer.name,
        "model_version": champion.classifier.version,
        "model_uri": champion.pointer.uri,
        "reference_digest": champion.measure.reference_digest,
        "settings": {"drift": asdict(settings.drift), "retrain": asdict(settings.retrain)},
        "evidence_before": found.before.evidence,
        "windows": [asdict(t.window) | {"result": numbers_of(t.result)} for t in found.tested],
        "judged": {
            "windows": [[asdict(part) for part in parts] for parts in judged.parts],
            "result": asdict(judged.result),
            "known_labels": judged.known.tolist(),
        }
        if judged
        else None,
        "seen": asdict(found.seen),
        **asdict(found.verdict),
        "library_versions": {name: library_version(name) for name in _LIBRARIES},
        **extra,
    }
    while True:
        number += 1
        content = json.dumps({"number": number, **record}, indent=1, ensure_ascii=False, allow_nan=False).encode()
        try:
            store.put(record_key(champion.classifier.version, number), content, only_if_new=True)
        except ConflictError:
            continue
        return number


def publish_report(
    store: ObjectStore, champion: Champion, found: Findings, concluded: State, request: str, reports: Path | None
) -> str:
    """Write drift.html and drift.json below reports/, and below the folder `reports` if given; the page's key.

    Nothing, and an empty key, if no rows could be measured.
    """
    if found.judged is None:
        return ""
    prefix = report_prefix(concluded.model_version, concluded.number)
    with tempfile.TemporaryDirectory(prefix="everbert-") as temporary:
        folder = (reports or Path(temporary)) / prefix.removeprefix("reports/")
        write_report(folder, _report(store, champion, found, found.judged, concluded, request))
        store.upload_folder(folder, prefix)
    return f"{prefix}/drift.html"


def _report(
    store: ObjectStore, champion: Champion, found: Findings, judged: Judged, concluded: State, request: str
) -> Report:
    measure, rows = champion.measure, judged.rows
    readable = np.array([text is not None for text in found.texts], dtype=bool)
    return Report(
        verdict=found.verdict,
        labels=measure.labels,
        reference=measure.reference,
        result=found.last,
        current=measure.reference.project(rows.embeddings, rows.logits)[readable],
        confidence=measure.probabilities(rows.logits).max(axis=1)[readable],
        texts=[text.text for text in found.texts if text],
        reference_texts=_reference_texts(store, champion),
        harm=judged.harm,
        seen=found.seen,
        history=[PastCheck(e.number, e.at, e.verdict, e.evidence, e.p_value) for e in concluded.history],
        name=champion.pointer.name,
        model_version=concluded.model_version,
        at=concluded.history[-1].at,
        run=concluded.retrains[-1].id if found.verdict.verdict == "retrain" else "",
        request=store.uri(request) if request else "",
        request_rows=len(_rows_of(store, request)) if request else 0,
    )


def _reference_texts(store: ObjectStore, champion: Champion) -> dict[str, str]:
    """Row id -> text of the held-out rows of the model's data set, if the bucket still has it."""
    prefix = f"datasets/{champion.classifier.description.data_set_digest}"
    with tempfile.TemporaryDirectory(prefix="everbert-") as folder:
        try:
            store.download_folder(prefix, folder)
            frames = [DataSet.load(folder).frame(split) for split in ("validation", "test")]
        except InputError as error:
            logs.warning("no_reference_texts", reason=str(error))
            return {}
    return {row_id: text for frame in frames for row_id, text in zip(frame["id"], frame["text"], strict=True)}
