"""The closed loop as a user runs it: killed half-way, started again in the same folder, and run to its end."""

import contextlib
import json
import re
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from command_process import Answer, Command, assert_refused, everbert

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]

# Half of the rows to validate on and one epoch: fast, and enough to learn the new domain. So little training costs
# some accuracy on the old one, which the margins allow here: what is to be seen is the successor rolling out.
FAST = (
    "--epochs", "1", "--validation-share", "0.5", "--margin", "0.3", "--slice-margin", "0.5",
    "--calibration-margin", "0.3", "--behaviour-margin", "0.5", "--domain", "tweets",
)  # fmt: skip


@dataclass(frozen=True)
class Run:
    folder: Path
    answer: Answer
    running: list[str]  # the processes that were left at its end

    @property
    def result(self) -> dict[str, Any]:
        return json.loads(self.answer.stdout)


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was killed while it trained, after another run had asked for it."""
    work = tmp_path_factory.mktemp("loop") / "work"
    command = Command(("run", "--work-dir", work, *FAST))
    process = command.start()
    try:
        log = work / "run" / "pipeline" / "first" / "pipeline.log"
        wait_until(lambda: log.exists() and "Executing task" in log.read_text(encoding="utf-8"), 180)
        assert sum("weed" in line or "mlflow" in line for line in command.running()) >= 2
        assert_refused(everbert("run", "--work-dir", work), f"another run uses {work}")
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)  # its pipes close once nothing that inherited them is left
    finally:
        process.kill()
    wait_until(lambda: not command.running(), 30)
    return work


@pytest.fixture(scope="module")
def finished(killed: Path) -> Run:
    """A whole run in the folder of the killed one."""
    (killed / "run" / "left over").write_text("from the run before", encoding="utf-8")
    command = Command(("run", "--json", "--work-dir", killed, *FAST))
    process = command.start()
    try:
        stdout, stderr = process.communicate(timeout=1800)
    finally:
        process.kill()
    return Run(killed / "run", Answer(process.returncode, stdout, stderr), command.running())


def wait_until(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not so after {seconds} s"
        time.sleep(0.2)


def test_a_killed_run_leaves_no_process_and_its_folder_is_refused_only_while_it_runs(killed: Path) -> None:
    assert (killed / "run").is_dir()


def test_it_ends_well_and_prints_json_and_nothing_else(finished: Run) -> None:
    assert finished.answer.code == 0, finished.answer.stderr
    assert len(finished.answer.stdout.splitlines()) == 1
    assert finished.result == json.loads((finished.folder / "summary.json").read_text(encoding="utf-8"))
    assert "Traceback" not in finished.answer.stderr


def test_no_process_is_left(finished: Run) -> None:
    assert finished.running == []


def test_it_started_clean(finished: Run) -> None:
    assert not (finished.folder / "left over").exists()


def test_it_is_quiet_on_movies_and_retrains_on_the_other_domain(finished: Run) -> None:
    verdicts = {check["window"]: check["verdict"] for check in finished.result["drift"]}
    assert verdicts == {"movies": "quiet", "tweets": "retrain"}


def test_the_successor_is_better_on_the_new_domain_and_no_request_failed(finished: Run) -> None:
    after = {domain["domain"]: domain["after"] - domain["before"] for domain in finished.result["accuracy"]}
    assert set(after) == {"movies", "tweets"}
    assert after["tweets"] >= 0.05
    assert finished.result["decision"]["verdict"] == "promote", finished.result["decision"]
    assert finished.result["requests"]["failed"] == 0
    assert finished.result["requests"]["answered"] > 10


def test_both_runs_of_the_pipeline_are_timed_step_by_step(finished: Run) -> None:
    steps = {"prepare", "train", "evaluate", "decide", "register", "deploy", "record"}
    assert [set(run) for run in finished.result["pipeline_seconds"]] == [steps, steps]


def test_the_report_is_one_page_that_needs_no_network(finished: Run) -> None:
    assert Path(finished.result["report"]) == finished.folder / "report.html"
    page = (finished.folder / "report.html").read_text(encoding="utf-8")
    assert "<svg" in page or "data:image" in page
    loaded = re.findall(r"(?:src|srcset|data|action)\s*=\s*[\"']([^\"']*)|url\(([^)]*)\)|<link[^>]*>|@import", page)
    assert not [one for one in map(any_of, loaded) if not one.startswith(("data:", "#"))]


def any_of(groups: tuple[str, ...]) -> str:
    with contextlib.suppress(StopIteration):
        return next(group for group in groups if group)
    return "a link or an import"
