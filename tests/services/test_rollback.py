"""Rollback on a real object store, a real registry and a real server."""

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from components import tracking
from components.classifier.model_folder import ModelDescription, describe, seal
from components.deployment import pointer
from components.deployment.deploy import deploy
from components.deployment.rollback import rollback
from components.errors import DeploymentError, TrackingError
from components.registry.register import register
from components.storage import ObjectStore

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def other_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same weights under another temperature, which is another version."""
    folder = tmp_path_factory.mktemp("other") / "model"
    shutil.copytree(tiny_model, folder)
    made = describe(tiny_model)
    seal(folder, ModelDescription(**vars(made) | {"temperature": 2.5, "files": {}, "model_version": ""}))
    return folder


def test_the_previous_champion_is_back_with_its_alias_and_the_record_says_why(
    mlflow_server: str, bucket: ObjectStore, tiny_model: Path, other_model: Path
) -> None:
    name = bucket.bucket
    first, second = (register(m, name, data_set="d", evaluation={}, decision={}) for m in (tiny_model, other_model))
    deploy(bucket, first)
    with pytest.raises(DeploymentError, match="to roll back to"):
        rollback(bucket, name, reason="too early")
    deploy(bucket, second)
    with pytest.raises(DeploymentError, match="by now"):
        rollback(bucket, name, reason="late", expected=first.digest)
    started = time.monotonic()
    made = rollback(bucket, name, reason="worse on tweets", expected=second.digest)
    assert time.monotonic() - started < 10
    found = pointer.read(bucket, name)
    assert found is not None
    assert (found[0].version, found[0].model_version) == (first.version, first.digest)
    champion = tracking.champion(name)
    assert champion is not None
    assert champion.version == first.version
    assert tracking.version(name, second.version).tags["rolled_back"] == "worse on tweets"
    assert made.record.startswith(f"decisions/rollback-{second.digest}-")  # the ledger's report reads the name
    stored = bucket.get(made.record)
    assert stored is not None
    record = json.loads(stored[0])
    assert (record["kind"], record["reason"]) == ("rollback", "worse on tweets")
    assert record["from"]["model_version"] == second.digest
    with pytest.raises(DeploymentError, match="to roll back to"):
        rollback(bucket, name, reason="twice")


def test_a_rollback_that_no_server_answers_is_on_record_too(
    mlflow_server: str, bucket: ObjectStore, tiny_model: Path, other_model: Path
) -> None:
    """The previous champion is champion again all the same, and what the other one gained is lost."""
    name = bucket.bucket
    for model in (tiny_model, other_model):
        deploy(bucket, register(model, name, data_set="d", evaluation={}, decision={}))
    with pytest.raises(DeploymentError, match="did not answer with version 1"):
        rollback(bucket, name, reason="worse", server_url="http://127.0.0.1:1", timeout=0)
    (record,) = bucket.list(f"decisions/rollback-{describe(other_model).model_version}-")
    stored = bucket.get(record.key)
    assert stored is not None
    assert json.loads(stored[0])["reason"] == "worse"


def test_a_rollback_without_mlflow_changes_nothing_and_goes_through_later(
    mlflow_server: str, bucket: ObjectStore, tiny_model: Path, other_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = bucket.bucket
    for model in (tiny_model, other_model):
        deploy(bucket, register(model, name, data_set="d", evaluation={}, decision={}))
    before = pointer.state(bucket, name)
    with monkeypatch.context() as away:
        away.delenv("MLFLOW_TRACKING_URI")
        with pytest.raises(TrackingError, match="MLFLOW_TRACKING_URI"):
            rollback(bucket, name, reason="worse")
    assert pointer.state(bucket, name) == before
    assert rollback(bucket, name, reason="worse").champion == "1"


NOBODY = "http://127.0.0.1:9"


class LosesMlflow(ObjectStore):
    """MLflow goes away right after the pointer was written."""

    def put(self, key: str, content: bytes, **conditions: Any) -> str:
        if key.endswith("champion.json"):
            os.environ["MLFLOW_TRACKING_URI"] = NOBODY
        return super().put(key, content, **conditions)


def two_deployed_of_three(store: ObjectStore, model: Path, other: Path) -> list[tracking.ModelVersion]:
    versions = [
        register(folder, store.bucket, data_set=str(number), evaluation={}, decision={})
        for number, folder in enumerate((model, other, model))
    ]
    for version in versions[:2]:
        deploy(store, version)
    return versions


def test_what_was_gone_back_to_serves_after_a_failed_deployment_too_though_its_alias_never_moved(
    mlflow_server: str, bucket: ObjectStore, tiny_model: Path, other_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = bucket.bucket
    first, second, third = two_deployed_of_three(bucket, tiny_model, other_model)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server)
    with pytest.raises(TrackingError, match="does not answer"):
        rollback(LosesMlflow(name), name, reason="worse")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server)
    assert tracking.champion(name) == second
    (record,) = bucket.list(f"decisions/rollback-{second.digest}-")
    with pytest.raises(DeploymentError, match="version 1 stays champion"):
        deploy(bucket, third, server_url=NOBODY, timeout=0)
    found = pointer.read(bucket, name)
    assert found is not None
    assert found[0].uri == first.uri
    assert tracking.champion(name) == first
    assert tracking.version(name, second.version).tags["rolled_back"] == "worse"
    assert rollback(bucket, name, reason="again").reason == "worse"  # what is left of it: that it is served
    assert [item.key for item in bucket.list("decisions/rollback-")] == [record.key]


def test_a_rollback_that_was_killed_is_on_record_though_another_version_is_deployed_before_the_next_check(
    mlflow_server: str, bucket: ObjectStore, tiny_model: Path, other_model: Path
) -> None:
    name = bucket.bucket
    first, second, third = two_deployed_of_three(bucket, tiny_model, other_model)
    rollback(bucket, name, reason="worse")
    (record,) = bucket.list("decisions/rollback-")
    bucket.delete(record.key)  # as if killed before it was written
    tracking.set_alias(name, tracking.CHAMPION, second.version)
    deploy(bucket, third)
    assert [item.key for item in bucket.list("decisions/rollback-")] == [record.key]
    assert rollback(bucket, name, reason="worse too").champion == first.version
