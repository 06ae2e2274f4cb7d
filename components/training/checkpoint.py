"""Checkpoints: everything that training needs to go on as if it had never stopped.

A checkpoint is a folder of safetensors files and one state.json, on disk or under an s3:// prefix. state.json is
written last: a folder without it is a write that was cut short, and is ignored. The newest whole one is taken up;
older ones go once a newer one is whole. No pickle.
"""

import contextlib
import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from components import logs
from components.errors import InputError, ModelFolderError
from components.files import new_folder, tensors_written
from components.storage import ObjectStore, is_s3, local_folder, split_uri

STATE = "state.json"
_NAME = "step-{:09d}"
_NAMES = f"step-{'[0-9]' * 9}"  # of ours; what else lies at the place, like step-by-step.md, is somebody's


@dataclass(frozen=True)
class Checkpoint:
    """`values` are plain JSON; `tensors` are named groups of named tensors."""

    step: int
    values: dict[str, Any]
    tensors: dict[str, dict[str, Tensor]]


class CheckpointFolder:
    """The checkpoints of one training run. `fingerprint` says what is trained on what, and with which settings."""

    def __init__(self, location: str, fingerprint: dict[str, Any]) -> None:
        self.location = location.rstrip("/")
        self._fingerprint = json.loads(json.dumps(fingerprint))

    def save(self, checkpoint: Checkpoint) -> None:
        name = _NAME.format(checkpoint.step)
        if is_s3(self.location):
            with tempfile.TemporaryDirectory(prefix="everbert-") as folder:
                self._write(Path(folder), checkpoint)
                store, prefix = self._store()
                for path in sorted(Path(folder).iterdir(), key=lambda path: path.name == STATE):
                    store.upload(path, f"{prefix}{name}/{path.name}")
        else:
            with new_folder(Path(self.location) / name, STATE) as temporary:
                self._write(temporary, checkpoint)
        self._remove([old for old in self._folders() if old != name])
        logs.event("checkpoint", step=checkpoint.step)

    def load(self) -> Checkpoint | None:
        """The newest whole checkpoint, or None. Raises ModelFolderError if it is of another training run."""
        whole = [name for name, is_whole in self._folders().items() if is_whole]
        if not whole:
            return None
        with local_folder(f"{self.location}/{whole[-1]}") as path:
            state = json.loads((path / STATE).read_text(encoding="utf-8"))
            if state["fingerprint"] != self._fingerprint:
                differing = [key for key, value in self._fingerprint.items() if state["fingerprint"].get(key) != value]
                raise ModelFolderError(
                    f"{self.location} holds checkpoints of another training run ({', '.join(differing)} differ); "
                    "remove them, give another place, or train without --resume"
                )
            groups = {file.stem: load_file(file) for file in sorted(path.glob("*.safetensors"))}
        return Checkpoint(state["step"], state["values"], groups)

    def remove(self) -> None:
        """Once the model is written, nothing needs them, nor their folder unless something else is in it."""
        self._remove(list(self._folders()))
        if not is_s3(self.location):
            for cut_short in Path(self.location).glob(f".{_NAMES}.*"):  # as new_folder names them
                shutil.rmtree(cut_short, ignore_errors=True)
            with contextlib.suppress(OSError):
                Path(self.location).rmdir()

    def _write(self, folder: Path, checkpoint: Checkpoint) -> None:
        for group, tensors in checkpoint.tensors.items():
            plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
            with tensors_written(folder):
                save_file(plain, folder / f"{group}.safetensors")
        state = {"step": checkpoint.step, "fingerprint": self._fingerprint, "values": checkpoint.values}
        (folder / STATE).write_text(json.dumps(state), encoding="utf-8")

    def _folders(self) -> dict[str, bool]:
        """The names of the checkpoints, oldest first, and whether each is whole."""
        if not is_s3(self.location):
            found = sorted(Path(self.location).glob(_NAMES))
            return {path.name: (path / STATE).is_file() for path in found}
        store, prefix = self._store()
        folders: dict[str, bool] = {}
        for item in store.list(f"{prefix}step-"):
            name, _, file = item.key.removeprefix(prefix).partition("/")
            if fnmatchcase(name, _NAMES):
                folders[name] = folders.get(name, False) or file == STATE
        return folders

    def _remove(self, names: list[str]) -> None:
        for name in names:
            if is_s3(self.location):
                store, prefix = self._store()
                store.delete(f"{prefix}{name}/{STATE}")  # first, so that what is left is not taken for whole
                for item in list(store.list(f"{prefix}{name}/")):
                    store.delete(item.key)
            else:
                shutil.rmtree(Path(self.location) / name, ignore_errors=True)

    def _store(self) -> tuple[ObjectStore, str]:
        bucket, prefix = split_uri(self.location)
        return ObjectStore(bucket), f"{prefix}/"


def checkpoints_beside(output: str | Path, given: str = "") -> str:
    """Where the checkpoints of the model folder `output` go: `given`, or beside `output`. Both may be s3:// prefixes.

    Raises InputError for a place within `output`: a model replaces no folder that holds anything else, so the first
    checkpoint there would cost the model in the end. Likewise for a whole bucket, which nothing is beside.
    """
    if is_s3(output) and not split_uri(str(output))[1].strip("/"):
        raise InputError(f"{output} is a whole bucket; choose an --output below it")
    model = _plain(output)
    place = _plain(given) if given else f"{model}.checkpoints"
    if f"{place}/".startswith(f"{model}/"):
        raise InputError(f"--checkpoints {given} is within --output {output}; choose a place beside it")
    return place


def _plain(location: str | Path) -> str:
    """One name for a place, written as model/ or ./model or, from within, as a dot."""
    return str(location).rstrip("/") if is_s3(location) else os.path.abspath(location)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's moments as named tensors: "<parameter number>.<moment>"."""
    state = optimizer.state_dict()["state"]
    return {f"{number}.{name}": torch.as_tensor(value) for number, m in state.items() for name, value in m.items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """The inverse of `optimizer_tensors`, for an optimizer of the same parameters."""
    content = optimizer.state_dict()
    moments: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        number, name = key.split(".", 1)
        moments.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({"state": moments, "param_groups": content["param_groups"]})
