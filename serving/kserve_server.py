"""KServe's ModelServer with requests observed, overload refused by its own status, and a stop that loses no request."""

import asyncio
import contextlib
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import uvicorn
from starlette.exceptions import HTTPException

import serving.kserve_import  # noqa: F401  kserve reads sys.argv when it is imported

from fastapi.exceptions import RequestValidationError  # isort: skip
from fastapi.responses import JSONResponse  # isort: skip
from kserve import ModelServer  # isort: skip
from kserve.errors import InvalidInput, ModelNotFound  # isort: skip
from kserve.model_server import app  # isort: skip
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import (  # isort: skip
    add_GRPCInferenceServiceServicer_to_server,
)
from kserve.protocol.grpc.interceptors import ExceptionToStatusInterceptor  # isort: skip
from kserve.protocol.grpc.servicer import InferenceServicer  # isort: skip
from kserve.protocol.model_repository_extension import ModelRepositoryExtension  # isort: skip
from kserve.protocol.rest.server import RESTServer  # isort: skip

from serving.observation import ObservedGrpc, ObservedHttp
from serving.predictor import SentimentPredictor, StrictDataPlane
from serving.queued import QueueFullError

_GRACE_SECONDS = 30  # for what is in flight when the server is told to stop; what Kubernetes gives by default


class Server(ModelServer):
    """Serves one model over HTTP and gRPC until SIGTERM or SIGINT; then takes nothing new, and finishes the rest."""

    def __init__(self, http_port: int, grpc_port: int, most_megabytes: int) -> None:
        """`most_megabytes` is the size of the largest request."""
        super().__init__(http_port=http_port, grpc_port=grpc_port, workers=1, enable_latency_logging=False)
        self._most_megabytes = most_megabytes
        self.dataplane = StrictDataPlane(model_registry=self.registered_models)
        self.model_repository_extension = ClosedRepository(self.registered_models)

    def start(self, models: list[SentimentPredictor]) -> None:
        """Returns when the last request is answered."""
        for model in models:
            self.register_model(model)
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self.setup_event_loop()
        parts = self.dataplane, self.model_repository_extension, self._most_megabytes
        rest, rpc = _Rest(*parts, self.http_port), _grpc_server(*parts, self.grpc_port)
        stopped = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stopped.set)
        await rpc.start()
        over_http = asyncio.create_task(rest.start())
        await asyncio.wait({over_http, asyncio.create_task(stopped.wait())}, return_when=asyncio.FIRST_COMPLETED)
        rest.stop()
        await asyncio.gather(over_http, rpc.stop(_GRACE_SECONDS))


class _Uvicorn(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # they are the Server's, who stops gRPC too


class _Rest(RESTServer):
    def __init__(
        self, dataplane: StrictDataPlane, repository: ModelRepositoryExtension, most_megabytes: int, port: int
    ) -> None:
        observed = ObservedHttp(app, most_megabytes)
        super().__init__(observed, dataplane, repository, port, grace_period=_GRACE_SECONDS)
        self._server = _Uvicorn(self.config)

    def _add_middlewares(self, app: Any) -> None:
        """None of kserve's, which time each request for a log that is off."""

    def _add_exception_handlers(self, app: Any) -> None:
        super()._add_exception_handlers(app)
        app.add_exception_handler(InvalidInput, _invalid)
        app.add_exception_handler(ModelNotFound, _not_found)
        app.add_exception_handler(RequestValidationError, _malformed)
        app.add_exception_handler(HTTPException, _refused)
        app.add_exception_handler(NotImplementedError, _not_offered)
        app.add_exception_handler(QueueFullError, _busy)

    def stop(self) -> None:
        self._server.should_exit = True


def _grpc_server(
    dataplane: StrictDataPlane, repository: ModelRepositoryExtension, most_megabytes: int, port: int
) -> grpc.aio.Server:
    limits = [(f"grpc.max_{way}_message_length", most_megabytes << 20) for way in ("send", "receive")]
    server = grpc.aio.server(ThreadPoolExecutor(1), interceptors=(ObservedGrpc(), _ErrorToStatus()), options=limits)
    add_GRPCInferenceServiceServicer_to_server(InferenceServicer(dataplane, repository), server)
    server.add_insecure_port(f"[::]:{port}")
    return server


class _ErrorToStatus(ExceptionToStatusInterceptor):
    """kserve's, but what the client did wrong is no error of the server's log: the request's line tells its status."""

    async def handle_exception(self, ex: Exception, request_or_iterator: Any, context: Any, method_name: str) -> None:
        if isinstance(ex, QueueFullError):
            again = (("retry-after", str(ex.retry_after)),)
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, str(ex), again)
        if isinstance(ex, InvalidInput | ModelNotFound):
            kind = grpc.StatusCode.NOT_FOUND if isinstance(ex, ModelNotFound) else grpc.StatusCode.INVALID_ARGUMENT
            await context.abort(kind, ex.reason)
        await super().handle_exception(ex, request_or_iterator, context, method_name)


class ClosedRepository(ModelRepositoryExtension):
    """Refuses to load or unload a model on request (400, INVALID_ARGUMENT): anybody who reaches the port may ask."""

    async def load(self, model_name: str) -> None:
        raise InvalidInput("models are not loaded on request; the server follows the champion")

    async def unload(self, model_name: str) -> None:
        raise InvalidInput("models are not unloaded on request; stop the server instead")


def _error(status: int, message: str, headers: Any = None) -> JSONResponse:
    """One line, which may quote anything that a client sent."""
    line = " ".join(message.encode("utf-8", "backslashreplace").decode().split())
    return JSONResponse({"error": line}, status_code=status, headers=headers)


async def _invalid(_: Any, error: Any) -> JSONResponse:
    return _error(400, str(error))


async def _not_found(_: Any, error: Any) -> JSONResponse:
    return _error(404, str(error))


async def _malformed(_: Any, error: Any) -> JSONResponse:
    first_problem = error.errors()[0]
    where = ".".join(str(part) for part in first_problem["loc"])
    return _error(400, f"the request is malformed at {where}: {first_problem['msg']}")


async def _refused(_: Any, error: Any) -> JSONResponse:
    return _error(error.status_code, str(error.detail), error.headers)


async def _not_offered(_: Any, error: Any) -> JSONResponse:
    return _error(404, "the server does not offer this")  # kserve: 501, as if it should


async def _busy(_: Any, error: Any) -> JSONResponse:
    return _error(429, str(error), {"Retry-After": str(error.retry_after)})
