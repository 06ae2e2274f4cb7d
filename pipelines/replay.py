"""everbert replay: make a decision again from its record, bit for bit.

From the record alone it recomputes the evidence and the verdict. Where the object store is reachable and still holds
what the check measured, it measures again too: every window's test, the size of the change and its harm, from the
kept embeddings and the reference of the model that was champion then.
"""

import json
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from importlib.metadata import version as library_version
from pathlib import Path
from typing import Any

import numpy as np

from components.classifier.model_folder import DESCRIPTION, REFERENCE
from components.config import DriftSettings, PromotionSettings, RetrainSettings
from components.drift import ledger, sequential
from components.drift import state as transitions
from components.drift.harm import Harm
from components.drift.measurement import Measure, judge, measure_window, numbers_of
from components.drift.policy import Seen
from components.drift.policy import decide as decide_retrain
from components.drift.state import Part
from components.drift.stream import KeptRows
from components.errors import DataError, InputError, ModelFolderError, StorageError
from components.evaluation.decide import decide as decide_promotion
from components.storage import ObjectStore, is_s3, split_uri

Difference = str


def replay(decision: str, bucket: str = "") -> dict[str, Any]:
    """Recompute the decision of a record at a path or s3:// address; `bucket` instead of the one it was made in.

    The result says whether it is the `same`, which `differences` there are, and in `said` both in a sentence. Raises
    DataError if the record cannot be read or is of no known kind.
    """
    record = _read(decision)
    try:
        if record["kind"] == "promotion":
            return _result(record, list(_promotion(record)), "the verdict, from the evaluation in the record", "")
        if record["kind"] == "check":
            return _check(record, bucket or record["bucket"])
        raise DataError(f"{decision} is a record of the kind {record['kind']!r}; there are check and promotion")
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DataError(
            f"{decision} is not a whole decision record: {type(error).__name__} {' '.join(str(error).split())[:120]}"
        ) from error


def _read(decision: str) -> dict[str, Any]:
    if is_s3(decision):
        bucket, key = split_uri(decision)
        found = ObjectStore(bucket).get(key)
        content = found[0] if found else None
    else:
        content = Path(decision).read_bytes() if Path(decision).is_file() else None
    if content is None:
        raise DataError(f"there is no decision record {decision}; give a file, or s3://BUCKET/decisions/NAME")
    try:
        record = json.loads(content)
    except ValueError as error:
        raise DataError(f"{decision} is not JSON; give a record of decisions/") from error
    if not isinstance(record, dict) or "kind" not in record:
        raise DataError(f"{decision} is not a decision record; give one of decisions/")
    return record


def _promotion(record: dict[str, Any]) -> Iterator[Difference]:
    made = decide_promotion(record["evaluation"], PromotionSettings(**record["settings"]), record["new_sources"])
    for name, value in asdict(made).items():
        yield from _compared(name, record[name], value)


def _check(record: dict[str, Any], bucket: str) -> dict[str, Any]:
    differences = list(_decided(record))
    recomputed, note = "the evidence and the verdict, from the record", ""
    store = ObjectStore(bucket)
    try:
        differences += _measured(record, store)
        recomputed = f"{len(record['windows'])} windows, the evidence, size and harm of the change, and the verdict"
        note = _committed(record, store)
    except (StorageError, _NotThereError) as error:
        note = f"The measurements were not repeated: {error}."
    return _result(record, differences, recomputed, note)


class _NotThereError(InputError):
    """What was measured is no longer there to be measured again."""


def _decided(record: dict[str, Any]) -> Iterator[Difference]:
    """From the record alone."""
    settings = RetrainSettings(**record["settings"]["retrain"])
    seen = _seen(record["seen"])
    bar = sequential.bar(settings.false_retrain_budget, settings.checks_a_year)
    evidence = transitions.accumulate(record["evidence_before"], [w["p_value"] for w in record["windows"]], bar)
    yield from _compared("bar", seen.bar, bar)
    yield from _compared("evidence", seen.evidence, evidence)
    verdict = decide_retrain(seen, settings)
    yield from _compared("verdict", record["verdict"], verdict.verdict)
    yield from _compared("reason", record["reason"], verdict.reason)


