"""Runs the compiled-and-cluster-ready pipeline on this machine, each step in a process of its own, through KFP."""

import contextlib
import io
import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.errors import StepError
from components.progress import progress, share_terminal
from pipelines.compilation import steps

_STARTED = re.compile(r"Executing task (?:\x1b\[\d+m)?'([\w-]+)")  # KFP colours the name
_ENDED = re.compile(r"Task (?:\x1b\[\d+m)?'([\w-]+).* finished with status (?:\x1b\[\d+m)?(\w+)")
_SAID = re.compile(r"^\s*components\.errors\.\w+: (.+)$")


@dataclass
class LocalRun:
    """What a run left behind: seconds by step, in order, and where KFP put the artifacts."""

    root: Path
    log: Path
    seconds: dict[str, float] = field(default_factory=dict)

    def artifact(self, step: str, name: str) -> Path:
        """The path of a step's output artifact of this run."""
        found = sorted(self.root.glob(f"*/{step}/**/{name}"))
        if not found:
            raise StepError(f"the run left no {name} of {step}; see {self.log}")
        return found[-1]


def run_local(arguments: dict[str, Any], root: Path) -> LocalRun:
    """Run continuous_training with `arguments`; artifacts and the log go below `root`.

    Raises StepError that names the step, says what it said, and where the log is.
    """
    from kfp import local

    from pipelines.continuous_training import continuous_training

    root.mkdir(parents=True, exist_ok=True)
    run = LocalRun(root, root / "pipeline.log")
    share_terminal()
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(root), raise_on_error=True)
    with (
        open(run.log, "w", encoding="utf-8") as log,
        progress(description="pipeline", total=len(steps()), unit="step") as bar,
    ):
        watcher = _StepWatcher(run, log, bar)
        try:
            with contextlib.redirect_stdout(watcher):
                continuous_training(**arguments)
        except RuntimeError as error:
            what = watcher.said or str(error).splitlines()[0]
            raise StepError(f"pipeline step {watcher.failed or '?'} failed: {what} (log: {run.log})") from error
    return run


class _StepWatcher(io.TextIOBase):
    """Writes KFP's output to the log, and tells from it which step runs, for how long, and which failed and why.

    The first failure counts: after it runs only what records it.
    """

    def __init__(self, run: LocalRun, log: Any, bar: Any) -> None:
        self.run, self.log, self.bar = run, log, bar
        self.current = self.failed = self.said = ""
        self._since = 0.0
        self._line = ""

    def write(self, text: str) -> int:
        self.log.write(text)
        self._line += text
        *lines, self._line = self._line.split("\n")
        for line in lines:
            if started := _STARTED.search(line):
                self.current, self._since = started[1], time.monotonic()
                self.bar.set_description(f"pipeline: {self.current}")
            elif (ended := _ENDED.search(line)) and ended[1] == self.current:
                self.run.seconds[self.current] = time.monotonic() - self._since
                self.failed = self.failed or (self.current if ended[2] == "FAILURE" else "")
                self.bar.update()
            elif (said := _SAID.search(line)) and not self.failed:
                self.said = said[1]
        return len(text)

    def flush(self) -> None:
        self.log.flush()
