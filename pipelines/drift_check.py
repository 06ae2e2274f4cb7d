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


@dataclass(frozen=True)
class _Job:
    """What `check` was asked to do."""

    store: ObjectStore
    settings: Settings
    runs: Runs | None
    reports: Path | None
    server_url: str
    inference_service: str
    at: datetime


def check(
    store: ObjectStore,
    model_name: str,
    settings: Settings,
    runs: Runs | None,
    *,
    reports: Path | None = None,
    server_url: str = "",
    inference_service: str = "",
    at: datetime | None = None,
) -> Check:
    """One check. `runs` is where a retrain is submitted to; None leaves that to a later check that has one.

    The report is kept below the folder `reports` too, if given; `server_url` is the server that a retrain's
    deployment waits for, `inference_service` (NAMESPACE/NAME) what it rolls out to. Raises DataError if there is no
    champion, or its reference is too small for any window.
    """
    job = _Job(store, settings, runs, reports, server_url, inference_service, at or datetime.now(UTC))
    if runs is not None:
        _finish_what_was_left(job, model_name, runs)
    served = _served(store, model_name)  # a run that was finished may have changed it
    with local_folder(served.uri) as folder:
        made = _until_committed(job, Champion.load(served, folder))
    run = retrain.submit(store, model_name, made.retrain, runs) if made.retrain and runs else ""
    seen = made.seen
    logs.event(
        "drift_check", model=model_name, model_version=made.model_version, number=made.number, windows=made.windows,
        rows_waiting=seen.rows_waiting, p_value=seen.p_value, evidence=seen.evidence, bar=seen.bar,
        effect_size=seen.effect_size, verdict=made.verdict.verdict, run=run, refused=len(made.refused),
    )  # fmt: skip
    return replace(made, run=run)


def _served(store: ObjectStore, model_name: str) -> Pointer:
    found = pointer.read(store, model_name)
    if found is None:
        raise DataError(
            f"no version of the model {model_name!r} is served from s3://{store.bucket}; train and deploy one first"
        )
    return found[0]


def _finish_what_was_left(job: _Job, model_name: str, runs: Runs) -> None:
    """Submit the retrain that a check decided on and did not live to submit."""
    state, _ = ledger.read(job.store, model_name, _served(job.store, model_name).model_version)
    retrain.resume(job.store, model_name, state.retrains, runs, job.at, job.settings.retrain.cooldown_hours)


def _until_committed(job: _Job, champion: Champion) -> Check:
    """Find, write, commit; from the start again if another check committed first."""
    name, cooldown = champion.pointer.name, job.settings.retrain.cooldown_hours
    for _ in range(_ATTEMPTS):
        before, etag = ledger.read(job.store, name, champion.classifier.version)
        under_way = retrain.under_way(job.store, before.retrains, job.runs, job.at, cooldown)
        found = find(job.store, champion, before, under_way, job.settings, job.at)
        try:
            return _conclude(job, champion, found, etag)
        except ConflictError as error:
            logs.warning("check_overtaken", reason=str(error))
    raise ConflictError(f"{_ATTEMPTS} other checks of {name} were faster each time; let fewer of them run at once")


def _conclude(job: _Job, champion: Champion, found: Findings, etag: str | None) -> Check:
    """Write what the findings lead to, and commit. Raises ConflictError, and nothing counts, if the state has moved."""
    store, settings, version, verdict = job.store, job.settings, champion.classifier.version, found.verdict
    made = Check(version, found.seen, verdict, len(found.tested), found.refused)
    lacks_labels = verdict.verdict == "wait" and found.seen.labelled_rows < settings.retrain.minimum_labels
    request = check_outputs.request_labels(store, champion, found, settings) if lacks_labels else ""
    new_verdict = verdict.verdict not in ("quiet", found.before.verdict)
    if not (found.tested or new_verdict or (request and request != found.before.request)):
        check_outputs.account_for_waiting(store, found.before, verdict)
        return replace(made, request=request)
    arguments: dict[str, Any] = {}
    if verdict.verdict == "retrain":
        served = {"server_url": job.server_url, "inference_service": job.inference_service}
        arguments = check_outputs.retrain_arguments(store, champion, found, settings, served)
    led_to = {"request": request, "retrain_arguments": arguments}
    number = check_outputs.keep_record(store, champion, found, settings, job.at, led_to)
    retrain_id = f"{champion.pointer.name}-{version}-{number}"
    decided = Retrain(retrain_id, job.at.isoformat(), arguments) if arguments else None
    entry = check_outputs.entry_of(found, number, job.at)
    concluded = transitions.conclude(found.counted, entry, retrain=decided, request=request)
    report = check_outputs.publish_report(store, champion, found, concluded, request, job.reports)
    ledger.commit(store, concluded, etag)
    check_outputs.account_for_waiting(store, concluded, verdict)
    record = check_outputs.record_key(version, number)
    return replace(made, number=number, record=record, report=report, request=request, retrain=decided)
