"""What a request asks for, read from its V1 or V2 content. Whatever is wrong with it is an InvalidInput (a 400)."""

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import serving.kserve_import  # noqa: F401  kserve reads sys.argv when it is imported

from kserve import InferRequest  # isort: skip
from kserve.errors import InvalidInput  # isort: skip
from kserve.protocol.infer_type import to_http_parameters  # isort: skip

from components.classifier.classifier import PREDICTION_COLUMNS
from components.config import ServingSettings

INPUT_NAME = "text"
PROBABILITIES = "probabilities"
_OUTPUTS = (*PREDICTION_COLUMNS, PROBABILITIES)
_PROTOCOL_PARAMETERS = {"binary_data_output"}  # kserve's own business


@dataclass(frozen=True)
class Asked:
    """The texts, and whether the answer shall hold the probabilities of all classes."""

    texts: list[str]
    probabilities: bool = False


def asked_in_v1(body: Any, settings: ServingSettings) -> Asked:
    """{"instances": [text or {"text": text}, ...], "parameters": {"probabilities": true}}; no parameters needed."""
    if isinstance(body, bytes):  # sent with a content type that is not JSON's
        try:
            body = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise InvalidInput('the body is not JSON; send {"instances": [TEXT, ...]}') from error
    if not isinstance(body, dict) or not isinstance(body.get("instances"), list):
        raise InvalidInput('the body must be {"instances": [TEXT, ...]}: an object with a list named instances')
    _check_count(len(body["instances"]), settings)
    items = (i["text"] if isinstance(i, dict) and "text" in i else i for i in body["instances"])
    texts = [_text(item, f"instances[{row}]", settings) for row, item in enumerate(items)]
    return Asked(texts, _wants_probabilities(body.get("parameters")))


def asked_in_v2(request: InferRequest, settings: ServingSettings) -> Asked:
    """The only tensor (BYTES, shape [n] or [n, 1]); probabilities by parameter, or as a requested output."""
    _check_id(request.id)
    wanted = _wants_probabilities(request.parameters)
    named = [output.name for output in request.request_outputs or []]
    for name in named:
        if name not in _OUTPUTS:
            raise InvalidInput(f"no output {str(name)[:40]!r}; there are {', '.join(_OUTPUTS)}")
    return Asked(_texts_of_tensor(request, settings), wanted or PROBABILITIES in named)


def _check_id(wanted: Any) -> None:
    if not isinstance(wanted, str | None):
        raise InvalidInput(f"the id must be a text, not {type(wanted).__name__}")
    try:
        (wanted or "").encode()
    except UnicodeEncodeError as error:
        raise InvalidInput("the id is not Unicode text") from error


def _wants_probabilities(parameters: Any) -> bool:
    if not parameters:
        return False
    if not isinstance(parameters, Mapping):
        raise InvalidInput(f"parameters must be an object, not {type(parameters).__name__}")
    parameters = to_http_parameters(parameters)  # gRPC's are messages
    for name in parameters:
        if name not in {PROBABILITIES, *_PROTOCOL_PARAMETERS}:
            raise InvalidInput(f"no parameter {name[:40]!r}; there is {PROBABILITIES} (true or false)")
    wanted = parameters.get(PROBABILITIES, False)
    if not isinstance(wanted, bool):
        raise InvalidInput(f"parameter {PROBABILITIES} must be true or false, not {type(wanted).__name__}")
    return wanted


def _texts_of_tensor(request: InferRequest, settings: ServingSettings) -> list[str]:
    named = [tensor for tensor in request.inputs if tensor.name == INPUT_NAME]
    chosen = request.inputs if len(request.inputs) == 1 else named
    if len(chosen) != 1:
        raise InvalidInput(f"send one input tensor named {INPUT_NAME!r}; found {len(request.inputs)} inputs")
    tensor = chosen[0]
    if tensor.datatype != "BYTES":
        raise InvalidInput(f"input {tensor.name!r} must have the datatype BYTES, not {tensor.datatype}")
    shape = tensor.shape
    numbers = isinstance(shape, list) and all(type(size) is int for size in shape)
    if not numbers or len(shape) not in (1, 2) or shape[1:] not in ([], [1]) or shape[0] < 0:
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
