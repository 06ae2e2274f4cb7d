"""everbert run: the closed loop on one machine, with every real part running.

prepare, train, evaluate, decide, register, deploy through KFP; serve; score what comes in; check for drift; retrain;
roll over to the successor without a failed request. Object store, MLflow and model server run on loopback ports.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import version as library_version
from pathlib import Path
from typing import Any

from components import logs, tracking
from components.config import Settings, as_overrides
from components.data.texts import digest_of
from components.deployment import pointer
from components.errors import EverbertError, ResourceError
from components.files import write_json
from components.storage import ObjectStore
from pipelines.local_runner import LocalRun, run_local
from pipelines.local_services import free_port, no_survivors
from pipelines.loop_report import summary, write_page
from pipelines.services import BUCKET, alone_in, services

MODEL = "sentiment"
SAMPLES = Path(__file__).resolve().parent.parent / "samples"
DOMAINS = ("products", "tweets", "news")
_EXAMPLES = ["A wonderful film, moving and funny.", "Dull, badly acted and far too long."]
_SERVER_SECONDS = 90


@dataclass
class Loop:
    """What the loop knows: where things are, and what it saw."""

    folder: Path
    settings: Settings
    base_model: str
    domain: str
    store: ObjectStore
    mlflow_url: str
    http_port: int = field(default_factory=free_port)
    grpc_port: int = field(default_factory=free_port)
    seconds: dict[str, float] = field(default_factory=dict)
    checks: dict[str, Any] = field(default_factory=dict)
    requests: dict[str, int] = field(default_factory=dict)
    runs: list[LocalRun] = field(default_factory=list)

    @property
    def server_url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Say what happens, and time it."""
        print(f"{name} ...", file=sys.stderr, flush=True)
        started = time.monotonic()
        yield
        self.seconds[name] = time.monotonic() - started


