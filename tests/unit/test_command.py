"""The command's surface: help for everything, one clear line and exit code 2 for what is wrong."""

import subprocess
import sys
from pathlib import Path

import pytest

COMMANDS = ("prepare", "train", "evaluate", "drift", "predict", "batch", "serve", "run", "backtest", "compile")


def everbert(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipelines", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_and_json(command: str) -> None:
    answer = everbert(command, "--help")
    assert answer.returncode == 0
    assert "--json" in answer.stdout


def test_help_lists_the_commands() -> None:
    answer = everbert("--help")
    assert answer.returncode == 0
    assert all(f"    {command} " in answer.stdout for command in COMMANDS)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("train", "--data", "nowhere", "--output", "out"), "nowhere is not a folder"),
        (("predict", "--model", "nowhere", "--text", "x"), "there is no model folder nowhere"),
        (("predict", "--model", "nowhere"), "predict takes --text T, or --input FILE with --output FILE"),
        (("drift", "--model", "nowhere", "--current", "none.csv"), "there is no file none.csv"),
        (("train", "--data", "x", "--output", "y", "--epochs", "many"), "training.epochs must be a whole number"),
        (("train", "--data", "x"), "the following arguments are required: --output"),
        (("nonsense",), "invalid choice: 'nonsense'"),
        (("train", "--config", "no.yaml", "--data", "x", "--output", "y"), "cannot read the settings file no.yaml"),
        (("predict", "--config", "no.yaml", "--model", "x", "--text", "y"), "cannot read the settings file no.yaml"),
    ],
)
def test_what_is_wrong_is_one_line_and_exit_2(arguments: tuple[str, ...], said: str, tmp_path: Path) -> None:
    answer = everbert(*arguments)
    assert answer.returncode == 2, answer.stderr
    assert said in answer.stderr
    assert len(answer.stderr.strip().splitlines()) == 1
    assert answer.stdout == ""
