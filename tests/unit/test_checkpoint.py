"""Where checkpoints lie: what of that place is theirs to remove, and where the place is."""

from pathlib import Path

import pytest
import torch

from components.errors import InputError
from components.storage import ObjectStore
from components.training.checkpoint import Checkpoint, CheckpointFolder, checkpoints_beside

SOMEBODYS = ("thesis.txt", "step-by-step/notes.txt", "step-12/notes.txt", ".step-by-step.old/notes.txt")


def checkpoint(step: int) -> Checkpoint:
    return Checkpoint(step, {"epoch": 1}, {"model": {"weight": torch.full((2,), float(step))}})


def save_load_remove(folder: CheckpointFolder) -> None:
    for step in (3, 4):
        folder.save(checkpoint(step))
    found = folder.load()
    assert found
    assert found.step == 4
    folder.remove()


def test_what_else_lies_in_the_folder_stays(tmp_path: Path) -> None:
    for name in SOMEBODYS:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("mine", encoding="utf-8")
    folder = CheckpointFolder(f"{tmp_path}/", {"seed": 1})
    save_load_remove(folder)
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert left == sorted(SOMEBODYS)


def test_a_folder_of_checkpoints_alone_goes_with_what_a_killed_write_left(tmp_path: Path) -> None:
    folder = CheckpointFolder(str(tmp_path / "checkpoints"), {"seed": 1})
    folder.save(checkpoint(3))
    (tmp_path / "checkpoints" / ".step-000000004.q1w2e3r4").mkdir()
    folder.remove()
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.slow
def test_what_else_lies_at_the_prefix_stays(bucket: ObjectStore) -> None:
    for name in SOMEBODYS:
        bucket.put(f"runs/{name}", b"mine")
    folder = CheckpointFolder(bucket.uri("runs/"), {"seed": 1})
    save_load_remove(folder)
    assert sorted(item.key for item in bucket.list()) == sorted(f"runs/{name}" for name in SOMEBODYS)


def test_the_place_is_beside_the_model_however_that_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model").mkdir()
    for written in ("model", "model/", "./model//", tmp_path / "model"):
        monkeypatch.chdir(tmp_path)
        assert checkpoints_beside(written) == f"{tmp_path}/model.checkpoints"
    monkeypatch.chdir(tmp_path / "model")
    assert checkpoints_beside(".") == f"{tmp_path}/model.checkpoints"
    assert checkpoints_beside("s3://bucket/models/a/") == "s3://bucket/models/a.checkpoints"
    assert checkpoints_beside("s3://bucket/models/a", "s3://bucket/models/") == "s3://bucket/models"


@pytest.mark.parametrize(
    ("output", "given", "said"),
    [
        ("model", "model/", "--checkpoints model/ is within --output model"),
        ("model/", "./model/checkpoints", "choose a place beside it"),
        ("s3://bucket/model/", "s3://bucket/model/checkpoints", "choose a place beside it"),
        ("s3://bucket/", "", "s3://bucket/ is a whole bucket"),
    ],
)
def test_a_place_that_would_cost_the_model_is_refused_before_training(output: str, given: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        checkpoints_beside(output, given)