@contextlib.contextmanager
def model_server(loop: Loop) -> Iterator[None]:
    """The KServe model server as a process of its own, following the champion; ready when the block starts."""
    import requests

    command = [sys.executable, "-m", "pipelines", "serve", "--model", f"s3://{BUCKET}/models/{MODEL}"]
    command += ["--name", MODEL, "--http-port", str(loop.http_port), "--grpc-port", str(loop.grpc_port)]
    settings = loop.folder / "server.yaml"  # in JSON, which YAML holds
    write_json(settings, {"serving": as_overrides(loop.settings).get("serving", {})})
    command += ["--config", str(settings)]
    with open(loop.folder / "server.log", "wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            deadline = time.monotonic() + _SERVER_SECONDS
            while True:
                with contextlib.suppress(requests.RequestException):
                    if requests.get(f"{loop.server_url}/v2/models/{MODEL}/ready", timeout=5).status_code == 200:
                        break
                if process.poll() is not None or time.monotonic() > deadline:
                    raise ResourceError(f"the model server did not become ready; see {loop.folder / 'server.log'}")
                time.sleep(0.2)
            yield
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextlib.contextmanager
def steady_requests(loop: Loop) -> Iterator[None]:
    """Requests all through the block, five a second; counts the answered and the failed."""
    from serving.client import predict_v1

    stop = threading.Event()

    def ask() -> None:
        while not stop.wait(0.2):
            try:
                predict_v1(loop.server_url, MODEL, _EXAMPLES[:1])
                outcome = "answered"
            except Exception:  # any failure at all is what is counted
                outcome = "failed"
            loop.requests[outcome] = loop.requests.get(outcome, 0) + 1

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(30)


@contextlib.contextmanager
def run_loop(loop: Loop) -> Iterator[None]:
    """The loop itself, once the services are up. Fills `loop` with what was seen; the server is up in the block."""
    archives = [str(SAMPLES / folder / "movies.tar.gz") for folder in ("", "held_out")]
    arguments: dict[str, Any] = {
        "sources": archives,
        "sources_digest": digest_of(archives),
        "bucket": BUCKET,
        "model_name": MODEL,
        "base_model": loop.base_model,
        "settings": as_overrides(loop.settings),
    }
    with loop.step("train the first model on movies"):
        loop.runs.append(run_local(arguments, loop.folder / "pipeline" / "first"))
    _require_champion("the first model was not promoted", loop)
    with model_server(loop):
        with loop.step("ask it over V1, V2 and gRPC"):
            _ask_every_protocol(loop)
        with loop.step("movies come in: score, check"):
            _come_in(loop, "movies")
        with loop.step(f"{loop.domain} come in: score, check, retrain, roll over"), steady_requests(loop):
            loop.store.upload(SAMPLES / "labels" / f"{loop.domain}.csv", f"labels/{loop.domain}.csv")
            _come_in(loop, loop.domain)
        yield


def _come_in(loop: Loop, name: str) -> None:
    """Drop a CSV into incoming/ and check what came in, as the CronJob would; the check may retrain."""
    from pipelines.drift_check import check
    from pipelines.retrain import LocalRuns

    loop.store.upload(SAMPLES / "incoming" / f"{name}.csv", f"incoming/{name}.csv")
    runs = LocalRuns(loop.folder / "pipeline")
    reports = loop.folder / "reports"
    loop.checks[name] = check(loop.store, MODEL, loop.settings, runs, reports=reports, server_url=loop.server_url)
    loop.runs += runs.done


def _require_champion(otherwise: str, loop: Loop) -> tracking.ModelVersion:
    champion = tracking.champion(MODEL)
    if champion is None or pointer.read(loop.store, MODEL) is None:
        raise EverbertError(f"{otherwise}; see {loop.folder / 'pipeline'}")
    return champion


def _ask_every_protocol(loop: Loop) -> None:
    from serving.client import predict_grpc, predict_v1, predict_v2

    answers = [
        predict_v1(loop.server_url, MODEL, _EXAMPLES),
        predict_v2(loop.server_url, MODEL, _EXAMPLES),
        predict_grpc(f"127.0.0.1:{loop.grpc_port}", MODEL, _EXAMPLES),
    ]
    if not answers[0] == answers[1] == answers[2]:
        raise EverbertError("V1, V2 and gRPC gave different predictions for the same texts")
    for text, prediction in zip(_EXAMPLES, answers[0], strict=True):
        print(f"  {text!r}: {prediction.predicted_sentiment} {prediction.confidence_score:.3f}", file=sys.stderr)


@contextlib.contextmanager
def closed_loop(work: Path, settings: Settings, base_model: str, domain: str) -> Iterator[Loop]:
    """Close the loop in a fresh folder `work`/run; everything is up in the block, and stopped at its end.

    Raises ResourceError if another run uses the folder; whatever happens, no process of it is left behind.
    """
    folder = (work / "run").resolve()
    with alone_in(work), no_survivors():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        logs.configure(path=folder / "events.log")  # the terminal is for the person who watches
        with services(folder) as (store, mlflow_url):
            loop = Loop(folder, settings, base_model, domain, store, mlflow_url)
            with run_loop(loop):
                yield loop


def summarize(loop: Loop) -> dict[str, Any]:
    """What the run found; also written to summary.json and report.html in its folder."""
    retrain = None
    if len(loop.runs) > 1:
        retrain = json.loads(loop.runs[-1].artifact("decide", "decision").read_text(encoding="utf-8"))
    versions = {name: library_version(name) for name in ("torch", "transformers", "kfp", "kserve", "mlflow", "scipy")}
    result = summary(loop, retrain, versions)
    write_json(loop.folder / "summary.json", result)
    write_page(result)
    return result


def stay(loop: Loop) -> None:
    """Say where everything is, and wait for Ctrl-C."""
    credentials = loop.folder / "store" / "s3.json"
    places = [
        ("server", f"{loop.server_url}/v2/models/{MODEL}"),
        ("gRPC", f"127.0.0.1:{loop.grpc_port}"),
        ("MLflow", loop.mlflow_url),
        (
            "S3",
            f"{os.environ['AWS_ENDPOINT_URL']}, bucket {BUCKET} (credentials in {credentials})",
        ),
    ]
    lines = [f"  {name:<8}{place}" for name, place in places]
    print("\n".join(["\nStaying up; Ctrl-C stops everything.", *lines]), file=sys.stderr, flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        threading.Event().wait()
