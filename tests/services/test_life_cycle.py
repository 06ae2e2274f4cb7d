"""Register, deploy and score with a real object store and a real MLflow."""

import shutil
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from components import tracking
from components.classifier.model_folder import describe, seal
from components.deployment import pointer
from components.deployment.deploy import deploy
from components.deployment.pointer import Pointer
from components.deployment.rollback import rollback
from components.errors import ConflictError, DeploymentError, ResourceError, StorageError, TrackingError
from components.registry.register import register
from components.storage import ObjectStore, local_folder
from pipelines.local_services import require_free_port
from serving.follower import read_champion

pytestmark = pytest.mark.slow


def test_a_registered_version_is_a_flat_folder_and_champion_only_once_deployed(
    mlflow_server: str, bucket: ObjectStore, tiny_model: Path
) -> None:
    name = bucket.bucket
    assert tracking.champion(name) is None
    made = register(tiny_model, name, data_set="d", evaluation={"accuracy": 0.5}, decision={"verdict": "promote"})
    assert made.digest == describe(tiny_model).model_version
    assert tracking.champion(name) is None
    with local_folder(made.uri) as folder:
        assert describe(folder).model_version == made.digest
    first = deploy(bucket, made)
    assert deploy(bucket, tracking.version(name, made.version)) == first
    assert tracking.champion(name) == made
    with pytest.raises(TrackingError, match="no version 99"):
        tracking.version(name, 99)


