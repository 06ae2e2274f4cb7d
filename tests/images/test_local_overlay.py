"""The local overlay's Deployments, run by `podman kube play`: its object store takes its credentials only, its MLflow
registers a model there. Names of Services are not resolved outside a cluster, so both listen on the host's network.
"""

import base64
import contextlib
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from containers import Engine, only_when_asked
from mlflow import MlflowClient

from components import images as names
from components.errors import StorageError
from components.storage import ObjectStore
from pipelines.local_services import require_free_port

only_when_asked()
pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

ROOT = Path(__file__).parents[2]
STORE, MLFLOW = 8333, 5000
# podman probes by curl, which the image does not have, and maps no ports on the host's network. The tests probe.
EXPANDED = re.compile(r"\$\((\w+)\)")  # by Kubernetes; podman 4.3 hands it on as it stands
NOT_PLAYED = ("ports", "startupProbe", "readinessProbe", "livenessProbe")
KINDS = {"ConfigMap", "Secret", "PersistentVolumeClaim", "Deployment"}
Podman = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def podman(images: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Podman]:
    """podman with a storage of its own, which holds the services' image and is removed at the end."""
    if os.geteuid() != 0 or not shutil.which("podman"):
        pytest.skip("takes root and podman")
    folder = tmp_path_factory.mktemp("podman")
    settings = folder / "containers.conf"
    settings.write_text('[containers]\ndefault_ulimits = ["nofile=20000:20000", "nproc=4096:4096"]\n', encoding="utf-8")
    command = ["podman", f"--root={folder}/root", f"--runroot={folder}/run", "--cgroup-manager=cgroupfs"]
    if runc := shutil.which("runc"):  # crun refuses some layouts of cgroups
        command.append(f"--runtime={runc}")

    def run(*words: str, **options: Any) -> "subprocess.CompletedProcess[str]":
        environment = os.environ | {"CONTAINERS_CONF": str(settings)}
        return subprocess.run([*command, *words], capture_output=True, text=True, env=environment, **options)

    try:
        with subprocess.Popen([images.docker, "save", names.SERVICES], stdout=subprocess.PIPE) as saved:
            loaded = run("load", stdin=saved.stdout)
        assert loaded.returncode == 0, loaded.stderr
        yield run
    finally:
        run("pod", "rm", "--all", "--force")
        run("system", "reset", "--force")
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def overlay(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What `kubectl apply -k` would be given of the kinds that podman plays, with credentials drawn anew."""
    if not shutil.which("kubectl"):
        pytest.skip("no kubectl to build the overlay with")
    manifests = tmp_path_factory.mktemp("overlay") / "manifests"
    shutil.copytree(ROOT / "manifests", manifests, ignore=shutil.ignore_patterns("credentials.env"))
    subprocess.run([manifests / "overlays/local/generate-credentials"], check=True, capture_output=True)
    command = ["kubectl", "kustomize", str(manifests / "overlays/local")]
    built = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = [one for one in yaml.safe_load_all(built) if one["kind"] in KINDS]
    (settings,) = [one["data"] for one in found if one["kind"] == "ConfigMap"]
    for deployment in (one for one in found if one["kind"] == "Deployment"):
        for container in deployment["spec"]["template"]["spec"]["containers"]:
            for part in NOT_PLAYED:
                container.pop(part, None)
            container["args"] = [EXPANDED.sub(lambda name: settings[name[1]], word) for word in container["args"]]
    return found


@pytest.fixture(scope="module")
def played(podman: Podman, overlay: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Podman]:
    for port in (STORE, MLFLOW):
        require_free_port(port)
    file = tmp_path_factory.mktemp("play") / "overlay.yaml"
    file.write_text(yaml.safe_dump_all(one for one in overlay if one["kind"] != "Secret"), encoding="utf-8")
    (secret,) = [one for one in overlay if one["kind"] == "Secret"]
    # podman 4.3 cannot read a Secret that it has played itself: it wants the data alone, as JSON.
    made = podman("secret", "create", secret["metadata"]["name"], "-", input=json.dumps(secret["data"]))
    assert made.returncode == 0, made.stderr
    done = podman("kube", "play", "--network=host", str(file))
    assert done.returncode == 0, done.stdout + done.stderr
    yield podman
    podman("kube", "down", str(file))


@pytest.fixture
def credentials(overlay: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    (secret,) = [one for one in overlay if one["kind"] == "Secret"]
    for name, value in secret["data"].items():
        monkeypatch.setenv(name, base64.b64decode(value).decode())
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{STORE}")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")


def answers(url: str) -> bool:
    with contextlib.suppress(requests.RequestException):
        return requests.get(url, timeout=5).status_code == 200
    return False


@pytest.mark.parametrize("url", [f"http://127.0.0.1:{STORE}/healthz", f"http://127.0.0.1:{MLFLOW}/health"])
def test_both_deployments_answer_their_probes(played: Podman, url: str) -> None:
    wait_until(lambda: answers(url), 300, lambda: logs(played))


def wait_until(condition: Callable[[], bool], seconds: float, said: Callable[[], str]) -> None:
    """AssertionError with what `said` says if the condition does not come true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not so after {seconds} s: {said()}"
        time.sleep(0.5)


def logs(podman: Podman) -> str:
    containers = podman("ps", "--all", "--format={{.Names}}").stdout.split()
    return "\n".join(name + podman("logs", "--tail=20", name).stderr[-2000:] for name in containers)


@pytest.mark.usefixtures("played", "credentials")
def test_the_object_store_takes_its_credentials_only(monkeypatch: pytest.MonkeyPatch) -> None:
    store = ObjectStore("everbert")
    store.create_bucket()
    store.put("there", b"it is")
    assert (store.get("there") or (b"",))[0] == b"it is"
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    with pytest.raises(StorageError, match="refused the credentials"):
        ObjectStore("everbert").put("there", b"changed")


@pytest.mark.usefixtures("played", "credentials")
def test_mlflow_keeps_models_in_the_bucket_of_the_settings(overlay: list[dict[str, Any]]) -> None:
    (settings,) = [one["data"] for one in overlay if one["kind"] == "ConfigMap"]
    client = MlflowClient(f"http://127.0.0.1:{MLFLOW}")
    experiment = client.get_experiment(client.create_experiment("played"))
    assert experiment.artifact_location.startswith(f"s3://{settings['EVERBERT_BUCKET']}/models")
