"""The real server, as a process: all protocols agree, bad requests are the client's fault, no text is logged."""

import json
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import requests
from server_process import Server, running, start

import serving.kserve_import  # noqa: F401  kserve reads sys.argv when it is imported

from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb  # isort: skip
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub  # isort: skip

from components.classifier.classifier import PREDICTION_COLUMNS, Classifier, Prediction
from components.errors import DeploymentError
from pipelines.local_services import free_port
from serving.client import predict_grpc, predict_v1, predict_v2

pytestmark = pytest.mark.slow

TEXTS = ["a fine film", "dull <br /> and long", "Größe 😀 \x00 ok", "", "word " * 300]
MARKER = "xyzzyplugh"  # stands in every malformed text; must never reach the log
SETTINGS = '{"threads": 1, "maximum_texts": 8, "maximum_characters": 5000, "maximum_megabytes": 1}'


@pytest.fixture(scope="module")
def server(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(str(small_model), tmp_path_factory.mktemp("server") / "log", SETTINGS) as started:
        yield started


@pytest.fixture(scope="module")
def expected(small_model: Path) -> list[Prediction]:
    return Classifier.load(small_model).predict(TEXTS)


def assert_same(found: list[Prediction], expected: list[Prediction]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert [type(value) for value in one] == [int, str, float, bool, int, str]
        assert one.confidence_score == pytest.approx(other.confidence_score, abs=2e-6)
        assert one._replace(confidence_score=0.0) == other._replace(confidence_score=0.0)


def binary_request(items: list[bytes], shape: list[int], **json_part: Any) -> tuple[bytes, dict[str, str]]:
    """Body and headers of a V2 request of the binary extension, one tensor."""
    raw = b"".join(struct.pack("<I", len(item)) + item for item in items)
    tensor = {"name": "text", "shape": shape, "datatype": "BYTES", "parameters": {"binary_data_size": len(raw)}}
    head = json.dumps({"inputs": [tensor]} | json_part).encode()
    headers = {"Inference-Header-Content-Length": str(len(head)), "Content-Type": "application/octet-stream"}
    return head + raw, headers


def post_binary(server: Server, body: bytes, headers: dict[str, str]) -> requests.Response:
    return requests.post(f"{server.url}/v2/models/sentiment/infer", data=body, headers=headers, timeout=30)


def test_v1_v2_and_grpc_equal_the_classifier(server: Server, expected: list[Prediction]) -> None:
    assert len({p.predicted_label for p in expected}) == 2, "both labels must occur for the comparison to mean much"
    assert expected[4].windows > 1
    assert_same(predict_v1(server.url, "sentiment", TEXTS), expected)
    assert_same(predict_v2(server.url, "sentiment", TEXTS), expected)
    assert_same(predict_grpc(server.address, "sentiment", TEXTS), expected)


def test_v1_takes_objects_with_a_text(server: Server, expected: list[Prediction]) -> None:
    body = {"instances": [{"text": TEXTS[0]}, TEXTS[1]]}
    answer = requests.post(f"{server.url}/v1/models/sentiment:predict", json=body, timeout=30).json()
    assert list(answer["predictions"][0]) == list(PREDICTION_COLUMNS)
    assert_same([Prediction(**item) for item in answer["predictions"]], expected[:2])


@pytest.mark.parametrize("shape", [[5], [5, 1]])
def test_binary_extension_equals_the_classifier(server: Server, expected: list[Prediction], shape: list[int]) -> None:
    answer = post_binary(server, *binary_request([t.encode() for t in TEXTS], shape))
    assert answer.status_code == 200, answer.text
    assert answer.json()["model_version"] == expected[0].model_version
    columns = {output["name"]: output["data"] for output in answer.json()["outputs"]}
    assert tuple(columns) == PREDICTION_COLUMNS
    assert_same([Prediction(*row) for row in zip(*columns.values(), strict=True)], expected)


def test_binary_answer(server: Server, expected: list[Prediction]) -> None:
    body, headers = binary_request([t.encode() for t in TEXTS], [5], parameters={"binary_data_output": True})
    answer = post_binary(server, body, headers)
    length = int(answer.headers["Inference-Header-Content-Length"])
    outputs, raw, columns = json.loads(answer.content[:length])["outputs"], answer.content[length:], {}
    for output in outputs:
        size = output["parameters"]["binary_data_size"]
        columns[output["name"]], raw = raw[:size], raw[size:]
    assert raw == b""
    assert struct.unpack("<5q", columns["predicted_label"]) == tuple(p.predicted_label for p in expected)
    assert struct.unpack("<5d", columns["confidence_score"]) == pytest.approx(
        [p.confidence_score for p in expected], abs=2e-6
    )


def test_metadata_tells_tensors_and_version(server: Server, expected: list[Prediction]) -> None:
    metadata = requests.get(f"{server.url}/v2/models/sentiment", timeout=10).json()
    assert metadata["versions"] == [expected[0].model_version]
    assert metadata["inputs"] == [{"name": "text", "datatype": "BYTES", "shape": [-1]}]
    assert [output["name"] for output in metadata["outputs"]] == list(PREDICTION_COLUMNS)


@pytest.mark.parametrize(
    "body",
    [
        "", "{", "[]", json.dumps([MARKER]), "null", "3", "{}", '{"instances": null}', '{"instances": []}',
        json.dumps({"instances": MARKER}), json.dumps({"instances": {"text": MARKER}}), '{"instances": [1]}',
        '{"instances": [null]}', '{"instances": [["good"]]}', '{"instances": [{"review": "good"}]}',
        '{"instances": [{"text": 1}]}', json.dumps({"instances": [MARKER] * 9}),
        json.dumps({"instances": [MARKER * 501]}), b"\xff\xfe",
    ],
)  # fmt: skip
@pytest.mark.parametrize("content_type", ["application/json", "text/plain"])
def test_malformed_v1_is_a_4xx(server: Server, body: str, content_type: str) -> None:
    headers = {"Content-Type": content_type}
    answer = requests.post(f"{server.url}/v1/models/sentiment:predict", data=body, headers=headers, timeout=30)
    assert_refused(server, answer)


def tensor(**changes: Any) -> dict[str, Any]:
    return {"name": "text", "shape": [1], "datatype": "BYTES", "data": [MARKER]} | changes


@pytest.mark.parametrize(
    "body",
    [
        [], {}, {"inputs": []}, {"inputs": MARKER}, {"inputs": [{"name": "text"}]},
        {"inputs": [tensor(name="a"), tensor(name="b")]}, {"inputs": [tensor(datatype="FP32", data=[1.0])]},
        {"inputs": [tensor(datatype="NONE")]}, {"inputs": [tensor(shape=[2])]}, {"inputs": [tensor(shape=[1, 2])]},
        {"inputs": [tensor(shape=[-1])]}, {"inputs": [tensor(shape=[])]}, {"inputs": [tensor(shape=[0], data=[])]},
        {"inputs": [tensor(data=[1])]}, {"inputs": [tensor(data=[None])]}, {"inputs": [tensor(data=MARKER)]},
        {"inputs": [tensor(data=[MARKER] * 9, shape=[9])]}, {"inputs": [tensor(data=[MARKER * 501])]},
        {"inputs": [tensor()], "outputs": [{"name": "no such output"}]},
    ],
)  # fmt: skip
def test_malformed_v2_is_a_4xx(server: Server, body: Any) -> None:
    assert_refused(server, requests.post(f"{server.url}/v2/models/sentiment/infer", json=body, timeout=30))


@pytest.mark.parametrize("cut", [1, 3, 12])
def test_a_truncated_binary_tensor_is_a_4xx(server: Server, cut: int) -> None:
    body, headers = binary_request([MARKER.encode()], [1])
    assert_refused(server, post_binary(server, body[:-cut], headers))


def test_bytes_that_are_not_utf8_are_a_4xx(server: Server) -> None:
    assert_refused(server, post_binary(server, *binary_request([MARKER.encode() + b"\xff"], [1])))


def test_binary_without_its_header_is_a_4xx(server: Server) -> None:
    body, headers = binary_request([MARKER.encode()], [1])
    del headers["Inference-Header-Content-Length"]
    assert_refused(server, post_binary(server, body, headers))
    assert_refused(server, post_binary(server, body, headers | {"Inference-Header-Content-Length": "many"}))
    assert_refused(server, post_binary(server, b"{}", headers | {"Inference-Header-Content-Length": "2"}))


def assert_refused(server: Server, answer: requests.Response) -> None:
    assert 400 <= answer.status_code < 500, (answer.status_code, answer.text)
    line = answer.json()["error"]
    assert line
    assert "\n" not in line
    assert MARKER not in server.log.read_text()


@pytest.mark.parametrize("texts", [[], [MARKER] * 9, [MARKER * 501]])
def test_malformed_grpc_is_an_invalid_argument(server: Server, texts: list[str]) -> None:
    with pytest.raises(DeploymentError, match="INVALID_ARGUMENT") as raised:
        predict_grpc(server.address, "sentiment", texts)
    assert isinstance(raised.value.__cause__, grpc.RpcError)
    assert MARKER not in server.log.read_text()


def test_grpc_answers_with_what_was_asked_for_by_the_version_that_was_named(
    server: Server, expected: list[Prediction]
) -> None:
    version = expected[0].model_version

    def ask(**further: Any) -> pb.ModelInferResponse:
        contents = pb.InferTensorContents(bytes_contents=[TEXTS[0].encode()])
        tensor = pb.ModelInferRequest.InferInputTensor(name="text", datatype="BYTES", shape=[1], contents=contents)
        request = pb.ModelInferRequest(model_name="sentiment", inputs=[tensor], **further)
        with grpc.insecure_channel(server.address) as channel:
            return GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=30)

    assert {output.name for output in ask(model_version=version).outputs} == set(PREDICTION_COLUMNS)
    wanted = [pb.ModelInferRequest.InferRequestedOutputTensor(name=name) for name in ("probabilities", "windows")]
    assert [output.name for output in ask(outputs=wanted).outputs] == ["probabilities", "windows"]
    logged = len(server.log.read_text().splitlines())
    for further, status in (
        ({"model_version": "7"}, grpc.StatusCode.NOT_FOUND),
        (
            {"outputs": [pb.ModelInferRequest.InferRequestedOutputTensor(name="nosuch")]},
            grpc.StatusCode.INVALID_ARGUMENT,
        ),
    ):
        with pytest.raises(grpc.RpcError) as raised:
            ask(**further)
        assert raised.value.code() == status
    deadline, lines = time.monotonic() + 10, []
    while [line.get("status") for line in lines][-2:] != ["NOT_FOUND", "INVALID_ARGUMENT"]:
        assert time.monotonic() < deadline, lines
        lines = [json.loads(line) for line in server.log.read_text().splitlines()[logged:]]
    assert {line["event"] for line in lines} == {"request"}, "a line for each, and no error's beside it"


def test_v2_rest_refuses_an_output_that_there_is_not(server: Server) -> None:
    tensor = {"name": "text", "shape": [1], "datatype": "BYTES", "data": ["good"]}
    body = {"inputs": [tensor], "outputs": [{"name": "windows"}, {"name": "nosuch"}]}
    answer = requests.post(f"{server.url}/v2/models/sentiment/infer", json=body, timeout=30)
    assert_refused(server, answer)
    assert "no output 'nosuch'; there are predicted_label" in answer.json()["error"]


def test_a_large_body_is_a_413(server: Server) -> None:
    body = json.dumps({"instances": [MARKER] * 100_000}).encode()
    in_pieces = (body[start : start + 50_000] for start in range(0, len(body), 50_000))
    for address in ("v1/models/sentiment:predict", "v2/models/sentiment/infer"):
        answer = requests.post(f"{server.url}/{address}", data=body, timeout=30)
        assert answer.status_code == 413
        assert "larger than 1 MB" in answer.json()["error"]
    chunked = requests.post(f"{server.url}/v1/models/sentiment:predict", data=in_pieces, timeout=30)
    assert chunked.status_code == 413
    for address in ("v1/models/sentiment:explain", "v2/models/sentiment%0A/infer"):  # not answered, but read
        assert requests.post(f"{server.url}/{address}", data=body, timeout=30).status_code == 413


def test_json_that_is_nested_too_deep_is_a_400(server: Server) -> None:
    headers = {"Content-Type": "text/plain"}
    address = f"{server.url}/v1/models/sentiment:predict"
    answer = requests.post(address, data=b"[" * 100_000, headers=headers, timeout=30)
    assert answer.status_code == 400
    assert "not JSON" in answer.json()["error"]
    with pytest.raises(DeploymentError, match="RESOURCE_EXHAUSTED"):
        predict_grpc(server.address, "sentiment", [MARKER * 200_000])
    assert MARKER not in server.log.read_text()


@pytest.mark.parametrize(
    "address", ["v1/models/sentiment:explain", "v2/models/sentiment/versions/3/infer", "v3", "v1/models/sentiment"]
)
def test_what_the_server_does_not_offer_is_a_4xx(server: Server, address: str) -> None:
    body = {"inputs": [tensor()], "instances": [MARKER]}
    assert_refused(server, requests.post(f"{server.url}/{address}", json=body, timeout=30))


def test_health_is_answered_while_the_model_is_busy(server: Server) -> None:
    long_request = threading.Thread(target=predict_v1, args=(server.url, "sentiment", ["a b c d " * 600] * 8))
    answered = 0
    long_request.start()
    while long_request.is_alive():
        assert requests.get(f"{server.url}/v2/health/ready", timeout=30).status_code == 200
        answered += long_request.is_alive()
    assert answered > 2


def test_an_unknown_model_is_a_404(server: Server) -> None:
    with pytest.raises(DeploymentError, match="404"):
        predict_v1(server.url, "other", ["good"])


@pytest.mark.parametrize("action", ["load", "unload"])
def test_nobody_loads_or_unloads_a_model_by_request(server: Server, action: str) -> None:
    for name in ("sentiment", "other"):
        answer = requests.post(f"{server.url}/v2/repository/models/{name}/{action}", timeout=10)
        assert_refused(server, answer)
        request = getattr(pb, f"RepositoryModel{action.capitalize()}Request")(model_name=name)
        with grpc.insecure_channel(server.address) as channel, pytest.raises(grpc.RpcError) as raised:
            getattr(GRPCInferenceServiceStub(channel), f"RepositoryModel{action.capitalize()}")(request, timeout=10)
        assert raised.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert requests.get(f"{server.url}/v2", timeout=10).json()["extensions"] == []
    assert len(predict_v1(server.url, "sentiment", ["good"])) == 1
    assert len(predict_grpc(server.address, "sentiment", ["good"])) == 1


def test_every_log_line_is_json(server: Server) -> None:
    events = [json.loads(line)["event"] for line in server.log.read_text().splitlines()]
    assert "serving" in events


def test_a_taken_port_is_named_before_the_model_is_loaded(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))  # noqa: S104
        taken.listen()
        port = taken.getsockname()[1]
        for ports in ((port, free_port()), (free_port(), port)):
            process = start(str(tmp_path / "no model"), *ports, "{}", tmp_path / "log")
            assert process.wait(60) == 2
            assert f"port {port}" in (tmp_path / "log").read_text()


def test_without_the_flag_there_is_no_page(server: Server) -> None:
    assert requests.get(f"{server.url}/", timeout=10).json() == {"status": "alive"}
    assert requests.post(f"{server.url}/page/table?name=a.csv", data=b"text\ngood\n", timeout=10).status_code == 404
