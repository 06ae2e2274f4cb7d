"""The real server under load: overload refused, the lost given up, nothing lost when it stops, warm when it starts."""

import asyncio
import importlib.util
import json
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
import requests
from server_process import (
    Server,
    in_flight,
    running,
    scrape,
    settled,
    since,
    start,
    wait_until,
    write_model,
)

import serving.kserve_import  # noqa: F401  kserve reads sys.argv when it is imported

from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb  # isort: skip
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub  # isort: skip

from components.classifier.classifier import Classifier
from pipelines.local_services import free_port
from serving.client import predict_grpc, predict_v1, predict_v2

pytestmark = pytest.mark.slow

LONG = "word " * 300  # seven windows of 64 tokens
SETTINGS = '{"threads": 1, "batch_tokens": 256, "queue_seconds": 1}'


@pytest.fixture(scope="module")
def slow_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As wide as MiniLM: a batch takes tens of milliseconds."""
    return write_model(tmp_path_factory.mktemp("slow_model"), seed=5, hidden=384, layers=6)


@pytest.fixture(scope="module")
def server(slow_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(str(slow_model), tmp_path_factory.mktemp("server") / "log", SETTINGS) as started:
        for _ in range(5):
            assert post(started, [LONG]).status_code == 200  # it learns how fast it is
        yield started


def post(server: Server, texts: list[str], timeout: float = 60) -> requests.Response:
    url = f"{server.url}/v1/models/sentiment:predict"
    return requests.post(url, json={"instances": texts}, timeout=timeout)


def at_once(count: int, ask: Callable[[int], Any]) -> list[Any]:
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(ask, range(count)))


def test_too_many_requests_are_refused_and_the_rest_answered(server: Server, slow_model: Path) -> None:
    before = scrape(server)
    answers = at_once(80, lambda _: post(server, [LONG]))
    refused = [answer for answer in answers if answer.status_code == 429]
    answered = [answer for answer in answers if answer.status_code == 200]
    assert len(refused) + len(answered) == 80
    assert len(answered) >= 2
    assert len(refused) >= 10
    for answer in refused:
        assert 1 <= int(answer.headers["Retry-After"]) < 60
        assert "try again in" in answer.json()["error"]
    expected = Classifier.load(slow_model).predict([LONG])[0]
    assert {a.json()["predictions"][0]["predicted_label"] for a in answered} == {expected.predicted_label}
    assert since(before, settled(server), 'everbert_requests_total{protocol="v1",status="429"}') == len(refused)
    assert post(server, ["good"]).status_code == 200


def load_generator() -> Any:
    """benchmarks/load.py; its folder is no place to import from, it has a module named serving."""
    path = Path(__file__).parents[2] / "benchmarks" / "load.py"
    spec = importlib.util.spec_from_file_location("load_generator", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_at_twice_saturation_the_answered_are_in_time_and_the_rest_refused_at_once(
    slow_model: Path, tmp_path: Path
) -> None:
    seconds = 1.0
    text = "word " * 60  # one window, a batch holds four
    body = json.dumps({"instances": [text]}).encode()
    settings = json.dumps({"threads": 1, "batch_tokens": 256, "queue_seconds": seconds})
    with running(str(slow_model), tmp_path / "log", settings) as server:
        generator = load_generator()

        def client() -> Any:  # one for each event loop
            return generator.Client(server.http_port, "/v1/models/sentiment:predict", [body])

        asyncio.run(client().closed_loop(4, 2))
        saturation = asyncio.run(client().closed_loop(16, 5)).rate()
        found = asyncio.run(client().open_loop(2 * saturation, 8, seed=1))
        with ThreadPoolExecutor(60) as pool:
            answers = list(pool.map(lambda _: post(server, [text] * 4), range(120)))
    assert {answer.status for answer in found.all} == {200, 429}
    assert found.milliseconds(99) < 1000 * 1.25 * seconds + 3000  # the bound, and what the machine's other work takes
    assert found.rate() > 0.2 * saturation
    assert found.rate(429) > 0  # half of all, unless something else on this machine ended meanwhile
    assert found.milliseconds(50, 429) < 1000 * seconds
    refused = [answer for answer in answers if answer.status_code == 429]
    assert refused
    assert all(int(answer.headers["Retry-After"]) >= 1 for answer in refused)


def test_grpc_refuses_by_resource_exhausted(server: Server) -> None:
    contents = pb.InferTensorContents(bytes_contents=[LONG.encode()])
    tensor = pb.ModelInferRequest.InferInputTensor(name="text", shape=[1], datatype="BYTES", contents=contents)
    request = pb.ModelInferRequest(model_name="sentiment", inputs=[tensor])
    with grpc.insecure_channel(server.address) as channel:
        infer = GRPCInferenceServiceStub(channel).ModelInfer
        errors = [call.exception(60) for call in [infer.future(request) for _ in range(80)]]
    refused = [error for error in errors if error is not None]
    assert {error.code() for error in refused} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert 10 <= len(refused) <= 78
    assert all(1 <= int(dict(error.trailing_metadata())["retry-after"]) < 60 for error in refused)
    assert len(predict_grpc(server.address, "sentiment", ["good"])) == 1


def abandon_http(server: Server, texts: list[str]) -> None:
    with pytest.raises(requests.ReadTimeout):
        post(server, texts, timeout=0.3)


def abandon_grpc(server: Server, texts: list[str]) -> None:
    contents = pb.InferTensorContents(bytes_contents=[text.encode() for text in texts])
    shape = [len(texts)]
    tensor = pb.ModelInferRequest.InferInputTensor(name="text", shape=shape, datatype="BYTES", contents=contents)
    with grpc.insecure_channel(server.address) as channel:
        request = pb.ModelInferRequest(model_name="sentiment", inputs=[tensor])
        call = GRPCInferenceServiceStub(channel).ModelInfer.future(request)
        time.sleep(0.3)
        call.cancel()


@pytest.mark.parametrize(
    ("abandon", "status"),
    [(abandon_http, 'protocol="v1",status="499"'), (abandon_grpc, 'protocol="grpc",status="CANCELLED"')],
)
def test_what_the_client_gave_up_is_not_computed(
    server: Server, slow_model: Path, abandon: Callable[[Server, list[str]], None], status: str
) -> None:
    texts = [LONG] * 100
    whole = sum(len(window) for window in Classifier.load(slow_model).engine.encode(texts).windows)
    before = scrape(server)
    abandon(server, texts)
    wait_until(lambda: f"everbert_requests_total{{{status}}}" in scrape(server), 10)
    assert len(predict_v1(server.url, "sentiment", ["good"])) == 1
    found = settled(server)
    assert 0 < since(before, found, "everbert_batch_tokens_sum") < whole / 2
    assert since(before, found, "everbert_texts_total") == 1
    assert found["everbert_waiting_tokens"] == 0


def test_sigterm_answers_what_is_in_flight(slow_model: Path, tmp_path: Path) -> None:
    texts = [LONG, "a fine film", LONG]
    expected = [p.predicted_label for p in Classifier.load(slow_model).predict(texts)]
    settings = '{"threads": 1, "batch_tokens": 256, "queue_seconds": 60}'
    with running(str(slow_model), tmp_path / "log", settings) as server, ThreadPoolExecutor(12) as pool:
        asked: list[Future] = []
        for _ in range(4):
            asked.append(pool.submit(predict_v1, server.url, "sentiment", texts))
            asked.append(pool.submit(predict_v2, server.url, "sentiment", texts))
            asked.append(pool.submit(predict_grpc, server.address, "sentiment", texts))
        wait_until(lambda: in_flight(server) == 12, 20)
        server.process.send_signal(signal.SIGTERM)
        for future in asked:
            assert [p.predicted_label for p in future.result(60)] == expected
        with pytest.raises(requests.ConnectionError):
            post(server, ["good"])
        assert server.process.wait(20) == 0
    statuses = [line["status"] for line in log_of(server) if line["event"] == "request"]
    assert sorted(statuses) == ["200"] * 8 + ["OK"] * 4
    assert log_of(server)[-1]["event"] == "stopped"


def log_of(server: Server) -> list[dict[str, Any]]:
    return [json.loads(line) for line in server.log.read_text().splitlines()]


def test_nothing_listens_before_the_model_is_warm(slow_model: Path, tmp_path: Path) -> None:
    ports, log = (free_port(), free_port()), tmp_path / "log"
    process = start(str(slow_model), *ports, SETTINGS, log)
    try:
        # Without a pause: the look at the log must come within the milliseconds that a warm-up takes.
        deadline = time.monotonic() + 60
        while not any(listens(port) for port in ports):
            assert process.poll() is None
            assert time.monotonic() < deadline
        warmed = [json.loads(line) for line in log.read_text().splitlines() if '"warmed up"' in line]
        assert warmed[0]["seconds"] > 0
    finally:
        process.kill()
        process.wait(10)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
