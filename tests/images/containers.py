"""Containers that may do as little as the cluster's `restricted` level lets them, and then some."""

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

LOCKED = [
    "--read-only", "--tmpfs=/tmp", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--memory=3g",
    "--memory-swap=3g", "--pids-limit=300",
]  # fmt: skip
# The same, as kfp.local.DockerRunner takes it.
LOCKED_RUNNER = {
    "read_only": True, "tmpfs": {"/tmp": ""}, "cap_drop": ["ALL"], "security_opt": ["no-new-privileges"],  # noqa: S108
    "mem_limit": "3g", "memswap_limit": "3g", "pids_limit": 300,
}  # fmt: skip
SERVICES = ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION")


def only_when_asked() -> None:
    """Skip the module, but in `make images-test`."""
    if "EVERBERT_IMAGES_TEST" not in os.environ:
        pytest.skip("builds images of several gigabytes: `make images-test` does", allow_module_level=True)


@dataclass(frozen=True)
class Engine:
    """A Docker engine, at DOCKER_HOST."""

    docker: str

    def __call__(self, *words: str) -> str:
        """What `docker words...` prints; AssertionError with what it said if it fails."""
        done = self.attempt(*words)
        assert done.returncode == 0, f"docker {' '.join(words)}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
        return done.stdout

    def attempt(self, *words: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run([self.docker, *words], capture_output=True, text=True)

    def run(self, image: str, *command: str, options: tuple[str, ...] = ()) -> "subprocess.CompletedProcess[str]":
        """A command in a locked container, to its end."""
        return self.attempt("run", "--rm", *LOCKED, *options, image, *command)

    def inspect(self, what: str) -> dict[str, Any]:
        return json.loads(self("inspect", what))[0]

    @contextlib.contextmanager
    def running(self, image: str, *command: str, options: tuple[str, ...] = ()) -> Iterator[str]:
        """The id of a locked container that runs, and is removed at the end."""
        container = self("run", "--detach", *LOCKED, *options, image, *command).strip()
        try:
            yield container
        finally:
            self("rm", "--force", container)

    def wait_until(self, condition: Callable[[], bool], seconds: float, container: str) -> None:
        """AssertionError with what the container logged if the condition does not come true, or the container ends."""
        deadline = time.monotonic() + seconds
        while not condition():
            state = self.inspect(container)["State"]
            waits = state["Running"] and time.monotonic() < deadline
            assert waits, f"not so within {seconds} s: {state}: {self.log(container)}"
            time.sleep(0.5)

    def log(self, container: str) -> str:
        done = self.attempt("logs", container)
        return done.stdout + done.stderr


def with_services() -> tuple[str, ...]:
    """Options by which a container reaches the services of the tests, as their fixtures set the environment."""
    names = [name for name in (*SERVICES, "MLFLOW_TRACKING_URI") if name in os.environ]
    return ("--network=host", *(f"--env={name}" for name in names))


def mounted(folder: Path) -> str:
    """Option that mounts a model folder as KServe's storage initializer does."""
    return f"--volume={folder}:/mnt/models:ro"
