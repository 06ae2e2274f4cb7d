"""A new champion replaces the served model under load; one that cannot be loaded does not. A real object store."""

import contextlib
import gc
import json
import signal
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests
from server_process import Server, running, wait_until, write_model

from components.classifier.classifier import Classifier, Prediction
from components.errors import EverbertError, ModelFolderError, StorageError
from components.storage import ObjectStore
from pipelines.local_services import free_port
from serving.client import predict_grpc, predict_v1, predict_v2
from serving.follower import Current, Lookout, first, read_champion

pytestmark = pytest.mark.slow

LOCATION = "s3://everbert-serving/models/sentiment"
TEXT = "a fine film"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    """A bucket in a SeaweedFS of its own."""
    folder = tmp_path_factory.mktemp("store")
    keys = [{"accessKey": "serving", "secretKey": "serving-secret"}]
    identity = {"name": "serving", "credentials": keys, "actions": ["Admin", "Read", "Write", "List"]}
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    ports = {flag: free_port() for flag in ("master", "volume", "filer", "s3")}
    options = ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3", "-master.telemetry=false", "-s3.port.iceberg=0"]
    options += [f"-dir={folder}", f"-s3.config={folder / 's3.json'}"]
    options += [f"-{flag}.port={port}" for flag, port in ports.items()]
    command = [str(Path(sys.executable).with_name("weed")), "server", *options]
    environment = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{ports['s3']}", "AWS_ACCESS_KEY_ID": "serving",
        "AWS_SECRET_ACCESS_KEY": "serving-secret", "AWS_DEFAULT_REGION": "us-east-1",
    }  # fmt: skip
    with (folder / "log").open("wb") as log, pytest.MonkeyPatch.context() as patch:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        for name, value in environment.items():
            patch.setenv(name, value)
        patch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
        try:
            bucket = ObjectStore("everbert-serving")
            wait_until(lambda: can_write(bucket), 60)
            yield bucket
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait(10)


def can_write(bucket: ObjectStore) -> bool:
    with contextlib.suppress(StorageError):
        bucket.create_bucket()
        bucket.put("probe", b"here")
        return True
    return False


def promote(store: ObjectStore, folder: Path, number: int, model_version: str | None = None) -> str:
    """Upload a model and point the champion at it; returns its version."""
    version = Classifier.load(folder).version
    store.upload_folder(folder, f"models/sentiment/{number}")
    point(store, number, model_version or version)
    return version


def point(store: ObjectStore, number: int, model_version: str) -> None:
    uri = store.uri(f"models/sentiment/{number}")
    content = {"name": "sentiment", "version": str(number), "model_version": model_version, "uri": uri}
    store.put("models/sentiment/champion.json", json.dumps(content).encode())


class Load(threading.Thread):
    """Requests without a pause by one protocol, until stopped; keeps every answer and every failure."""

    def __init__(self, ask: Callable[[str, str, list[str]], list[Prediction]], where: str) -> None:
        super().__init__(daemon=True)
        self._ask, self._where = ask, where
        self._stopped = threading.Event()
        self.answers: list[list[Prediction]] = []
        self.failures: list[str] = []

    def run(self) -> None:
        while not self._stopped.is_set():
            try:
                self.answers.append(self._ask(self._where, "sentiment", [TEXT, "dull"]))
            except EverbertError as error:
                self.failures.append(str(error))

    def end(self) -> None:
        self._stopped.set()
        self.join(30)


def served_version(server: Server) -> str:
    return requests.get(f"{server.url}/v2/models/sentiment", timeout=10).json()["versions"][0]


def test_roll_over_under_load_fails_no_request(small_model: Path, store: ObjectStore, tmp_path: Path) -> None:
    old = promote(store, small_model, 1)
    second = write_model(tmp_path / "second", seed=2)
    with running(LOCATION, tmp_path / "log", '{"threads": 1, "poll_seconds": 0.1}') as server:
        assert served_version(server) == old
        loads = [Load(predict_v1, server.url), Load(predict_v2, server.url), Load(predict_grpc, server.address)]
        for load in loads:
            load.start()
        wait_until(lambda: all(load.answers for load in loads), 20)
        new = promote(store, second, 2)
        wait_until(lambda: served_version(server) == new, 30)
        seen = [len(load.answers) for load in loads]
        wait_until(lambda: all(len(load.answers) > n + 2 for load, n in zip(loads, seen, strict=True)), 20)
        for load in loads:
            load.end()
        broken_champions_are_passed_over(store, server, tmp_path, new)
    assert new != old
    expected = {old: Classifier.load(small_model), new: Classifier.load(second)}
    for load in loads:
        assert load.failures == []
        versions = [{p.model_version for p in answer} for answer in load.answers]
        assert all(len(one) == 1 for one in versions), "one answer mixes two versions"
        assert (versions[0], versions[-1]) == ({old}, {new})
        for answer in (load.answers[0], load.answers[-1]):
            by_hand = expected[answer[0].model_version].predict([TEXT, "dull"])
            assert [p.predicted_label for p in answer] == [p.predicted_label for p in by_hand]


