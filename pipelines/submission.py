"""everbert submit: the pipeline, once, for sources that are named, on Kubeflow or here; and what comes of it."""

import json
from pathlib import Path
from typing import Any

from components import logs
from components.accounting import outcomes
from components.config import Settings, for_steps
from components.data.texts import digest_of
from components.deployment import pointer
from components.errors import DataError, InputError, StepError
from components.progress import progress
from components.storage import ObjectStore, is_s3, split_uri
from pipelines.cluster_runner import ClusterRuns, Progress, Task
from pipelines.compilation import steps
from pipelines.local_runner import run_local


def submit(
    runs: ClusterRuns, store: ObjectStore, sources: list[str], model_name: str, settings: Settings, **further: Any
) -> dict[str, Any]:
    """Start a run that trains on `sources` and must prove itself against the champion, if there is one.

    `further` are more of the pipeline's arguments. Raises InputError for what a cluster cannot read, BusyError if a
    run of the model is under way.
    """
    for source in sources:
        if not is_s3(source):
            raise InputError(f"{source} is on this machine, and a cluster reads s3:// only: copy it there first")
    arguments = _arguments(store, sources, model_name, settings, further)
    name = _name(arguments)
    run = runs.start(name, arguments)
    logs.event("run_submitted", run=run, display_name=name, page=runs.page(run))
    return {"run": run, "name": name, "page": runs.page(run)}


def submit_local(
    store: ObjectStore, sources: list[str], model_name: str, settings: Settings, work: Path, **further: Any
) -> dict[str, Any]:
    """The same on this machine, to its end, below `work`; sources may be local. What was decided.

    Raises StepError that names the step that failed, TrackingError, before anything is done, if MLflow is away.
    """
    from components import tracking

    tracking.champion(model_name)
    here = [source if is_s3(source) else str(Path(source).resolve()) for source in sources]
    arguments = _arguments(store, here, model_name, settings, further)
    name = _name(arguments)
    run = run_local(arguments, (work / "runs" / name).resolve())
    decision = json.loads(run.artifact("decide", "decision").read_text(encoding="utf-8"))
    tasks = [{"step": step, "state": "SUCCEEDED", "seconds": seconds} for step, seconds in run.seconds.items()]
    decided = {"verdict": decision["verdict"], "reason": decision["reason"]}
    return {"run": str(run.root), "name": name, "state": "SUCCEEDED", **decided, "tasks": tasks}


def wait(runs: ClusterRuns, store: ObjectStore, run: str) -> dict[str, Any]:
    """How the run ended, and what it decided. Raises StepError that names the step that failed."""
    seen: dict[str, Task] = {}
    with progress(description="pipeline", total=len(steps()), unit="step") as bar:
        for now in runs.follow(run):
            _show(now, seen, run, bar)
    if now.failure:
        raise StepError(f"{now.failure} (its log: {runs.page(run)})")
    line = outcomes.find(store, run)
    decided = {"verdict": line.verdict, "reason": line.reason} if line else {}
    tasks = [{"step": task.name, "state": task.state, "seconds": task.seconds} for task in now.tasks]
    return {"state": now.state, **decided, "tasks": tasks}


def _show(now: Progress, seen: dict[str, Task], run: str, bar: Any) -> None:
    """A line for each step whose state has changed; the bar is drawn on a terminal only."""
    for task in now.tasks:
        if task.name not in seen or seen[task.name].state != task.state:
            logs.event("step", run=run, step=task.name, state=task.state, seconds=task.seconds)
            seen[task.name] = task
            bar.set_description(f"pipeline: {task.name}")
    bar.update(sum(task.state in ("SUCCEEDED", "SKIPPED") for task in now.tasks) - bar.n)


def _arguments(
    store: ObjectStore, sources: list[str], model_name: str, settings: Settings, further: dict[str, Any]
) -> dict[str, Any]:
    champion = pointer.read(store, model_name)
    return {
        "sources": sources,
        "sources_digest": _digest(sources),
        "bucket": store.bucket,
        "model_name": model_name,
        "champion": champion[0].uri if champion else "",
        "settings": for_steps(settings),
        **further,
    }


def _name(arguments: dict[str, Any]) -> str:
    return f"submit-{arguments['model_name']}-{arguments['sources_digest'][:12]}"


def _digest(sources: list[str]) -> str:
    for source in filter(is_s3, sources):
        bucket, prefix = split_uri(source)
        if next(iter(ObjectStore(bucket).list(prefix)), None) is None:
            raise DataError(f"there is nothing at {source}")
    return digest_of(sources)
