"""Runs the pipeline on Kubeflow: compiled here, uploaded as a version once, run and followed there.

Of one model, one run at a time. KFP cannot refuse a second one, so every run looks for others before it is created
and again after: of two that were created at the same time the later gives way, and is as if it had never been.
"""

import hashlib
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components import logs
from components.config import ClusterSettings
from components.errors import BusyError, ClusterError, ClusterUnavailableError
from pipelines.compilation import compile_pipeline, steps
from pipelines.kfp_api import KfpApi, differs, endpoint, equals

EXPERIMENT, PIPELINE = "everbert", "continuous-training"
_SUCCEEDED = "SUCCEEDED"
_ENDED = (_SUCCEEDED, "FAILED", "CANCELED", "SKIPPED")
_OUTAGE_SECONDS = 900.0
_CLOCK_SECONDS = 1.0  # to which KFP tells when a run was created
_NOT_FOUND = 404
_FASTEST, _SLOWEST = 0.5, 15.0  # seconds between two looks at a run


@dataclass(frozen=True)
class Task:
    """One step of a run. `seconds` are 0 until it has ended."""

    name: str
    state: str
    seconds: float = 0.0
    error: str = ""


@dataclass(frozen=True)
class Progress:
    """How far a run has come: its state, and those steps of which anything is known."""

    state: str
    tasks: list[Task]
    error: str = ""

    @property
    def ended(self) -> bool:
        return self.state in _ENDED

    @property
    def failure(self) -> str:
        """What failed and why, as far as the server knows; empty for a run that has not, or not yet."""
        if not self.ended or self.state == _SUCCEEDED:
            return ""
        failed = next((task for task in self.tasks if task.state == "FAILED"), None)
        error = (failed.error if failed else "") or self.error
        what = f"pipeline step {failed.name} failed" if failed else f"the run ended as {self.state}"
        return what + (f": {error}" if error else "")


class ClusterRuns:
    """Runs on a cluster, found again by their display name. Raises ClusterError, which names the server."""

    def __init__(self, address: str = "", settings: ClusterSettings = ClusterSettings()) -> None:  # noqa: B008
        self.settings = settings
        self._api = KfpApi(address or endpoint(), settings.namespace)
        self._experiment = self._api.experiment(EXPERIMENT)

    def find(self, name: str) -> str:
        """The id of the run of that name, or empty."""
        found = self._api.runs(self._experiment, equals("display_name", name))
        return next((str(run.run_id) for run in found), "")

    def start(self, name: str, arguments: dict[str, Any]) -> str:
        """Start a run of that name, and return its id. Raises BusyError if another of its model is under way."""
        model = arguments["model_name"]
        self._refuse_second(self._under_way(model))
        run = self._api.create_run(
            experiment_id=self._experiment, display_name=name, service_account=self.settings.service_account,
            pipeline_version_reference=self._version(), runtime_config={"parameters": arguments},
        )  # fmt: skip
        time.sleep(_CLOCK_SECONDS)  # now all of the same second are there, and agree on which of them is first
        earlier = [other for other in self._under_way(model) if _order(other) < _order(run)]
        if earlier:
            self._api.delete(run.run_id)  # terminated, it would be found by its name, and count as submitted and failed
            self._refuse_second(earlier)
        return str(run.run_id)

    def under_way(self, run: str) -> bool:
        found = self._kept(run)
        return found is not None and not found.ended

    def failure(self, run: str) -> str:
        found = self._kept(run)
        return f"{found.failure} (run {run})" if found and found.failure else ""

    def page(self, run: str) -> str:
        """Where KFP's own pages show the run."""
        return f"{self._api.address}/#/runs/details/{run}"

    def progress(self, run: str) -> Progress:
        found = self._api.run(run)
        details = found.run_details.task_details if found.run_details else None
        return Progress(_state(found), _tasks(details or []), _error(found))

    def _kept(self, run: str) -> Progress | None:
        """None for a run that was deleted from KFP, of which nothing is known any more."""
        try:
            return self.progress(run)
        except ClusterError as error:
            if error.status == _NOT_FOUND:
                return None
            raise

    def follow(self, run: str, outage_seconds: float = _OUTAGE_SECONDS) -> Iterator[Progress]:
        """The run's progress each time it changes, until it has ended. A server that is away comes back in time, or
        ClusterUnavailableError is raised; the run goes on all the same."""
        last, pause, seen = None, _FASTEST, time.monotonic()
        while True:
            progress = last
            try:
                progress, seen = self.progress(run), time.monotonic()
            except ClusterUnavailableError as error:
                if time.monotonic() - seen > outage_seconds:
                    raise
                logs.warning("kfp_unavailable", run=run, reason=str(error))
            if progress and progress != last:
                last, pause = progress, _FASTEST
                yield progress
                if progress.ended:
                    return
            time.sleep(pause)
            pause = min(2 * pause, _SLOWEST)

    def _version(self) -> dict[str, str]:
        """The compiled pipeline as a version named by its content: the same pipeline is uploaded once."""
        with tempfile.TemporaryDirectory(prefix="everbert-") as folder:
            package = compile_pipeline(Path(folder) / "pipeline.yaml", self.settings)
            digest = hashlib.sha256(package.read_bytes()).hexdigest()[:12]
            pipeline = self._api.pipeline(PIPELINE)
            version = self._api.version(pipeline, f"{PIPELINE}-{digest}", package)
        return {"pipeline_id": pipeline, "pipeline_version_id": version}

    def _under_way(self, model_name: str) -> list[Any]:
        listed = self._api.runs(self._experiment, *(differs("state", state) for state in _ENDED))
        return [run for run in listed if _parameters(run).get("model_name") == model_name]

    def _refuse_second(self, others: list[Any]) -> None:
        if others:
            model, run = _parameters(others[0])["model_name"], others[0].run_id
            raise BusyError(f"another run of the model {model} is under way: {run} ({self.page(run)})")


def _state(item: Any) -> str:
    return str(getattr(item.state, "value", item.state) or "PENDING")


def _order(run: Any) -> tuple[str, str]:
    """By time, to the second, as the server gives it; then by id, so that one of two is always first."""
    return str(run.created_at), str(run.run_id)


def _parameters(run: Any) -> dict[str, Any]:
    return (run.runtime_config and run.runtime_config.parameters) or {}


def _error(item: Any) -> str:
    """What the server says went wrong, in a line; KFP says it in one of two places, or not at all."""
    given = [item.error, *(status.error for status in reversed(item.state_history or []))]
    return next((" ".join(error.message.split())[:500] for error in given if error and error.message), "")


def _tasks(details: list[Any]) -> list[Task]:
    """The steps among the nodes of a workflow, in the order in which they began.

    A step is a node of its own name, with a driver before it and pods below it; a driver that failed fails the step.
    """
    known = steps()
    tasks: dict[str, Task] = {}
    for node in sorted(details, key=lambda node: str(node.create_time)):
        name, state = str(node.display_name), _state(node)
        step = name.removesuffix("-driver")
        if step in known and (step == name or state == "FAILED"):
            timed = state in _ENDED and node.end_time and node.start_time
            seconds = max(0.0, (node.end_time - node.start_time).total_seconds()) if timed else 0.0
            tasks[step] = Task(step, state, seconds, _error(node))
    return list(tasks.values())