def test_a_card_that_is_too_long_for_mlflow_ends_with_a_whole_line(
    mlflow_server: str, bucket: ObjectStore, tiny_model: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    lines = [f"line {i}: what the model is good for" for i in range(300)]
    (folder / "README.md").write_text("\n".join(["---", "library_name: transformers", "---", "", *lines]), "utf-8")
    seal(folder, replace(describe(tiny_model), files={}, library_versions={}, model_version=""))
    made = register(folder, bucket.bucket, data_set="d", evaluation={}, decision={})
    *kept, _, last = MlflowClient().get_model_version(bucket.bucket, made.version).description.splitlines()
    assert 100 < len(kept) < 300
    assert kept == lines[: len(kept)]
    assert last == "The rest is in README.md of the model folder."


def test_a_step_that_is_retried_registers_no_second_version(
    mlflow_server: str, bucket: ObjectStore, tiny_model: Path
) -> None:
    name = bucket.bucket
    given: dict[str, Any] = {"evaluation": {"accuracy": 0.5}, "decision": {"verdict": "promote", "reason": "better"}}
    first = register(tiny_model, name, data_set="d", **given)
    assert register(tiny_model, name, data_set="d", **given) == first
    assert tracking.with_alias(name, tracking.CHALLENGER) == first
    assert register(tiny_model, name, data_set="other", **given).version == "2"
    third = register(tiny_model, name, data_set="d", **given)  # the newest is another: no retry
    assert third.version == "3"
    deploy(bucket, first)
    deploy(bucket, third)
    rollback(bucket, name, reason="worse")
    assert register(tiny_model, name, data_set="d", **given).version == "4"


def test_a_version_that_no_server_answers_with_is_put_back(
    mlflow_server: str, bucket: ObjectStore, tiny_model: Path
) -> None:
    """The champion with its own predecessor: else the failure would have switched off rollback, by the watch too."""
    name = bucket.bucket
    first, second, third = (register(tiny_model, name, data_set=d, evaluation={}, decision={}) for d in "123")
    deploy(bucket, first)
    before = deploy(bucket, second)
    with pytest.raises(DeploymentError, match=f"version {second.version} stays champion"):
        deploy(bucket, third, server_url=NOBODY, timeout=0.5)
    assert pointer.state(bucket, name)[0] == before
    assert tracking.champion(name) == second
    assert rollback(bucket, name, reason="worse").champion == first.version


NOBODY = "http://127.0.0.1:9"


def test_a_first_version_that_no_server_answers_with_is_served_by_nobody(
    mlflow_server: str, bucket: ObjectStore, tiny_model: Path
) -> None:
    name = bucket.bucket
    made = register(tiny_model, name, data_set="d", evaluation={}, decision={})
    for _ in range(2):  # a retry meets what the first try left
        with pytest.raises(DeploymentError, match="no version is champion yet"):
            deploy(bucket, made, server_url=NOBODY, timeout=0.2)
        assert pointer.read(bucket, name) is None
        assert read_champion(bucket.uri(f"models/{name}")) is None
        assert tracking.champion(name) is None
    assert deploy(bucket, made).previous is None
    assert tracking.champion(name) == made


def test_going_back_passes_over_versions_that_were_never_proven(
    mlflow_server: str, bucket: ObjectStore, tiny_model: Path
) -> None:
    """A deployment that died while it waited left its pointer; the next one must not go back to that."""
    name = bucket.bucket
    first, dead, third = (register(tiny_model, name, data_set=d, evaluation={}, decision={}) for d in "123")
    deploy(bucket, first)
    current, etag = pointer.state(bucket, name)
    assert current is not None
    proven = asdict(current)
    pointer.write(bucket, Pointer(name, dead.version, dead.digest, dead.uri, proven), etag)
    with pytest.raises(DeploymentError, match=f"version {first.version} stays champion"):
        deploy(bucket, third, server_url=NOBODY, timeout=0.2)
    assert pointer.state(bucket, name)[0] == Pointer(**proven)


def test_a_champion_whose_server_is_down_stays_champion(
    mlflow_server: str, bucket: ObjectStore, tiny_model: Path
) -> None:
    name = bucket.bucket
    first, second = (register(tiny_model, name, data_set=d, evaluation={}, decision={}) for d in "12")
    deploy(bucket, first)
    deployed = deploy(bucket, second)
    with pytest.raises(DeploymentError, match=f"version {second.version} stays champion"):
        deploy(bucket, second, server_url=NOBODY, timeout=0.2)
    assert pointer.state(bucket, name)[0] == deployed
    assert tracking.champion(name) == second


def test_a_version_that_is_proven_while_another_replaces_it_is_what_is_gone_back_to(
    mlflow_server: str, bucket: ObjectStore, tiny_model: Path
) -> None:
    """Two deployments at once: the second replaces the first's pointer between the server's answer and the alias."""
    name = bucket.bucket
    slow, second = (register(tiny_model, name, data_set=d, evaluation={}, decision={}) for d in "12")
    waiting = Pointer(name, slow.version, slow.digest, slow.uri)
    pointer.write(bucket, waiting, None)
    with ThreadPoolExecutor() as pool:
        failing = pool.submit(deploy, bucket, second, server_url=NOBODY, timeout=3)
        while pointer.state(bucket, name)[0] == waiting:
            assert not failing.done()
        tracking.set_alias(name, tracking.CHAMPION, slow.version)
        with pytest.raises(DeploymentError, match=f"version {slow.version} stays champion"):
            failing.result()
    assert pointer.state(bucket, name)[0] == waiting


def test_a_version_that_was_compared_with_another_champion_is_not_deployed(
    mlflow_server: str, bucket: ObjectStore, tiny_model: Path
) -> None:
    """The champion was rolled back while its challenger was trained."""
    name = bucket.bucket
    first, second, third = (register(tiny_model, name, data_set=d, evaluation={}, decision={}) for d in "123")
    with pytest.raises(ConflictError, match="no version is champion by now"):
        deploy(bucket, second, compared_with=first.uri)
    deploy(bucket, first, compared_with="")
    with pytest.raises(ConflictError, match=f"compared with no champion, but {first.uri} is champion by now"):
        deploy(bucket, second, compared_with="")
    deploy(bucket, second, compared_with=first.uri)
    assert deploy(bucket, second, compared_with=first.uri).version == second.version  # the step's second attempt
    rollback(bucket, name, reason="worse")
    with pytest.raises(ConflictError, match="submit the pipeline again"):
        deploy(bucket, third, compared_with=second.uri)
    assert tracking.champion(name) == first


class AnswerLost(ObjectStore):
    """A store that takes a conditional put whose answer never comes; what is sent again is refused."""

    def put(self, key: str, data: bytes, **conditions: Any) -> str:
        super().put(key, data, **conditions)
        return super().put(key, data, **conditions)


def test_a_pointer_whose_answer_was_lost_is_not_taken_for_somebody_elses(bucket: ObjectStore) -> None:
    lossy, mine = AnswerLost(bucket.bucket), Pointer("m", "1", "aa", "s3://b/1")
    etag = pointer.write(lossy, mine, None)
    assert pointer.state(bucket, "m") == (mine, etag)
    pointer.put_back(lossy, "m", None, etag)
    assert pointer.read(bucket, "m") is None


def test_what_somebody_else_wrote_meanwhile_is_not_put_back(bucket: ObjectStore) -> None:
    mine, theirs = (Pointer("m", number, "aa", "s3://b/1") for number in "12")
    etag = pointer.write(bucket, mine, None)
    pointer.write(bucket, theirs, etag)
    with pytest.raises(ConflictError):
        pointer.put_back(bucket, "m", None, etag)
    assert pointer.state(bucket, "m")[0] == theirs


def test_only_one_of_two_writers_moves_the_pointer(bucket: ObjectStore) -> None:
    etag = pointer.write(bucket, Pointer("m", "1", "aa", "s3://b/1"), None)
    pointer.write(bucket, Pointer("m", "2", "bb", "s3://b/2"), etag)
    for stale in (None, etag):
        with pytest.raises(ConflictError):
            pointer.write(bucket, Pointer("m", "3", "cc", "s3://b/3"), stale)
    found = pointer.read(bucket, "m")
    assert found is not None
    assert found[0].version == "2"


def test_services_that_are_down_or_refuse_are_named(
    bucket: ObjectStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bucket.put("there", b"x")
    file = tmp_path / "file"
    file.write_bytes(b"x")
    calls: list[Callable[[ObjectStore], object]] = [
        lambda store: store.put("k", b"x"), lambda store: store.put("k", b"x", only_if_new=True),
        lambda store: store.get("there"), lambda store: store.head("there"), lambda store: list(store.list()),
        lambda store: store.upload(file, "k"), lambda store: store.download("there", tmp_path / "new"),
        lambda store: store.download_folder("", tmp_path), lambda store: store.create_bucket(),
    ]  # fmt: skip
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    for call in calls:
        with pytest.raises(StorageError, match="refused the credentials"):
            call(ObjectStore(bucket.bucket))
    monkeypatch.setenv("AWS_ENDPOINT_URL", NOBODY)
    for call in (calls[0], calls[5], calls[6]):
        with pytest.raises(StorageError, match="does not answer"):
            call(ObjectStore(bucket.bucket))
    monkeypatch.setenv("AWS_ENDPOINT_URL", "nonsense")
    with pytest.raises(StorageError, match="AWS_ENDPOINT_URL is not an address: 'nonsense'"):
        ObjectStore(bucket.bucket)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", NOBODY)
    with pytest.raises(TrackingError, match=r"MLflow server .* does not answer: is it up"):
        tracking.champion("m")


def test_a_port_that_is_taken_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ResourceError, match=f"port {taken.getsockname()[1]} is taken"):
            require_free_port(taken.getsockname()[1])
