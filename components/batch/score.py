"""batch: score the CSV files of an S3 prefix, keeping the inputs beside the predictions.

The output holds the input's columns in order, then the prediction's. A file counts as scored once its manifest is
there, which is written last and names the input's entity tag and the model's version; a run that was cut short before
that scores the file again and writes the same objects.
"""

import json
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, astuple, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from components import logs
from components.batch import sample
from components.batch.sample import ScoreSample
from components.classifier.classifier import PREDICTION_COLUMNS, Classifier
from components.classifier.text import clean
from components.config import BatchSettings
from components.data import csv_rows
from components.data.csv_rows import records
from components.data.texts import text_column
from components.errors import ConflictError, DataError
from components.files import new_file
from components.progress import progress
from components.storage import ObjectStore

INCOMING, PREDICTIONS, QUARANTINE, LEDGER = "incoming/", "predictions/", "quarantine/", "ledger/batch/"
_QUARANTINE_COLUMNS = ("row", "reason", "raw")


@dataclass(frozen=True)
class BatchResult:
    """One file: rows scored and set aside, and whether it was scored before by the same model."""

    source: str
    predictions: str
    rows: int
    quarantined: int
    model_version: str
    embeddings: str = ""
    """Key of what was kept for the drift check; empty for a file on disk."""
    already_scored: bool = False


def score_prefix(store: ObjectStore, classifier: Classifier, settings: BatchSettings) -> list[BatchResult]:
    """Score every CSV object under incoming/ that this model has not scored yet."""
    keys = [item.key for item in store.list(INCOMING) if item.key.endswith(".csv")]
    return [score_object(store, key, classifier, settings) for key in progress(keys, description="batch", unit="file")]


def score_object(store: ObjectStore, key: str, classifier: Classifier, settings: BatchSettings) -> BatchResult:
    """Score one object: predictions/, quarantine/ if rows were set aside, the kept embeddings, then the manifest.

    Raises DataError if the object is gone, has no text column, or already holds a prediction's column; ConflictError
    if it was replaced meanwhile, or somebody else scored it at the same time.
    """
    name = key.removeprefix(INCOMING)
    item = store.head(key)
    if item is None:
        raise DataError(f"there is no object {store.uri(key)}")
    manifest_key = f"{LEDGER}{name}.json"
    kept = store.get(manifest_key)
    manifest = json.loads(kept[0]) if kept else {}
    embeddings = sample.key_of(classifier.version, name, item.etag)
    scored_before = (manifest.get("etag"), manifest.get("model_version")) == (item.etag, classifier.version)
    if scored_before and store.head(embeddings):
        return BatchResult(**manifest["result"] | {"already_scored": True})
    with tempfile.TemporaryDirectory(prefix="everbert-") as folder:
        source, output = Path(folder) / "in.csv", Path(folder) / "out.csv"
        store.download(key, source)
        if store.head(key) != item:
            raise ConflictError(f"{store.uri(key)} was replaced while it was read; score it again")
        scored = _score(source, output, classifier, settings, key)
        store.upload(output, PREDICTIONS + name)
        if scored.quarantined:
            store.upload(_quarantine_of(output), QUARANTINE + name)
        # Embeddings of this very forward pass, for the drift check.
        scored.sample.save(store, embeddings)
    result = BatchResult(key, PREDICTIONS + name, scored.rows, scored.quarantined, classifier.version, embeddings)
    content = json.dumps({"etag": item.etag, "model_version": classifier.version, "result": asdict(result)}).encode()
    store.put(manifest_key, content, if_match=kept[1] if kept else None, only_if_new=kept is None)
    logs.event("batch_scored", **asdict(result), engine=classifier.engine.description)
    return result


def score_file(
    source: Path, output: Path, classifier: Classifier, settings: BatchSettings, column: str = ""
) -> BatchResult:
    """Score a CSV file on disk; rows that cannot be scored go to `output` + ".quarantine.csv". Raises DataError."""
    if not source.is_file():
        raise DataError(f"there is no file {source}")
    with new_file(output) as temporary:
        try:
            scored = _score(source, temporary, classifier, settings, str(source), column)
            if scored.quarantined:
                _quarantine_of(temporary).replace(_quarantine_of(output))
        finally:
            _quarantine_of(temporary).unlink(missing_ok=True)
    return BatchResult(str(source), str(output), scored.rows, scored.quarantined, classifier.version)


@dataclass
class _Scored:
    rows: int
    quarantined: int
    sample: ScoreSample


def _score(
    source: Path, output: Path, classifier: Classifier, settings: BatchSettings, where: str, column: str = ""
) -> _Scored:
    """Stream `source` to `output` and to its quarantine file, a chunk of rows in memory at a time."""
    done = _Scored(0, 0, ScoreSample(settings.embedding_rows))
    with (
        open(source, "rb") as file,
        open(output, "w", encoding="utf-8", newline="") as good,
        open(_quarantine_of(output), "w", encoding="utf-8", newline="") as bad,
        progress(description="score", unit="row") as bar,
    ):
        rows, refused = csv_rows.writer(good), csv_rows.writer(bad)
        refused.writerow(_QUARANTINE_COLUMNS)
        read = records(file)
        header = _header(read, where)
        place = header.index(text_column(header, column, where))
        rows.writerow([*header, *PREDICTION_COLUMNS])
        while chunk := list(islice(read, settings.chunk_rows)):
            accepted = []
            for number, fields, reason, raw in chunk:
                if fields is not None and clean(fields[place]):
                    accepted.append(fields)
                    continue
                refused.writerow([number, reason or "no text", raw.decode("utf-8", "replace").rstrip("\r\n")])
                done.quarantined += 1
            if accepted:
                texts = [fields[place] for fields in accepted]
                scores = classifier.score(texts)
                for fields, prediction in zip(accepted, classifier.predictions(scores), strict=True):
                    rows.writerow([*fields, *astuple(prediction)])
                done.sample.add(scores, texts)
                done.rows += len(accepted)
            bar.update(len(chunk))
    return done


def _header(read: Iterator[Any], where: str) -> list[str]:
    _, header, reason, _ = next(read, (1, None, "the file is empty", b""))
    if header is None:
        raise DataError(f"{where} has no readable header: {reason}")
    taken = [name for name in header if name in PREDICTION_COLUMNS]
    if taken:
        raise DataError(f"{where} already has a column {taken[0]}; rename it, the prediction's would be lost in it")
    return header


def _quarantine_of(output: Path) -> Path:
    return output.with_name(f"{output.name}.quarantine.csv")
