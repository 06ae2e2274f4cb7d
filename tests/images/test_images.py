"""What is in an image and what is not; the model server in one that may do next to nothing."""

import json
import subprocess
from pathlib import Path

import pytest
import requests
from containers import Engine, mounted, only_when_asked
from server_process import write_model

from components import images as names
from components.classifier.classifier import Classifier
from pipelines.local_services import free_port
from serving.client import predict_grpc, predict_v1, predict_v2

only_when_asked()
pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]

ALL = {"light": names.LIGHT, "torch": names.TORCH, "serving": names.SERVING, "services": names.SERVICES}
PACKAGE = {"light": names.LIGHT, "torch": names.TORCH, "serving": names.SERVING}
TEXTS = ["a fine film", "dull <br /> and long", "Größe 😀", "", "word " * 300]
READY_SECONDS = 300


def shell(image: str, script: str, engine: Engine) -> str:
    done = engine.run(image, "-c", script, options=("--network=none", "--entrypoint=sh"))
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_model(tmp_path_factory.mktemp("model"), seed=1)
    for path in (folder, *folder.parents[:2]):  # the container's user is another
        path.chmod(0o755)
    return folder


@pytest.mark.parametrize("name", ALL)
def test_an_image_says_what_it_is_and_runs_as_nobody(name: str, images: Engine) -> None:
    config = images.inspect(ALL[name])["Config"]
    labels = {key.removeprefix("org.opencontainers.image."): value for key, value in config["Labels"].items()}
    assert set(labels) == {"title", "description", "licenses", "version", "revision"}
    assert labels["version"] == ALL[name].rpartition(":")[2]
    assert len(labels["revision"]) == 40
    assert config["User"] == "10001:10001"
    assert shell(ALL[name], "id -u; id -g; echo $HOME", images).split() == ["10001", "10001", "/tmp"]  # noqa: S108


@pytest.mark.parametrize("name", ALL)
def test_an_image_holds_no_tools_of_its_building(name: str, images: Engine) -> None:
    look = (
        "for tool in cc gcc g++ c++ make ld; do command -v $tool; done; ls -d /root/.cache /source /run/secrets/*; "
        "python3 -c 'import pip'; find /opt /usr/lib -name '*.a' -size +1M"
    )
    found = images.run(ALL[name], "-c", look, options=("--network=none", "--entrypoint=sh"))
    assert found.stdout == ""
    assert "No module named 'pip'" in found.stderr


@pytest.mark.parametrize("name", ALL)
def test_an_image_tells_nothing_of_where_it_was_built(name: str, images: Engine) -> None:
    history = images("history", "--no-trunc", "--format={{.CreatedBy}}", ALL[name])
    environment = "\n".join(images.inspect(ALL[name])["Config"]["Env"])
    for word in ("find-links", "index-url", "127.0.0.1:", "PIP_", "SSL_CERT"):
        assert word not in history.replace("http://127.0.0.1:8080/v2", "")
        assert word not in environment
    assert shell(ALL[name], "cat /etc/pip.conf ~/.config/pip/pip.conf 2>/dev/null; true", images) == ""


@pytest.mark.parametrize("name", ALL)
def test_nothing_but_tmp_is_the_users_to_write(name: str, images: Engine) -> None:
    look = "find / -xdev -writable ! -type l ! -path '/tmp*' ! -path '/proc*' ! -path '/dev*' ! -path '/sys*'"
    unlocked = images.attempt("run", "--rm", "--network=none", "--entrypoint=sh", ALL[name], "-c", look)
    assert set(unlocked.stdout.split()) <= {"/var/tmp", "/run/lock", "/var/lock"}  # noqa: S108


@pytest.mark.parametrize("name", PACKAGE)
def test_the_command_is_in_it(name: str, images: Engine) -> None:
    assert "A BERT text classifier" in shell(PACKAGE[name], "everbert --help", images)


def test_the_light_image_has_no_torch_and_compiles_the_pipeline(images: Engine) -> None:
    assert "No module named 'torch'" in images.run(names.LIGHT, "python3", "-c", "import torch").stderr
    said = shell(names.LIGHT, "everbert compile --json --output /tmp/p.yaml && wc -c < /tmp/p.yaml", images)
    assert int(said.split()[-1]) > 10_000


def test_the_services_image_has_the_services(images: Engine) -> None:
    assert "version" in shell(names.SERVICES, "weed version; mlflow --version; python3 -c 'import psycopg2'", images)


def test_the_server_answers_by_every_protocol(images: Engine, model: Path) -> None:
    http, grpc = free_port(), free_port()
    command = ["serve", "--model", "/mnt/models", "--name", "sentiment", f"--http-port={http}", f"--grpc-port={grpc}"]
    options = ("--network=host", mounted(model), "--memory=1g", "--memory-swap=1g", "--env=OMP_NUM_THREADS=1")
    url = f"http://127.0.0.1:{http}"
    expected = Classifier.load(model).predict(TEXTS)
    assert len({p.predicted_label for p in expected}) == 2, "both labels must occur for the comparison to mean much"
    with images.running(names.SERVING, *command, options=options) as container:
        images.wait_until(lambda: ready(url), READY_SECONDS, container)
        for found in (
            predict_v1(url, "sentiment", TEXTS),
            predict_v2(url, "sentiment", TEXTS),
            predict_grpc(f"127.0.0.1:{grpc}", "sentiment", TEXTS),
        ):
            for one, other in zip(found, expected, strict=True):
                assert one.confidence_score == pytest.approx(other.confidence_score, abs=2e-6)
                assert one._replace(confidence_score=other.confidence_score) == other
        assert "everbert_" in requests.get(f"{url}/metrics", timeout=30).text
        images("stop", "--time=60", container)
        assert images.inspect(container)["State"]["ExitCode"] == 0
        lines = [json.loads(line) for line in images.attempt("logs", container).stderr.splitlines()]
    assert {"serving", "stopped"} <= {line["event"] for line in lines}


def ready(url: str) -> bool:
    try:
        return requests.get(f"{url}/v2/health/ready", timeout=5).status_code == 200
    except requests.ConnectionError:
        return False


def test_the_health_check_tells_a_server_that_is_ready(images: Engine, model: Path) -> None:
    quick = ("--network=none", "--health-interval=3s", "--health-start-period=5s")
    with images.running(names.SERVING, options=(*quick, mounted(model))) as container:
        healthy = lambda: images.inspect(container)["State"]["Health"]["Status"] == "healthy"  # noqa: E731
        images.wait_until(healthy, READY_SECONDS, container)
    idle = (*quick, "--health-retries=1", "--entrypoint=sleep")
    with images.running(names.SERVING, "600", options=idle) as container:
        unhealthy = lambda: images.inspect(container)["State"]["Health"]["Status"] == "unhealthy"  # noqa: E731
        images.wait_until(unhealthy, READY_SECONDS, container)


def test_a_step_that_an_image_lacks_the_packages_for_says_so(images: Engine) -> None:
    done: subprocess.CompletedProcess[str] = images.run(names.LIGHT, "everbert", "serve", "--model", "/mnt/models")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "torch" in done.stderr