def _seen(content: dict[str, Any]) -> Seen:
    """Intervals are lists in JSON and tuples in Python; the policy only reads them."""
    harm = Harm(**content["harm"]) if content["harm"] else None
    return Seen(**{**content, "harm": harm})


def _measured(record: dict[str, Any], store: ObjectStore) -> Iterator[Difference]:
    """From the kept embeddings and the model's reference."""
    settings = DriftSettings(**record["settings"]["drift"])
    measure, kept = _measure(record), KeptRows(store, record["model_version"])
    yield from _compared("reference_digest", record["reference_digest"], measure.reference_digest)
    try:
        for number, window in enumerate(record["windows"], 1):
            tested = measure_window(kept, _parts(window["parts"]), measure, settings)
            yield from _compared(f"window {number} p_value", window["p_value"], tested.window.p_value)
            yield from _compared(f"window {number} result", window["result"], numbers_of(tested.result))
        if record["judged"]:
            windows = [_parts(parts) for parts in record["judged"]["windows"]]
            known = np.array(record["judged"]["known_labels"], dtype=np.int64)
            judged = judge(kept, windows, lambda rows: known, measure, settings)
            yield from _compared("size of the change", record["judged"]["result"], asdict(judged.result))
            yield from _compared("harm", record["seen"]["harm"], asdict(judged.harm))
    except DataError as error:
        raise _NotThereError(str(error)) from error


def _measure(record: dict[str, Any]) -> Measure:
    """The champion's reference and calibration, without its weights."""
    bucket, prefix = split_uri(record["model_uri"])
    with tempfile.TemporaryDirectory(prefix="everbert-") as folder:
        for name in (DESCRIPTION, "config.json", REFERENCE):
            ObjectStore(bucket).download(f"{prefix.rstrip('/')}/{name}", Path(folder) / name)
        try:
            return Measure.load(Path(folder))
        except ModelFolderError as error:
            raise _NotThereError(str(error)) from error


def _parts(content: list[dict[str, Any]]) -> tuple[Part, ...]:
    return tuple(Part(**part) for part in content)


def _committed(record: dict[str, Any], store: ObjectStore) -> str:
    """A record is written before its check is committed; one whose check was overtaken had no effect."""
    state, _ = ledger.read(store, record["model_name"], record["model_version"])
    oldest = state.history[0].number if state.history else 0
    if record["number"] < oldest or any(entry.number == record["number"] for entry in state.history):
        return ""
    return "This check was never committed, so the decision had no effect."


def _compared(name: str, recorded: Any, recomputed: Any) -> Iterator[Difference]:
    # Through JSON, which keeps every float exactly and makes lists of tuples.
    again = json.loads(json.dumps(recomputed))
    if json.loads(json.dumps(recorded)) == again:
        return
    if isinstance(recorded, dict) and isinstance(again, dict):
        for key in sorted(recorded.keys() | again.keys()):
            yield from _compared(f"{name}: {key}", recorded.get(key), again.get(key))
    else:
        yield f"{name} is {_short(recorded)} in the record and {_short(again)} now"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 100 else f"{text[:99]}…"


def _result(record: dict[str, Any], differences: list[Difference], recomputed: str, note: str) -> dict[str, Any]:
    if differences:
        said = f"Different: {'; '.join(differences[:5])}{'; and more' if len(differences) > 5 else ''}."
        changed = _other_libraries(record)
        said += f" The record was made with {changed}." if changed else ""
    else:
        said = f"The same, bit for bit: {record['verdict']}. Recomputed: {recomputed}."
    return {
        "same": not differences,
        "verdict": record["verdict"],
        "said": f"{said} {note}".strip(),
        "differences": differences,
    }


def _other_libraries(record: dict[str, Any]) -> str:
    """Libraries of another version than here, which may explain a difference in the last digits."""
    made_with = record.get("library_versions", {})
    return ", ".join(f"{name} {made}" for name, made in made_with.items() if made != library_version(name))
