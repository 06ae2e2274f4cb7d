"""The KServe adapter: requests of V1, V2 and gRPC to texts, predictions of the classifier to answers."""

import asyncio
import json
import struct
import time
from typing import Any

import serving.kserve_import  # noqa: F401  kserve reads sys.argv when it is imported

from kserve import InferOutput, InferRequest, InferResponse, Model  # isort: skip
from kserve.errors import InferenceError, InvalidInput, ModelNotFound  # isort: skip
from kserve.protocol.dataplane import DataPlane  # isort: skip

from components.classifier.classifier import PREDICTION_COLUMNS, Classifier, Prediction
from components.config import ServingSettings
from components.deployment.probes import PROBE_HEADER
from serving import metrics, observation
from serving.batcher import MicroBatcher
from serving.content import INPUT_NAME, PROBABILITIES, Asked, asked_in_v1, asked_in_v2
from serving.payload_log import PayloadLog
from serving.queued import Scored

OUTPUT_DATATYPES = dict(
    zip(PREDICTION_COLUMNS, ("INT64", "BYTES", "FP64", "BOOL", "INT64", "BYTES"), strict=True)
)  # the Open Inference Protocol's datatype of each field


class SentimentPredictor(Model):
    """Serves one classifier, which may be replaced at any time: a request uses the one it started with."""

    def __init__(
        self, name: str, classifier: Classifier, settings: ServingSettings, payload_log: PayloadLog | None = None
    ) -> None:
        super().__init__(name)
        self._settings = settings
        self._payload_log = payload_log
        self.batcher = MicroBatcher(settings.batch_tokens, settings.queue_seconds, metrics.BATCH_TOKENS.observe)
        metrics.watch(lambda: self.batcher.waiting_tokens)
        self.replace(classifier)
        self.ready = True

    def replace(self, classifier: Classifier) -> None:
        """Requests from now on are answered by this one."""
        self.classifier = classifier
        metrics.served(self.name, classifier.version)

    def close(self) -> None:
        """Answer what waits, then take no more; write the rest of the payload log."""
        self.batcher.close()
        if self._payload_log:
            self._payload_log.close()

    def get_input_types(self) -> list[dict]:
        return [{"name": INPUT_NAME, "datatype": "BYTES", "shape": [-1]}]

    def get_output_types(self) -> list[dict]:
        return [{"name": name, "datatype": datatype, "shape": [-1]} for name, datatype in OUTPUT_DATATYPES.items()]

    async def predict(self, payload: Any, headers: Any = None, response_headers: Any = None) -> Any:
        """A dict for a V1 body, an InferResponse for an InferRequest.

        Raises InvalidInput (400) on bad content, ModelNotFound (404) if another version is asked for, QueueFullError
        (429, RESOURCE_EXHAUSTED) when too much waits.
        """
        if isinstance(payload, InferRequest):
            observation.current().name(payload.id)
            if payload.model_version and payload.model_version != self.classifier.version:
                raise ModelNotFound(f"{self.name}, version {payload.model_version[:40]}")
            answer = await self._answer(asked_in_v2(payload, self._settings), headers)
            return _response(self.name, payload, answer)
        answer = await self._answer(asked_in_v1(payload, self._settings), headers)
        return {"predictions": _rows(answer)}

    async def _answer(self, asked: Asked, headers: Any) -> "_Answer":
        received = time.time()
        scored = await asyncio.wrap_future(self.batcher.submit(self.classifier, asked.texts))
        answer = _Answer(scored, asked)
        metrics.QUEUE.observe(scored.queue_seconds)
        metrics.predicted(answer.predictions)
        observation.current().fields.update(
            texts=len(asked.texts), windows=int(scored.scores.windows.sum()), tokens=scored.tokens,
            queue_seconds=round(scored.queue_seconds, 6), model_version=scored.classifier.version,
        )  # fmt: skip
        if self._payload_log and PROBE_HEADER not in (headers or {}):  # a roll-out's few texts, again and again
            request_id = observation.current().answer_id()
            self._payload_log.offer(request_id, received, asked.texts, scored.scores, answer.predictions)
        return answer


class _Answer:
    """The predictions of one request, and the probabilities of all classes if it asked for them [n, classes]."""

    def __init__(self, scored: Scored, asked: Asked) -> None:
        self.classes = scored.classifier.labels.names
        self.predictions: list[Prediction] = scored.classifier.predictions(scored.scores)
        self.probabilities: list[list[float]] | None = None
        if asked.probabilities:
            self.probabilities = scored.classifier.probabilities(scored.scores).round(6).tolist()


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


def _rows(answer: _Answer) -> list[dict[str, Any]]:
    rows = [prediction._asdict() for prediction in answer.predictions]
    if answer.probabilities is not None:
        for row, probabilities in zip(rows, answer.probabilities, strict=True):
            row[PROBABILITIES] = dict(zip(answer.classes, probabilities, strict=True))
    return rows


def _response(name: str, request: InferRequest, answer: _Answer) -> InferResponse:
    count = len(answer.predictions)
    outputs = [
        InferOutput(field, [count], datatype, data=[getattr(p, field) for p in answer.predictions])
        for field, datatype in OUTPUT_DATATYPES.items()
    ]
    if answer.probabilities is not None:
        flat = [value for row in answer.probabilities for value in row]
        classes = {"classes": json.dumps(answer.classes, ensure_ascii=False)}  # parameters cannot be lists
        outputs.append(InferOutput(PROBABILITIES, [count, len(answer.classes)], "FP64", data=flat, parameters=classes))
    if request.request_outputs:  # over gRPC, kserve would answer with all
        by_name = {output.name: output for output in outputs}
        outputs = [by_name[name] for name in dict.fromkeys(output.name for output in request.request_outputs)]
    return InferResponse(
        response_id=request.id or observation.current().answer_id(),  # without one, kserve refuses its own answer
        model_name=name,
        model_version=answer.predictions[0].model_version,
        infer_outputs=outputs,
        use_binary_outputs=request.use_binary_outputs,
        requested_outputs=request.request_outputs,
    )
