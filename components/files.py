"""Files that are whole or not there: written under a temporary name, then renamed."""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from components.errors import InputError, ResourceError


@contextlib.contextmanager
def new_file(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; on success it becomes `path`, on any error it is removed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def require_replaceable(path: str | Path, marker: str) -> None:
    """Raises InputError if a folder that `new_folder` would write at `path` would replace what is somebody's."""
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise InputError(f"{path} is a file; choose another --output")
    if path.is_dir() and any(path.iterdir()) and not (path / marker).is_file():
        raise InputError(f"{path} exists, is not empty and holds no {marker}; choose another --output")


@contextlib.contextmanager
def new_folder(path: str | Path, marker: str) -> Iterator[Path]:
    """Yields an empty temporary folder beside `path`; on success it becomes `path`, on any error it is removed.

    An older folder at `path` is replaced only if it is empty or holds the file `marker` (so was made by the same
    step); anything else is somebody's and is refused with InputError before any work is done.
    """
    require_replaceable(path, marker)
    path = Path(os.path.abspath(path))  # what is beside "." is not in it
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield temporary
        for made in [temporary, *temporary.rglob("*")]:  # mkdtemp and safetensors: for this user alone
            os.chmod(made, 0o755 if made.is_dir() else 0o644)  # the next step may run as another
        if path.exists():
            shutil.rmtree(path)
        os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def tensors_written(path: str | Path) -> Iterator[None]:
    """Around calls that write safetensors, whose error for a full disk is no OSError. Raises ResourceError."""
    try:
        yield
    except SafetensorError as error:
        raise ResourceError(f"cannot write {path}: {error}") from error


def write_json(path: str | Path, value: Any) -> None:
    """`value` as indented JSON, atomically. NaN is refused: it is not JSON."""
    with new_file(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def sha256_of(path: str | Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
