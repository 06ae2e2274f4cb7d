"""The images, built once a session by `make images` with whatever Docker engine there is.

They are only asked for by name (`make images-test`), so what they need and is not there is a failure.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import docker_engine
import pytest
from containers import Engine

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """The engine that answers, or a private one, which needs root."""
    docker = docker_engine.docker()
    if not docker:
        pytest.fail("no docker program that builds with BuildKit is on the path; install Docker 20.10 or newer")
    if docker_engine.answers(docker):
        yield Engine(docker)
        return
    if os.geteuid() != 0 or not shutil.which("dockerd"):
        pytest.fail("no Docker engine answers, and starting one takes root and dockerd; start one, or be root")
    with (
        docker_engine.private_engine(docker, tmp_path_factory.mktemp("engine")) as address,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("DOCKER_HOST", address)
        yield Engine(docker)


@pytest.fixture(scope="session")
def images(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """The engine with all images in it; with EVERBERT_IMAGES_TEST=present, as they are there."""
    if os.environ["EVERBERT_IMAGES_TEST"] == "present":
        return engine
    if not os.environ.get("BASE_IMAGE") and not shutil.which("mmdebstrap"):
        pytest.fail("no mmdebstrap to make a base image with; install it, or name an image in BASE_IMAGE")
    with docker_engine.build_flags(tmp_path_factory.mktemp("build")) as flags:
        given = {"ENGINE": engine.docker, "BASE_IMAGE": docker_engine.base_image(engine.docker)}
        words = [f"{name}={value}" for name, value in (given | {"BUILD_FLAGS": " ".join(flags)}).items()]
        command = ["make", "--no-print-directory", "images", f"PYTHON={sys.executable}", *words]
        built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout[-3000:] + built.stderr[-3000:]
    return engine
