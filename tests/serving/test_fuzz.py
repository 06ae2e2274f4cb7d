"""Thousands of damaged requests against the real server: always the client's fault, never a crash, and memory flat."""

import copy
import json
import random
import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import requests
from server_process import Server, megabytes, running

import serving.kserve_import  # noqa: F401  kserve reads sys.argv when it is imported

from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb  # isort: skip

from serving.client import predict_grpc

pytestmark = pytest.mark.slow

REQUESTS = 6000
V1 = {"instances": [{"text": "good"}, "bad"], "parameters": {"probabilities": True}}
TENSOR = {"name": "text", "shape": [1], "datatype": "BYTES", "data": ["good"], "parameters": {}}
V2 = {"id": "a", "parameters": {"probabilities": True}, "inputs": [TENSOR], "outputs": [{"name": "predicted_label"}]}
ODD: list[Any] = [
    None, True, False, 0, -1, 1.5, float("inf"), 2**70, "", "text", "x" * 300, "é\n\ud800", [], [1], ["a"], [None],
    [[]], {}, {"a": 1}, {"binary_data_size": 3}, {"binary_data_size": "z"}, {"binary_data_size": -1},
    {"probabilities": 1}, {"binary_data_output": True}, {"binary_data_output": "q"}, [{"name": "probabilities"}],
    [{"name": 5}], [{"name": "confidence_score", "parameters": [1]}],
    [{"name": "confidence_score", "parameters": {"binary_data": 5}}],
]  # fmt: skip
CONTENT_TYPES = ("application/json",) * 4 + ("application/octet-stream", "text/plain", "application/cloudevents+json")
CLOUD_EVENT = {"ce-id": "1", "ce-source": "a", "ce-type": "b", "ce-specversion": "1.0"}


@pytest.fixture(scope="module")
def server(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(str(small_model), tmp_path_factory.mktemp("server") / "log") as started:
        yield started


class Damage:
    """Requests that are nearly right; the same seed gives the same ones."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311

    def request(self) -> tuple[str, bytes, dict[str, str]]:
        """(path, body, headers)."""
        path, content = self._random.choice(
            [("v1/models/sentiment:predict", V1), ("v2/models/sentiment/infer", V2), ("v2/models/sentiment/infer", V2)]
        )
        make = self._random.choice([self._values, self._bytes, self._binary] if content is V2 else [self._values])
        body, headers = make(content)
        if self._random.random() < 0.1:
            headers |= CLOUD_EVENT
        return path, body, headers

    def _values(self, content: Any) -> tuple[bytes, dict[str, str]]:
        headers = {"Content-Type": self._random.choice(CONTENT_TYPES)}
        return json.dumps(self._damaged(content)).encode(), headers

    def _bytes(self, content: Any) -> tuple[bytes, dict[str, str]]:
        body = bytearray(json.dumps(content).encode())
        for _ in range(self._random.randint(1, 4)):
            body[self._random.randrange(len(body))] = self._random.randrange(256)
        return bytes(body), {"Content-Type": "application/json"}

    def _binary(self, content: Any) -> tuple[bytes, dict[str, str]]:
        content = copy.deepcopy(content)
        raw = struct.pack("<I", 4) + b"good"
        del content["inputs"][0]["data"]
        content["inputs"][0]["parameters"] = {"binary_data_size": len(raw)}
        head = json.dumps(self._damaged(content)).encode()
        length = self._random.choice([len(head)] * 6 + [0, -5, 3, 10**9])
        cut = raw[: self._random.choice([8, 8, 8, self._random.randrange(8)])]
        return head + cut, {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(length)}

    def _damaged(self, value: Any) -> Any:
        if self._random.random() < 0.12:
            return self._random.choice(ODD)
        if isinstance(value, dict):
            return {key: self._damaged(item) for key, item in value.items() if self._random.random() > 0.05}
        if isinstance(value, list):
            return [self._damaged(item) for item in value] * self._random.choice([1, 1, 1, 2])
        return value


def test_a_damaged_request_is_a_4xx(server: Server) -> None:
    damage, statuses = Damage(seed=13), Counter[int]()
    held: list[float] = []
    with requests.Session() as session:
        for number in range(REQUESTS):
            path, body, headers = damage.request()
            answer = session.post(f"{server.url}/{path}", data=body, headers=headers, timeout=30)
            assert answer.status_code < 500, (answer.text, path, headers, body)
            assert answer.status_code == 200 or answer.json()["error"]
            statuses[answer.status_code] += 1
            if number % 1000 == 500:  # not at the first ones: torch and tokenizers get ready in them
                held.append(megabytes(server))
    assert set(statuses) == {200, 400}
    assert min(statuses.values()) > REQUESTS / 50
    assert held[-1] < held[0] + 40


def test_damaged_grpc_messages_crash_nothing(server: Server) -> None:
    contents = pb.InferTensorContents(bytes_contents=[b"good"])
    tensor = pb.ModelInferRequest.InferInputTensor(name="text", shape=[1], datatype="BYTES", contents=contents)
    whole = pb.ModelInferRequest(model_name="sentiment", inputs=[tensor]).SerializeToString()
    dice = random.Random(13)  # noqa: S311
    answered = Counter[bool]()
    with grpc.insecure_channel(server.address) as channel:
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        for _ in range(1500):
            message = bytearray(whole[: dice.choice([len(whole), dice.randrange(len(whole))])])
            for _ in range(dice.randint(0, 2) if message else 0):
                message[dice.randrange(len(message))] = dice.randrange(256)
            error = infer.future(bytes(message)).exception(30)
            answered[error is None] += 1
            assert error is None or error.code() is not grpc.StatusCode.UNAVAILABLE
    assert min(answered[True], answered[False]) > 50
    assert len(predict_grpc(server.address, "sentiment", ["good"])) == 1
