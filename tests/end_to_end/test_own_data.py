"""A champion from data of one's own on one machine: `everbert services`, and `everbert submit --runner local`."""

import csv
import json
import os
import re
import signal
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from command_process import Command, assert_refused, everbert

from components.config import DataSettings
from components.data.sources import read

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

MOVIES = Path(__file__).parents[2] / "samples" / "movies.tar.gz"
ENDS = ("_1.txt", "_2.txt", "_3.txt", "_8.txt", "_9.txt", "_10.txt")  # raters agreed: a few rows are enough to learn
FAST = ("--epochs", "2", "--learning-rate", "2e-4", "--max-length", "48", "--minimum-rows", "5")


@contextmanager
def services(work: Path) -> Iterator[Command]:
    """They run, and this process reaches them, for as long as the block does; ended by SIGTERM, nothing is left."""
    command, before = Command(("services", "--work-dir", work)), dict(os.environ)
    process = command.start()
    try:
        assert process.stderr
        said = ""
        while "Ctrl-C" not in said:
            line = process.stderr.readline()
            assert line, f"ended: {said}"
            said += line
        environment = work / "services" / "environment"
        assert stat.S_IMODE(environment.stat().st_mode) == 0o600
        assert f". {environment.resolve()}" in said
        reached = ["sh", "-c", f". {environment}; exec env -0"]
        for pair in subprocess.run(reached, capture_output=True, text=True, check=True).stdout.split("\0"):
            name, _, value = pair.partition("=")
            os.environ.update({name: value} if name.startswith(("AWS_", "MLFLOW_")) else {})
        yield command
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, process.stderr.read()
        assert not environment.exists()
    finally:
        process.kill()
        process.communicate(timeout=60)
        os.environ.clear()
        os.environ.update(before)
    deadline = time.monotonic() + 30
    while command.running():
        assert time.monotonic() < deadline, command.running()
        time.sleep(0.2)


def champion() -> dict[str, str] | None:
    answer = everbert("status", "--bucket", "s3://everbert", "--json")
    assert answer.code == 0, answer.stderr
    found: dict[str, str] | None = json.loads(answer.stdout)["champion"]
    return found


def test_a_model_of_ones_own_data_becomes_champion_and_is_there_after_a_restart(tmp_path: Path) -> None:
    work, source = tmp_path / "work", tmp_path / "reviews.csv"
    rows = [row for row in read(str(MOVIES), DataSettings()) if row.row.endswith(ENDS)]
    rows = [row for label in ("neg", "pos") for row in [r for r in rows if r.label == label][:150]]
    with open(source, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *((row.text, row.label) for row in rows)])
    asked = ("submit", "--runner", "local", "--source", source, "--bucket", "s3://everbert", "--work-dir", work, *FAST)

    with services(work):
        assert_refused(everbert("services", "--work-dir", work), "another run uses")
        answer = everbert(*asked, "--json", seconds=600)
        assert answer.code == 0, answer.stderr
        assert "Traceback" not in answer.stderr
        result = json.loads(answer.stdout)
        assert (result["state"], result["verdict"]) == ("SUCCEEDED", "promote"), result
        assert {task["step"] for task in result["tasks"]} >= {"prepare", "train", "evaluate", "decide", "deploy"}
        made = champion()
        assert made
        assert made["version"] == "1"

    with services(work):
        assert champion() == made
        shut = everbert("submit", "--runner", "local", "--source", tmp_path / "none", "--bucket", "s3://everbert")
        assert_refused(shut, "there is no")


def test_the_environment_holds_nothing_of_the_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "somebody's own")
    with services(tmp_path / "work"):
        file = tmp_path / "work" / "services" / "environment"
        assert "somebody" not in file.read_text(encoding="utf-8")
        shell = ["sh", "-c", f'. {file}; echo "$AWS_ENDPOINT_URL $AWS_SESSION_TOKEN."']
        said = subprocess.run(shell, capture_output=True, text=True, check=True).stdout
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+ \.\n", said), "the store's address, and no token"


@pytest.mark.parametrize("command", ["services", "run"])
def test_a_folder_to_work_in_that_is_a_file(command: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    assert_refused(everbert(command, "--work-dir", tmp_path / "file"), f"cannot write {tmp_path / 'file'}")
    assert (tmp_path / "file").read_text(encoding="utf-8") == "mine"


def test_without_mlflow_nothing_is_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    asked = ("submit", "--runner", "local", "--source", MOVIES, "--bucket", "s3://b", "--work-dir", tmp_path / "work")
    assert_refused(everbert(*asked), "no MLflow server: set MLFLOW_TRACKING_URI")
    assert not (tmp_path / "work").exists()
