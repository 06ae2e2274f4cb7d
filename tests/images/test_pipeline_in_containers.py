"""The whole pipeline with each step in its image, through KFP, and what a cluster's schedules run after it.

Every container has a read-only root, no capabilities and a memory limit. Object store and MLflow are real. KFP's
DockerRunner needs a Docker engine: over podman's socket it takes failed steps for done.
"""

import contextlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
import requests
from containers import LOCKED_RUNNER, SERVICES, Engine, mounted, only_when_asked, with_services

from components import images as names
from components import tracking
from components.accounting import outcomes
from components.classifier.model_folder import describe
from components.deployment import pointer
from components.storage import ObjectStore, local_folder
from pipelines.local_services import free_port
from serving.client import predict_v2

only_when_asked()
pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]

ROOT = Path(__file__).parents[2]
MODEL = "sentiment-in-containers"
BUCKET = "containers"
USER = 10001
SETTINGS = {
    "data": {"minimum_rows": 5, "test_share": 0.2},
    "training": {"epochs": 1, "learning_rate": 2e-4, "batch_size": 16, "max_length": 32},
}
STEPS = {"prepare", "train", "evaluate", "decide", "register", "deploy", "record"}


@pytest.fixture(scope="module")
def store(images: Engine, mlflow_server: str) -> ObjectStore:
    bucket = ObjectStore(BUCKET)
    bucket.create_bucket()
    bucket.upload(ROOT / "samples" / "movies.tar.gz", "sources/movies.tar.gz")
    return bucket


def run_in_containers(source: str, root: Path) -> str:
    """Run the pipeline in containers and return what KFP printed; RuntimeError, after printing it, if a step fails."""
    from kfp import local

    from pipelines.continuous_training import continuous_training

    root.mkdir()
    os.chown(root, USER, USER)
    for parent in root.parents[:3]:
        parent.chmod(0o755)
    environment = {name: os.environ[name] for name in (*SERVICES, "MLFLOW_TRACKING_URI")} | {"OMP_NUM_THREADS": "1"}
    runner = local.DockerRunner(network_mode="host", environment=environment, **LOCKED_RUNNER)
    local.init(runner, pipeline_root=str(root), raise_on_error=True)
    log = root / "log"
    with open(log, "w", encoding="utf-8") as file, contextlib.redirect_stdout(file):
        continuous_training(
            sources=[source], sources_digest="1", bucket=BUCKET, model_name=MODEL, settings=SETTINGS, cause=root.name
        )
    return log.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def run(store: ObjectStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("run") / "pipeline"
    run_in_containers(store.uri("sources/movies.tar.gz"), root)
    return root


def test_every_step_runs_in_its_image_and_the_model_is_served(run: Path) -> None:
    log = (run / "log").read_text(encoding="utf-8")
    assert [
        step for step in STEPS if step not in {path.parent.name for path in run.rglob("executor_output.json")}
    ] == []
    assert log.count(f"Found image '{names.TORCH}'") == 2
    assert log.count(f"Found image '{names.LIGHT}'") == 5
    assert "FAILURE" not in log
    assert (run / "log").stat().st_uid != USER
    assert all(path.stat().st_uid == USER for path in run.rglob("executor_output.json"))


def test_the_first_model_is_champion_and_in_the_ledger(run: Path, store: ObjectStore) -> None:
    champion = tracking.champion(MODEL)
    served = pointer.read(store, MODEL)
    assert champion is not None
    assert served is not None
    assert served[0].uri == champion.uri
    (line,) = [one for one in outcomes.read(store, MODEL) if one.cause == "pipeline"]
    assert line.verdict == "promote"
    with local_folder(champion.uri) as folder:
        assert describe(folder).metrics["validation_accuracy"] > 0.6


def test_a_step_that_fails_fails_the_run(run: Path, store: ObjectStore, tmp_path: Path) -> None:
    root = tmp_path / "broken"
    with pytest.raises(RuntimeError, match="FAILURE"):
        run_in_containers(store.uri("sources/missing.csv"), root)
    log = (root / "log").read_text(encoding="utf-8")
    assert "missing.csv" in log
    assert {path.parent.name for path in root.rglob("executor_output.json")} <= {"record"}
    assert [one.verdict for one in outcomes.read(store, MODEL) if one.cause == "broken"] == ["failed"]


def test_the_serving_image_serves_what_the_pipeline_made(
    run: Path, images: Engine, tmp_path_factory: pytest.TempPathFactory
) -> None:
    champion = tracking.champion(MODEL)
    assert champion is not None
    http, grpc = free_port(), free_port()
    options = ("--network=host", "--memory=1500m", "--memory-swap=1500m", "--env=OMP_NUM_THREADS=1")
    with local_folder(champion.uri) as folder:
        folder.chmod(0o755)
        with images.running(
            names.SERVING, "serve", "--model=/mnt/models", f"--http-port={http}", f"--grpc-port={grpc}",
            options=(*options, mounted(folder)),
        ) as container:  # fmt: skip
            url = f"http://127.0.0.1:{http}"
            images.wait_until(lambda: ready(url), 300, container)
            (answer,) = predict_v2(url, "sentiment", ["A wonderful film, moving and funny."])
    assert answer.predicted_sentiment == "Positive"
    assert answer.model_version == champion.digest


def ready(url: str) -> bool:
    try:
        return requests.get(f"{url}/v2/health/ready", timeout=5).status_code == 200
    except requests.ConnectionError:
        return False


def test_batch_and_check_run_in_the_torch_image(run: Path, store: ObjectStore, images: Engine) -> None:
    store.upload(ROOT / "samples" / "incoming" / "movies.csv", "incoming/movies.csv")
    scored = everbert(images, names.TORCH, "batch", f"--model=s3://{BUCKET}/models/{MODEL}", "--once")
    assert [one["rows"] > 0 for one in scored["objects"]] == [True]
    checked = everbert(images, names.TORCH, "check", f"--model-name={MODEL}", "--submit=none", "--work-dir=/tmp/work")
    assert (checked["verdict"], checked["windows"] > 0) == ("quiet", True)


def test_a_light_command_rolls_back_only_where_there_is_something_to(run: Path, images: Engine) -> None:
    command = ("everbert", "rollback", f"--bucket=s3://{BUCKET}", f"--model-name={MODEL}")
    done = images.run(names.LIGHT, *command, options=with_services())
    assert done.returncode != 0
    assert done.stderr.count("\n") == 1


def everbert(engine: Engine, image: str, *words: str) -> dict[str, Any]:
    """What `everbert words... --bucket --json` prints in a locked container."""
    command = ("everbert", *words, f"--bucket=s3://{BUCKET}", "--json")
    done = engine.run(image, *command, options=(*with_services(), "--env=OMP_NUM_THREADS=1"))
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])
