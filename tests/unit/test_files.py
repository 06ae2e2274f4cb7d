"""What is written whole can be read by whoever comes next."""

import stat
from pathlib import Path

import pytest
from safetensors.torch import save_file
from torch import zeros

from components.files import new_folder


def test_a_folder_is_for_other_users_to_read(tmp_path: Path) -> None:
    with new_folder(tmp_path / "model", "a.json") as folder:
        save_file({"a": zeros(2)}, folder / "model.safetensors")  # makes a file for its user alone
        (folder / "part").mkdir(mode=0o700)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in [tmp_path / "model", *tmp_path.rglob("model/*")]}
    assert modes == {"model": 0o755, "model.safetensors": 0o644, "part": 0o755}


def test_the_folder_one_is_in_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path / "model")
    with new_folder(".", "a.json") as folder:
        (folder / "a.json").write_text("{}")
    assert [path.name for path in tmp_path.rglob("*")] == ["model", "a.json"]
