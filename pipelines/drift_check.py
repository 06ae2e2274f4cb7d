"""everbert check: one check of what came in since the last one, against what the champion was trained on.

It scores what is not scored yet, tests every new full window, weighs the evidence of the whole series, measures size
and harm of a suspected change, decides, and on a verdict of retrain submits the pipeline. Many checks may overlap,
and one may die anywhere: all that is written before the commit has a name of its own and counts for nothing without
it, the commit is one conditional put, and what follows from it is finished by whichever check comes next.
"""

from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from components import logs
from components.config import Settings
from components.deployment import pointer
from components.deployment.pointer import Pointer
from components.drift import ledger
from components.drift import state as transitions
from components.drift.policy import Seen, Verdict
from components.drift.state import Retrain
from components.errors import ConflictError, DataError
from components.storage import ObjectStore, local_folder
from pipelines import check_outputs, retrain
from pipelines.check_findings import Champion, Findings, find
from pipelines.retrain import Runs

_ATTEMPTS = 5


@dataclass(frozen=True)
class Check:
    """What one check found and did. Keys are of the bucket, and empty where nothing was written."""

    model_version: str
    seen: Seen
    verdict: Verdict
    windows: int
    """Tested by this check."""
    refused: list[str]
    """Objects under incoming/ that could not be scored."""
    number: int = 0
    """0 if there was nothing new to commit."""
    record: str = ""
    report: str = ""
    request: str = ""
    """The open request for labels."""
    retrain: Retrain | None = None
    run: str = ""
    """The id of the run that this check submitted."""

    def as_result(self) -> dict[str, Any]:
        """For the command: plain values."""
        content = asdict(self)
        verdict, seen = content.pop("verdict"), content.pop("seen")
        return {**verdict, **content, **seen}


def check(
    store: ObjectStore,
    model_name: str,
    settings: Settings,
    runs: Runs | None,
    *,
    reports: Path | None = None,
    server_url: str = "",
    at: datetime | None = None,
) -> Check:
    """One check. `runs` is where a retrain is submitted to; None leaves that to a later check that has one.

    The report is kept below the folder `reports` too, if given; `server_url` is the server that a retrain's
    deployment waits for. Raises DataError if there is no champion, or its reference is too small for any window.
    """
    at = at or datetime.now(UTC)
    if runs is not None:
        left, _ = ledger.read(store, model_name, _served(store, model_name).model_version)
        retrain.resume(store, model_name, left.retrains, runs, at, settings.retrain.cooldown_hours)
    served = _served(store, model_name)  # a run that was resumed may have changed it
    with local_folder(served.uri) as folder:
        champion = Champion.load(served, folder)
        made = _until_committed(store, champion, settings, runs, reports, server_url, at)
    run = retrain.submit(store, model_name, made.retrain, runs) if made.retrain and runs else ""
    logs.event(
        "drift_check", model=model_name, model_version=made.model_version, number=made.number, windows=made.windows,
        rows_waiting=made.seen.rows_waiting, p_value=made.seen.p_value, evidence=made.seen.evidence,
        bar=made.seen.bar, effect_size=made.seen.effect_size, verdict=made.verdict.verdict, run=run,
        refused=len(made.refused),
    )  # fmt: skip
    return replace(made, run=run)


def _served(store: ObjectStore, model_name: str) -> Pointer:
    found = pointer.read(store, model_name)
    if found is None:
        raise DataError(
            f"no version of the model {model_name!r} is served from s3://{store.bucket}; train and deploy one first"
        )
    return found[0]


def _until_committed(
    store: ObjectStore,
    champion: Champion,
    settings: Settings,
    runs: Runs | None,
    reports: Path | None,
    server_url: str,
    at: datetime,
) -> Check:
    """Find, write, commit; from the start again if another check committed first."""
    name, cooldown = champion.pointer.name, settings.retrain.cooldown_hours
    for _ in range(_ATTEMPTS):
        before, etag = ledger.read(store, name, champion.classifier.version)
        under_way = retrain.under_way(store, before.retrains, runs, at, cooldown)
        found = find(store, champion, before, under_way, settings, at)
        try:
            return _conclude(store, champion, found, settings, reports, server_url, at, etag)
        except ConflictError as error:
            logs.warning("check_overtaken", reason=str(error))
    raise ConflictError(f"{_ATTEMPTS} other checks of {name} were faster each time; let fewer of them run at once")


def _conclude(
    store: ObjectStore,
    champion: Champion,
    found: Findings,
    settings: Settings,
    reports: Path | None,
    server_url: str,
    at: datetime,
    etag: str | None,
) -> Check:
    """Write what the findings lead to, and commit. Raises ConflictError, and nothing counts, if the state has moved."""
    version, seen, verdict = champion.classifier.version, found.seen, found.verdict
    made = Check(version, seen, verdict, len(found.tested), found.refused)
    waits_for_labels = verdict.verdict == "wait" and seen.labelled_rows < settings.retrain.minimum_labels
    request = check_outputs.request_labels(store, champion, found, settings) if waits_for_labels else ""
    new_verdict = verdict.verdict not in ("quiet", found.before.verdict)
    if not (found.tested or new_verdict or (request and request != found.before.request)):
        return replace(made, request=request)
    arguments: dict[str, Any] = {}
    if verdict.verdict == "retrain":
        arguments = check_outputs.retrain_arguments(store, champion, found, settings, server_url)
    led_to = {"request": request, "retrain_arguments": arguments}
    number = check_outputs.keep_record(store, champion, found, settings, at, led_to)
    decided = Retrain(f"{champion.pointer.name}-{version}-{number}", at.isoformat(), arguments) if arguments else None
    entry = check_outputs.entry_of(found, number, at)
    concluded = transitions.conclude(found.counted, entry, retrain=decided, request=request)
    report = check_outputs.publish_report(store, champion, found, concluded, request, reports)
    ledger.commit(store, concluded, etag)
    record = check_outputs.record_key(version, number)
    return replace(made, number=number, record=record, report=report, request=request, retrain=decided)
