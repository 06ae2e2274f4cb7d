"""A served champion that a check can run against: a small model that was really trained on movie reviews."""

import csv
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
from kfp_server import KfpServer, kfp_server
from stream_samples import SAMPLES, SETTINGS, Samples, as_csv, serve

from components.classifier.model_folder import describe
from components.data.prepare import prepare
from components.data.sources import read
from components.storage import ObjectStore
from components.training.train import train
from pipelines import local_services


@pytest.fixture(scope="session")
def samples() -> Samples:
    def rows(path: str) -> list[list[str]]:
        with open(SAMPLES / path, encoding="utf-8", newline="") as file:
            return list(csv.reader(file))[1:]

    return Samples(rows("incoming/movies.csv"), rows("incoming/tweets.csv"), dict(rows("labels/tweets.csv")))


@pytest.fixture(scope="session")
def champion_uri(
    object_store: local_services.S3Service, small_bert: Path, tmp_path_factory: pytest.TempPathFactory
) -> str:
    """The s3:// address of the model's folder, in a bucket of its own."""
    folder = tmp_path_factory.mktemp("champion")
    rows = list(read(str(SAMPLES / "movies.tar.gz"), SETTINGS.data))[::5]
    (folder / "movies.csv").write_bytes(as_csv(["text", "label"], [[row.text, row.label] for row in rows]))
    prepare([str(folder / "movies.csv")], folder / "data", SETTINGS.data)
    train(folder / "data", folder / "model", SETTINGS, base_model=str(small_bert))
    store = ObjectStore(f"models-{secrets.token_hex(6)}")
    store.create_bucket()
    store.upload_folder(folder / "model", "models/1")
    store.put("version", describe(folder / "model").model_version.encode())
    return store.uri("models/1")


@pytest.fixture
def stream(bucket: ObjectStore, champion_uri: str) -> ObjectStore:
    """A fresh bucket in which the champion is served and nothing has come in yet."""
    serve(bucket, champion_uri)
    return bucket


@pytest.fixture
def kfp() -> Iterator[KfpServer]:
    with kfp_server() as server:
        yield server
