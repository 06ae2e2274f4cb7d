"""What an operator sees of the real server: metrics, log lines, request ids; and what a request may ask for."""

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import requests
from server_process import Server, running, scrape, settled, since

import serving.kserve_import  # noqa: F401  kserve reads sys.argv when it is imported

from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb  # isort: skip
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub  # isort: skip
from kserve.protocol.infer_type import InferResponse  # isort: skip

from components.classifier.classifier import Classifier
from serving.client import predict_grpc, predict_v1, predict_v2

pytestmark = pytest.mark.slow

TEXTS = ["a fine film", "dull", "word " * 300, "xyzzyplugh"]


@pytest.fixture(scope="module")
def server(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(str(small_model), tmp_path_factory.mktemp("server") / "log") as started:
        yield started


def tensor(texts: list[str]) -> dict[str, Any]:
    return {"name": "text", "shape": [len(texts)], "datatype": "BYTES", "data": texts}


def ask_v1(server: Server, headers: dict[str, str] | None = None, **body: Any) -> requests.Response:
    body = {"instances": TEXTS} | body
    return requests.post(f"{server.url}/v1/models/sentiment:predict", json=body, headers=headers, timeout=30)


def ask_v2(server: Server, headers: dict[str, str] | None = None, **body: Any) -> requests.Response:
    body = {"inputs": [tensor(TEXTS)]} | body
    return requests.post(f"{server.url}/v2/models/sentiment/infer", json=body, headers=headers, timeout=30)


def ask_grpc(server: Server, metadata: Any = (), **fields: Any) -> tuple[pb.ModelInferResponse, dict[str, str]]:
    contents = pb.InferTensorContents(bytes_contents=[text.encode() for text in TEXTS])
    made = pb.ModelInferRequest.InferInputTensor(name="text", shape=[4], datatype="BYTES", contents=contents)
    request = pb.ModelInferRequest(model_name="sentiment", inputs=[made], **fields)
    with grpc.insecure_channel(server.address) as channel:
        answer, call = GRPCInferenceServiceStub(channel).ModelInfer.with_call(request, timeout=30, metadata=metadata)
        return answer, dict(call.initial_metadata())


def request_lines(server: Server) -> list[dict[str, Any]]:
    """Those written once every request has ended."""
    settled(server)
    return [line for line in map(json.loads, server.log.read_text().splitlines()) if line["event"] == "request"]


def test_metrics_after_requests_over_all_protocols(server: Server, small_model: Path) -> None:
    classifier = Classifier.load(small_model)
    expected = classifier.predict(TEXTS)
    tokens = sum(len(window) for window in classifier.engine.encode(TEXTS).windows)
    before = scrape(server)
    predict_v1(server.url, "sentiment", TEXTS)
    predict_v2(server.url, "sentiment", TEXTS)
    predict_grpc(server.address, "sentiment", TEXTS)
    assert requests.post(f"{server.url}/v1/models/sentiment:predict", json=[], timeout=10).status_code == 400
    assert requests.post(f"{server.url}/v2/models/other/infer", json={"inputs": []}, timeout=10).status_code == 404
    with pytest.raises(Exception, match="INVALID_ARGUMENT"):
        predict_grpc(server.address, "sentiment", [])
    after = settled(server)
    found = {name: since(before, after, name) for name in after}
    statuses = {name: value for name, value in found.items() if name.startswith("everbert_requests_total") and value}
    assert statuses == {
        f'everbert_requests_total{{protocol="{protocol}",status="{status}"}}': 1.0
        for protocol, status in [
            ("v1", "200"), ("v2", "200"), ("grpc", "OK"), ("v1", "400"), ("v2", "404"), ("grpc", "INVALID_ARGUMENT"),
        ]
    }  # fmt: skip
    assert found["everbert_texts_total"] == 3 * len(TEXTS)
    assert found["everbert_windows_total"] == 3 * sum(p.windows for p in expected)
    assert found["everbert_long_texts_total"] == 3
    assert found["everbert_batch_tokens_sum"] == 3 * tokens
    assert found["everbert_batch_tokens_count"] == 3
    assert found["everbert_queue_seconds_count"] == 3
    assert found["everbert_abstentions_total"] == 3 * sum(p.abstained for p in expected)
    assert found["everbert_confidence_count"] == 3 * len(TEXTS)
    assert found["everbert_confidence_sum"] == pytest.approx(3 * sum(p.confidence_score for p in expected), abs=1e-3)
    for label in ("Negative", "Positive"):
        count = sum(p.predicted_sentiment == label for p in expected)
        assert count
        assert found[f'everbert_predictions_total{{label="{label}"}}'] == 3 * count
    for protocol in ("v1", "v2", "grpc"):
        assert found[f'everbert_request_seconds_count{{protocol="{protocol}"}}'] == 2
        assert after[f'everbert_requests_in_flight{{protocol="{protocol}"}}'] == 0
    models = {name: value for name, value in after.items() if name.startswith("everbert_model_info")}
    assert models == {f'everbert_model_info{{name="sentiment",version="{classifier.version}"}}': 1}
    assert after["everbert_waiting_tokens"] == 0


def test_each_request_has_one_log_line_without_its_text(server: Server, small_model: Path) -> None:
    before = len(request_lines(server))
    ask_v1(server)
    ask_v1(server, instances=3)
    ask_grpc(server)
    good, bad, over_grpc = request_lines(server)[before:]
    assert (good["protocol"], good["status"], good["texts"]) == ("v1", "200", 4)
    assert good["model_version"] == Classifier.load(small_model).version
    assert good["windows"] > good["texts"]
    assert good["tokens"] > 300
    assert 0 <= good["queue_seconds"] <= good["seconds"] < 30
    assert (bad["status"], "texts" in bad) == ("400", False)
    assert (over_grpc["protocol"], over_grpc["status"], over_grpc["tokens"]) == ("grpc", "OK", good["tokens"])
    assert TEXTS[-1] not in server.log.read_text()


def test_the_request_id_comes_back_and_is_logged(server: Server) -> None:
    before = len(request_lines(server))
    headers = {"x-request-id": "from-the-header"}
    answers = [ask_v1(server, headers), ask_v2(server, headers, id="in-the-body"), ask_v2(server, id="in-the-body")]
    assert [answer.headers["x-request-id"] for answer in answers] == ["from-the-header"] * 2 + ["in-the-body"]
    assert [answer.json()["id"] for answer in answers[1:]] == ["in-the-body", "in-the-body"]
    assert ask_v2(server, headers).json()["id"] == "from-the-header"
    answer, initial = ask_grpc(server, id="in-the-message")
    assert (answer.id, initial["x-request-id"]) == ("in-the-message", "in-the-message")
    _, initial = ask_grpc(server, (("x-request-id", "in-the-metadata"),), id="in-the-message")
    assert initial["x-request-id"] == "in-the-metadata"
    refused = ask_v1(server, headers, instances=[])
    assert (refused.status_code, refused.headers["x-request-id"]) == (400, "from-the-header")
    assert [line["id"] for line in request_lines(server)[before:]] == [
        "from-the-header", "from-the-header", "in-the-body", "from-the-header", "in-the-message", "in-the-metadata",
        "from-the-header",
    ]  # fmt: skip


@pytest.mark.parametrize("unfit", ["", "x" * 200, "two\nlines", "größe"])
def test_an_id_that_fits_no_header_is_replaced(server: Server, unfit: str) -> None:
    answer = ask_v2(server, id=unfit)
    assert answer.status_code == 200
    assert uuid.UUID(answer.headers["x-request-id"])
    assert answer.json()["id"] == (unfit or answer.headers["x-request-id"])


def test_probabilities_of_all_classes_are_the_same_in_every_protocol(server: Server, small_model: Path) -> None:
    classifier = Classifier.load(small_model)
    expected = classifier.probabilities(classifier.score(TEXTS)).reshape(-1)
    rows = ask_v1(server, parameters={"probabilities": True}).json()["predictions"]
    assert [list(row["probabilities"]) for row in rows] == [["Negative", "Positive"]] * 4
    for row in rows:
        assert row["probabilities"][row["predicted_sentiment"]] == row["confidence_score"]
    assert [v for row in rows for v in row["probabilities"].values()] == pytest.approx(expected, abs=2e-6)
    by_parameter = ask_v2(server, parameters={"probabilities": True}).json()["outputs"][-1]
    assert (by_parameter["name"], by_parameter["shape"]) == ("probabilities", [4, 2])
    assert json.loads(by_parameter["parameters"]["classes"]) == ["Negative", "Positive"]
    assert by_parameter["data"] == pytest.approx(expected, abs=2e-6)
    by_output = ask_v2(server, outputs=[{"name": "probabilities"}]).json()["outputs"]
    assert [output["name"] for output in by_output] == ["probabilities"]
    answer, _ = ask_grpc(server, parameters={"probabilities": pb.InferParameter(bool_param=True)})
    found = InferResponse.from_grpc(answer).outputs[-1]
    assert (found.name, found.shape) == ("probabilities", [4, 2])
    assert list(found.data) == pytest.approx(expected, abs=2e-6)


def test_nobody_gets_probabilities_unasked(server: Server) -> None:
    for parameters in ({}, {"probabilities": False}):
        assert "probabilities" not in ask_v1(server, parameters=parameters).json()["predictions"][0]
        assert len(ask_v2(server, parameters=parameters).json()["outputs"]) == 6


@pytest.mark.parametrize("parameters", [{"probabilities": "yes"}, {"probabilities": 1}, {"probabilites": True}])
def test_a_wrong_parameter_is_named(server: Server, parameters: dict[str, Any]) -> None:
    for answer in (ask_v1(server, parameters=parameters), ask_v2(server, parameters=parameters)):
        assert answer.status_code == 400
        assert "parameter prob" in answer.json()["error"].replace("'", "")


def test_parameters_that_are_no_object_are_refused(server: Server) -> None:
    assert ask_v1(server, parameters=[True]).status_code == 400
    assert ask_v2(server, parameters=[True]).status_code == 400
