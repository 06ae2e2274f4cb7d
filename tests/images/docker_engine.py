"""A Docker engine for the tests, a base image without a registry, and what a build behind a mirror needs."""

import ast
import contextlib
import functools
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

_BASE = "everbert/base-python:bookworm"
_PACKAGES = "python3,python3-pip,python3-venv,ca-certificates"
_CA, _PIP = "/run/secrets/ca.crt", "/run/secrets/pip.conf"  # in a build
_PASSED_ON = ("index-url", "extra-index-url", "find-links", "trusted-host", "timeout")
_START_SECONDS = 120


def docker() -> str:
    """The first `docker` program that can build with BuildKit, or empty."""
    for folder in os.get_exec_path():
        found = shutil.which("docker", path=folder)
        if found and _succeeds([found, "build", "--help"]):
            return found
    return ""


def answers(docker: str) -> bool:
    """Whether an engine answers, at DOCKER_HOST or the usual place."""
    return _succeeds([docker, "info"])


def _succeeds(command: list[str]) -> bool:
    environment = os.environ | {"DOCKER_BUILDKIT": "1"}
    return subprocess.run(command, env=environment, capture_output=True).returncode == 0


@contextlib.contextmanager
def private_engine(docker: str, folder: Path) -> Iterator[str]:
    """An engine of our own, with everything it keeps in `folder`; yields its address, and leaves nothing behind.

    It makes no bridge and no firewall rule: builds and containers take the host's network.
    """
    address = f"unix://{folder}/docker.sock"
    command = [
        "dockerd", f"--host={address}", f"--data-root={folder}/data", f"--exec-root={folder}/exec",
        f"--pidfile={folder}/pid", "--bridge=none", "--iptables=false", "--default-ulimit=nofile=20000:20000",
    ]  # fmt: skip
    with open(folder / "dockerd.log", "wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + _START_SECONDS
        while not _succeeds([docker, "--host", address, "info"]):
            waits = process.poll() is None and time.monotonic() < deadline
            assert waits, (folder / "dockerd.log").read_text()[-3000:]
            time.sleep(0.5)
        yield address
    finally:
        process.terminate()
        process.wait(60)
        for namespace in (folder / "exec/netns").glob("*"):  # that of --network=host stays mounted
            subprocess.run(["umount", namespace], capture_output=True)
        shutil.rmtree(folder)


def base_image(docker: str) -> str:
    """BASE_IMAGE, or Debian with its Python, made from the distribution's packages: no registry is asked."""
    if given := os.environ.get("BASE_IMAGE"):
        return given
    if not _succeeds([docker, "image", "inspect", _BASE]):
        make = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={_PACKAGES}", "bookworm", "-"]
        with subprocess.Popen(make, stdout=subprocess.PIPE) as made:
            subprocess.run([docker, "import", "-", _BASE], stdin=made.stdout, capture_output=True, check=True)
        assert made.returncode == 0, "mmdebstrap failed"
    return _BASE


@contextlib.contextmanager
def build_flags(folder: Path) -> Iterator[list[str]]:
    """What lets pip in a build reach what this machine's pip reaches: its settings, its CA bundle, its wheels.

    They are secrets of the build, or served on a loopback port while it runs, so none stays in an image.
    """
    settings = _pip_settings()
    with contextlib.ExitStack() as stack:
        flags = ["--network=host"]
        wheels = [Path(one) for one in settings.get("find-links", "").split() if Path(one).is_dir()]
        if wheels:
            served = [stack.enter_context(_served(one)) for one in wheels]
            settings["find-links"] = " ".join(served)
        if any(list(one.glob("torch-*.whl")) for one in wheels):
            flags.append("--build-arg=TORCH_FLAGS=")
        if bundle := settings.pop("cert", ""):
            flags.append(f"--secret=id={Path(_CA).name},src={bundle}")
            settings["cert"] = _CA
        lines = [f"{name} = {value}" for name, value in settings.items()]
        (folder / "pip.conf").write_text("\n".join(["[global]", *lines, ""]), encoding="utf-8")
        yield [*flags, f"--secret=id={Path(_PIP).name},src={folder}/pip.conf"]


def _pip_settings() -> dict[str, str]:
    """This machine's pip settings that matter in a build; those of the environment win."""
    said = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True)
    lines = [line.split("=", 1) for line in said.stdout.splitlines()]
    lines.sort(key=lambda line: line[0].startswith(":env:"))
    found = {name.rpartition(".")[2]: str(ast.literal_eval(value)) for name, value in lines}
    kept = {name: found[name] for name in (*_PASSED_ON, "cert") if name in found}
    if not urlsplit(kept.get("extra-index-url", "").split(" ")[0]).netloc:
        kept.pop("extra-index-url", None)  # an index in a folder of this machine
    return kept


@contextlib.contextmanager
def _served(folder: Path) -> Iterator[str]:
    """The address of a folder, on a loopback port."""
    handler = functools.partial(_Quiet, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass
