"""everbert submit: the pipeline on Kubeflow, once, for sources that are named; and what comes of it."""

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


def submit(
    runs: ClusterRuns, store: ObjectStore, sources: list[str], model_name: str, settings: Settings, **further: Any
) -> dict[str, Any]:
    """Start a run that trains on `sources` and must prove itself against the champion, if there is one.

    `further` are more of the pipeline's arguments. Raises InputError for what a cluster cannot read, BusyError if a
    run of the model is under way.
    """
    champion = pointer.read(store, model_name)
    arguments = {
        "sources": sources,
        "sources_digest": _digest(sources),
        "bucket": store.bucket,
        "model_name": model_name,
        "champion": champion[0].uri if champion else "",
        "settings": for_steps(settings),
        **further,
    }
    name = f"submit-{model_name}-{arguments['sources_digest'][:12]}"
    run = runs.start(name, arguments)
    logs.event("run_submitted", run=run, display_name=name, page=runs.page(run))
    return {"run": run, "name": name, "page": runs.page(run)}


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


def _digest(sources: list[str]) -> str:
    for source in sources:
        if not is_s3(source):
            raise InputError(f"{source} is on this machine, and a cluster reads s3:// only: copy it there first")
        bucket, prefix = split_uri(source)
        if next(iter(ObjectStore(bucket).list(prefix)), None) is None:
            raise DataError(f"there is nothing at {source}")
    return digest_of(sources)