def broken_champions_are_passed_over(store: ObjectStore, server: Server, tmp_path: Path, serving: str) -> None:
    """The server of the test above meets a changed model, then a wrong version, and goes on with what it has."""
    third = write_model(tmp_path / "third", seed=3)
    version = Classifier.load(third).version
    config = (third / "config.json").read_text()
    store.upload_folder(third, "models/sentiment/3")
    store.put("models/sentiment/3/config.json", (config + " ").encode())
    point(store, 3, version)
    wait_until(lambda: "was changed after training" in server.log.read_text(), 20)
    point(store, 2, "0" * 12)
    wait_until(lambda: f"the champion is {'0' * 12}" in server.log.read_text(), 20)
    assert served_version(server) == serving
    assert {p.model_version for p in predict_v1(server.url, "sentiment", [TEXT])} == {serving}
    assert server.log.read_text().count("was changed after training") == 1
    point(store, 2, serving)


def test_a_model_that_is_replaced_is_freed_at_once(small_model: Path) -> None:
    classifier = Classifier.load(small_model)
    classifier.predict(["a fine film"])
    engine = classifier.engine
    kept = [weakref.ref(part) for part in (classifier, engine, engine.model, engine._frozen, engine.tokenizer)]
    gc.disable()  # the server's leaves alone whatever was there when it began to serve
    try:
        del classifier, engine
        assert [part() for part in kept] == [None] * 5
    finally:
        gc.enable()


def test_without_a_champion_it_says_so(store: ObjectStore) -> None:
    with pytest.raises(ModelFolderError, match=r"neither a champion\.json nor a model"):
        first("s3://everbert-serving/models/nothing")


def test_a_damaged_pointer_says_so(store: ObjectStore) -> None:
    store.put("models/damaged/champion.json", b"{")
    with pytest.raises(ModelFolderError, match="not a champion pointer"):
        read_champion("s3://everbert-serving/models/damaged")


def test_a_model_folder_in_the_store_is_loaded_once(small_model: Path, store: ObjectStore) -> None:
    store.upload_folder(small_model, "models/plain")
    classifier, champion = first("s3://everbert-serving/models/plain")
    assert champion is None
    assert classifier.version == Classifier.load(small_model).version


@pytest.mark.parametrize("what", ["the store refuses", "there is no room"])
def test_what_may_pass_is_tried_again(
    what: str, small_model: Path, store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    promote(store, small_model, 1)
    _, champion = first(LOCATION)
    assert champion is not None
    lookout = Lookout(LOCATION, champion)
    new = promote(store, write_model(tmp_path / "second", seed=2), 2)
    with monkeypatch.context() as patch:
        if what == "the store refuses":
            patch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
        else:
            patch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
        with pytest.raises((StorageError, FileNotFoundError), match=r"refused the credentials|gone"):
            lookout.look()
        assert lookout.try_to_look() is None
    found = lookout.look()
    assert found is not None
    assert found.version == new
    assert lookout.look() is None


def test_what_works_object_by_object_goes_on_with_the_champion_by_then(
    small_model: Path, store: ObjectStore, tmp_path: Path
) -> None:
    old = promote(store, small_model, 1)
    current, seldom = Current(LOCATION, look_seconds=0), Current(LOCATION, look_seconds=3600)
    replaced = weakref.ref(current())
    new = promote(store, write_model(tmp_path / "fourth", seed=4), 4)
    assert current().version == new
    assert replaced() is None
    assert seldom().version == old
    promote(store, small_model, 5, model_version="another")
    for _ in range(2):
        assert current().version == new
    assert Current(str(small_model), look_seconds=0)().version == old
