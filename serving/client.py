"""Ask a server for predictions, by each of its protocols."""

from collections.abc import Sequence
from typing import Any

import requests

from components.classifier.classifier import PREDICTION_COLUMNS, Prediction
from components.errors import DeploymentError

_SECONDS = 120


def predict_v1(url: str, name: str, texts: Sequence[str]) -> list[Prediction]:
    """By V1 at `url` (http://HOST:PORT). Raises DeploymentError if the server does not answer with predictions."""
    answer = _post(f"{url.rstrip('/')}/v1/models/{name}:predict", {"instances": list(texts)})
    return [Prediction(**item) for item in answer["predictions"]]


def predict_v2(url: str, name: str, texts: Sequence[str]) -> list[Prediction]:
    """By V2 (JSON) at `url` (http://HOST:PORT). Raises DeploymentError."""
    tensor = {"name": "text", "shape": [len(texts)], "datatype": "BYTES", "data": list(texts)}
    answer = _post(f"{url.rstrip('/')}/v2/models/{name}/infer", {"inputs": [tensor]})
    return _predictions({output["name"]: output["data"] for output in answer["outputs"]})


def predict_grpc(address: str, name: str, texts: Sequence[str]) -> list[Prediction]:
    """By gRPC at `address` (HOST:PORT). Raises DeploymentError."""
    import serving.kserve_import  # noqa: F401  kserve reads sys.argv when it is imported

    import grpc  # isort: skip
    from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb  # isort: skip
    from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub  # isort: skip
    from kserve.protocol.infer_type import InferResponse  # isort: skip

    contents = pb.InferTensorContents(bytes_contents=[text.encode() for text in texts])
    tensor = pb.ModelInferRequest.InferInputTensor(name="text", shape=[len(texts)], datatype="BYTES", contents=contents)
    try:
        with grpc.insecure_channel(address) as channel:
            request = pb.ModelInferRequest(model_name=name, inputs=[tensor])
            answer = GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=_SECONDS)
    except grpc.RpcError as error:
        raise DeploymentError(f"{address} did not predict: {error.code().name}: {error.details()}") from error
    return _predictions({output.name: output.data for output in InferResponse.from_grpc(answer).outputs})


def _post(url: str, body: dict[str, Any]) -> dict[str, Any]:
    try:
        answer = requests.post(url, json=body, timeout=_SECONDS)
    except requests.RequestException as error:
        raise DeploymentError(f"{url} does not answer: {type(error).__name__}") from error
    if answer.status_code != 200:
        raise DeploymentError(f"{url} answered {answer.status_code}: {answer.text[:300]}")
    return answer.json()


def _predictions(columns: dict[str, list[Any]]) -> list[Prediction]:
    def plain(value: Any) -> Any:
        return value.decode() if isinstance(value, bytes) else value

    rows = zip(*(columns[name] for name in PREDICTION_COLUMNS), strict=True)
    return [Prediction(*(plain(value) for value in row)) for row in rows]
