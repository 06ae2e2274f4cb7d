"""The KServe adapter: requests of V1, V2 and gRPC to texts, predictions of the classifier to answers."""

import asyncio
import json
import struct
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

import serving.kserve_import  # noqa: F401  kserve reads sys.argv when it is imported

from kserve import InferOutput, InferRequest, InferResponse, Model  # isort: skip
from kserve.errors import InferenceError, InvalidInput  # isort: skip
from kserve.protocol.dataplane import DataPlane  # isort: skip

from components.classifier.classifier import PREDICTION_COLUMNS, Classifier, Prediction
from components.config import ServingSettings

INPUT_NAME = "text"
OUTPUT_DATATYPES = dict(
    zip(PREDICTION_COLUMNS, ("INT64", "BYTES", "FP64", "BOOL", "INT64", "BYTES"), strict=True)
)  # the Open Inference Protocol's datatype of each field


class SentimentPredictor(Model):
    """Serves one classifier, which may be replaced at any time: a request uses the one it started with."""

    def __init__(self, name: str, classifier: Classifier, settings: ServingSettings) -> None:
        super().__init__(name)
        self.classifier = classifier
        self._settings = settings
        # One thread, so that requests queue for the model while the event loop still answers health checks.
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="model")
        self.ready = True

    def get_input_types(self) -> list[dict]:
        return [{"name": INPUT_NAME, "datatype": "BYTES", "shape": [-1]}]

    def get_output_types(self) -> list[dict]:
        return [{"name": name, "datatype": datatype, "shape": [-1]} for name, datatype in OUTPUT_DATATYPES.items()]

    async def predict(self, payload: Any, headers: Any = None, response_headers: Any = None) -> Any:
        """A dict for a V1 body, an InferResponse for an InferRequest. Raises InvalidInput (400) on bad content."""
        if isinstance(payload, InferRequest):
            texts = texts_of_tensor(payload, self._settings)
            return _response(self.name, payload, await self._predict(texts))
        texts = texts_of_instances(payload, self._settings)
        return {"predictions": [asdict(p) for p in await self._predict(texts)]}

    async def _predict(self, texts: Sequence[str]) -> list[Prediction]:
        classifier = self.classifier  # taken once: the answer to one request never mixes two versions
        return await asyncio.get_running_loop().run_in_executor(self._worker, classifier.predict, texts)


class StrictDataPlane(DataPlane):
    """KServe's data plane, but a body that cannot be decoded is the client's fault (400), and versions are told."""

    def decode(self, body: Any, headers: Any, *arguments: Any, **named: Any) -> Any:
        try:
            return super().decode(body, headers, *arguments, **named)
        except InvalidInput:
            raise
        except (InferenceError, LookupError, TypeError, ValueError, AttributeError, struct.error) as error:
            raise InvalidInput(f"the request cannot be decoded ({type(error).__name__}): a field is missing, or its "
                               "type, shape or size is wrong") from error  # fmt: skip

    def metadata(self) -> dict:
        return super().metadata() | {"extensions": []}  # the repository extension is closed, see serving/server.py

    async def model_metadata(self, model_name: str) -> dict:
        metadata = await super().model_metadata(model_name)
        return metadata | {"versions": [self.get_model_from_registry(model_name).classifier.version]}


def texts_of_instances(body: Any, settings: ServingSettings) -> list[str]:
    """The texts of a V1 body: {"instances": [text or {"text": text}, ...]}. Raises InvalidInput."""
    if isinstance(body, bytes):  # sent with a content type that is not JSON's
        try:
            body = json.loads(body)
        except ValueError as error:
            raise InvalidInput('the body is not JSON; send {"instances": [TEXT, ...]}') from error
    if not isinstance(body, dict) or not isinstance(body.get("instances"), list):
        raise InvalidInput('the body must be {"instances": [TEXT, ...]}: an object with a list named instances')
    _check_count(len(body["instances"]), settings)
    items = (i["text"] if isinstance(i, dict) and "text" in i else i for i in body["instances"])
    return [_text(item, f"instances[{row}]", settings) for row, item in enumerate(items)]


def texts_of_tensor(request: InferRequest, settings: ServingSettings) -> list[str]:
    """The texts of a V2 request's only tensor: BYTES, shape [n] or [n, 1]. Raises InvalidInput."""
    named = [tensor for tensor in request.inputs if tensor.name == INPUT_NAME]
    chosen = request.inputs if len(request.inputs) == 1 else named
    if len(chosen) != 1:
        raise InvalidInput(f"send one input tensor named {INPUT_NAME!r}; found {len(request.inputs)} inputs")
    tensor = chosen[0]
    if tensor.datatype != "BYTES":
        raise InvalidInput(f"input {tensor.name!r} must have the datatype BYTES, not {tensor.datatype}")
    shape = list(tensor.shape)
    if len(shape) not in (1, 2) or shape[1:] not in ([], [1]) or shape[0] < 0:
        raise InvalidInput(f"input {tensor.name!r} must have the shape [n] or [n, 1], not {shape}")
    _check_count(shape[0], settings)
    try:
        items = tensor.as_numpy().reshape(-1)
    except (ValueError, TypeError, struct.error) as error:
        raise InvalidInput(f"input {tensor.name!r}: the data do not fit the shape {shape}, or are cut short") from error
    return [_text(item, f"input {tensor.name!r}, row {row}", settings) for row, item in enumerate(items)]


def _check_count(count: int, settings: ServingSettings) -> None:
    if not count:
        raise InvalidInput("the request holds no texts; send at least one")
    if count > settings.maximum_texts:
        raise InvalidInput(f"the request holds {count} texts; at most {settings.maximum_texts} are taken at once")


def _text(item: Any, where: str, settings: ServingSettings) -> str:
    if isinstance(item, bytes):
        try:
            item = item.decode("utf-8")
        except UnicodeDecodeError as error:
            raise InvalidInput(f"{where} is not UTF-8 text") from error
    if not isinstance(item, str):
        raise InvalidInput(f"{where} must be a text, not {type(item).__name__}")
    if len(item) > settings.maximum_characters:
        limit = settings.maximum_characters
        raise InvalidInput(f"{where} has {len(item)} characters; at most {limit} are taken")
    return item


def _response(name: str, request: InferRequest, predictions: list[Prediction]) -> InferResponse:
    outputs = [
        InferOutput(name=field, shape=[len(predictions)], datatype=datatype,
                    data=[getattr(p, field) for p in predictions])
        for field, datatype in OUTPUT_DATATYPES.items()
    ]  # fmt: skip
    return InferResponse(
        response_id=request.id or str(uuid.uuid4()),  # without one, kserve refuses its own answer
        model_name=name,
        model_version=predictions[0].model_version,
        infer_outputs=outputs,
        use_binary_outputs=request.use_binary_outputs,
        requested_outputs=request.request_outputs,
    )
