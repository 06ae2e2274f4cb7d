"""Training whose weights stop being numbers: the good epochs before are kept, and without one it says so."""

import csv
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.optim.optimizer import register_optimizer_step_post_hook

from components.config import Settings, load
from components.data.prepare import prepare
from components.errors import SettingsError
from components.training.train import train

STEPS = 4  # of an epoch: 28 rows for training, in batches of 8


@pytest.fixture(scope="module")
def settings() -> Settings:
    training = {"epochs": 5, "patience": 0, "batch_size": 8, "precision": "float32", "max_length": 16}
    data = {"minimum_rows": 1, "near_duplicate_similarity": 1.0}
    return load(None, {"data": data, "training": training, "drift": {"components": 2}})


@pytest.fixture(scope="module")
def data_set(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    with open(folder / "rows.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for n in range(40):
            writer.writerow([f"{'a fine' if n % 2 else 'an awful'} film, number {n * n}", n % 2])
    made = prepare([str(folder / "rows.csv")], folder / "data", settings.data)
    assert made["counts"]["train"]["rows"] == 28
    return folder / "data"


@contextmanager
def weights_lost_after(step: int) -> Iterator[None]:
    """As after an overflow: the optimizer leaves something that is not a number in every weight."""
    done = 0

    def lose(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        nonlocal done
        done += 1
        if done >= step:
            with torch.no_grad():
                for group in optimizer.param_groups:
                    for weight in group["params"]:
                        weight.fill_(float("nan"))

    hook = register_optimizer_step_post_hook(lose)
    try:
        yield
    finally:
        hook.remove()


def test_an_epoch_that_is_not_finite_ends_training_with_the_best_before(
    data_set: Path, tiny_model: Path, settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with weights_lost_after(2 * STEPS + 2):
        made = train(data_set, tmp_path / "model", settings, base_model=str(tiny_model))
    assert made is not None
    assert [entry["epoch"] for entry in made.history] == [1, 2]
    assert json.loads((tmp_path / "model" / "everbert.json").read_text("utf-8"))["history"] == made.history
    weights = load_file(tmp_path / "model" / "model.safetensors")
    assert all(torch.isfinite(weight).all() for weight in weights.values())
    warned = [(record.message, record.__dict__["fields"]) for record in caplog.records if record.name == "everbert"]
    assert [name for name, _ in warned] == ["loss_not_finite", "epoch_not_finite"]  # no further batch, no fourth epoch
    assert warned[1][1] == {
        "reason": "its weights are lost: training ends", "epoch": 3, "train_loss": "nan", "validation_loss": "nan",
        "validation_accuracy": warned[1][1]["validation_accuracy"],
    }  # fmt: skip


def test_without_a_finite_epoch_it_says_so(
    data_set: Path, tiny_model: Path, settings: Settings, tmp_path: Path
) -> None:
    with (
        weights_lost_after(STEPS),  # with the last batch, so that only the validation tells
        pytest.raises(SettingsError, match=r"diverged: .* the validation loss nan; lower the learning rate") as refused,
    ):
        train(data_set, tmp_path / "model", settings, base_model=str(tiny_model))
    assert refused.value.exit_code == 2
    assert not (tmp_path / "model").exists()
