"""Each request for predictions from its first byte to its last: its id, its log line, its metrics, its end.

Over HTTP an ASGI middleware, over gRPC an interceptor. Both also see to it that nothing goes on being computed for a
client that has gone: they cancel the handler, and with it what it waits for.
"""

import asyncio
import re
import time
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import grpc
from grpc_interceptor.server import AsyncServerInterceptor
from starlette.exceptions import HTTPException

from components import logs
from serving import metrics

ID_HEADER = "x-request-id"
_CLIENT_GONE = 499  # as nginx counts it; nobody receives it
_CARRIED = re.compile(r"[!-~]{1,128}")  # an id that fits into a header and a log line as it is
_ROUTES = (("v1", re.compile(r"/v1/models/[^/]+:predict")), ("v2", re.compile(r"/v2/models/.+/infer", re.DOTALL)))
UPLOAD = "/page/table"  # its bodies have a limit of their own

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


@dataclass
class Observed:
    """What is known of one request so far."""

    protocol: str
    id: str = ""
    """The client's, or one that is made up when the request is first answered."""
    start: float = field(default_factory=time.monotonic)
    fields: dict[str, Any] = field(default_factory=dict)
    """Of its log line; never the text of a review."""

    @classmethod
    def begin(cls, protocol: str) -> "Observed":
        """From now on it is the one that the running handler answers; `end` must follow."""
        metrics.IN_FLIGHT.labels(protocol).inc()
        observed = cls(protocol)
        _current.set(observed)
        return observed

    def name(self, wanted: Any) -> None:
        """Adopt the id that the client gave, unless it gave another before or it cannot be carried."""
        if not self.id and isinstance(wanted, str) and _CARRIED.fullmatch(wanted):
            self.id = wanted

    def answer_id(self) -> str:
        self.id = self.id or str(uuid.uuid4())
        return self.id

    def end(self, status: str) -> None:
        """Log and count it."""
        seconds = time.monotonic() - self.start
        metrics.IN_FLIGHT.labels(self.protocol).dec()
        metrics.REQUESTS.labels(self.protocol, status).inc()
        metrics.LATENCY.labels(self.protocol).observe(seconds)
        logs.event(
            "request", id=self.answer_id(), protocol=self.protocol, status=status, seconds=round(seconds, 6),
            **self.fields,
        )  # fmt: skip


_current: ContextVar[Observed | None] = ContextVar("observed", default=None)


def current() -> Observed:
    """The request that the running handler answers."""
    return _current.get(None) or Observed("none")


class ObservedHttp:
    """The ASGI middleware. Requests that are not for predictions pass through it, but none is larger than allowed."""

    def __init__(self, app: Callable[[Message, Receive, Send], Awaitable[None]], most_megabytes: int) -> None:
        self._app = app
        self._most_megabytes = most_megabytes

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        protocol = _protocol(scope["path"]) if scope["type"] == "http" else None
        if scope["type"] == "http" and scope["path"] != UPLOAD:
            receive = _limited(receive, self._most_megabytes)
        if protocol is None:
            return await self._app(scope, receive, send)
        observed = Observed.begin(protocol)
        observed.name(dict(scope["headers"]).get(ID_HEADER.encode(), b"").decode("latin-1"))
        status, left_early = _CLIENT_GONE, False

        async def receive_whole() -> Message:
            nonlocal left_early
            message = await receive()
            left_early = left_early or (message["type"] == "http.disconnect" and status == _CLIENT_GONE)
            return message

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), (ID_HEADER.encode(), observed.answer_id().encode())]
            await send(message)

        try:
            await _while_connected(
                lambda watched: self._app(scope, watched, send_with_id), receive_whole, lambda: status
            )
        finally:
            observed.end(str(_CLIENT_GONE if left_early else status))


def _protocol(path: str) -> str | None:
    return next((name for name, route in _ROUTES if route.fullmatch(path)), None)


def _limited(receive: Receive, most_megabytes: int) -> Receive:
    """`receive`, but a body that is larger is a 413 as soon as so much of it has been read."""
    left = most_megabytes << 20

    async def receive_limited() -> Message:
        nonlocal left
        message = await receive()
        left -= len(message.get("body", b""))
        if left < 0:
            raise HTTPException(413, f"the request is larger than {most_megabytes} MB")
        return message

    return receive_limited


async def _while_connected(
    handle: Callable[[Receive], Awaitable[None]], receive: Receive, status: Callable[[], int]
) -> None:
    """Run the handler, but cancel it if the client goes away before `status` says that the answer has begun."""
    handler = asyncio.current_task()
    assert handler is not None
    watcher: asyncio.Task[None] | None = None
    gone = False

    async def watch() -> None:
        nonlocal gone
        while (await receive())["type"] != "http.disconnect":
            pass
        if status() == _CLIENT_GONE:
            gone = True
            handler.cancel()

    async def receive_then_watch() -> Message:
        nonlocal watcher
        message = await receive()
        if message["type"] == "http.request" and not message.get("more_body"):
            watcher = asyncio.create_task(watch())
        return message

    try:
        await handle(receive_then_watch)
    except asyncio.CancelledError:
        if not gone:
            raise
        handler.uncancel()
    finally:
        if watcher is not None:
            watcher.cancel()


class ObservedGrpc(AsyncServerInterceptor):
    """The interceptor; grpc itself cancels the handler of a client that has gone."""

    async def intercept(self, method: Callable, request_or_iterator: Any, context: Any, method_name: str) -> Any:
        if not method_name.endswith("/ModelInfer"):
            return await method(request_or_iterator, context)
        observed = Observed.begin("grpc")
        observed.name(dict(context.invocation_metadata()).get(ID_HEADER))
        observed.name(request_or_iterator.id)
        status = grpc.StatusCode.OK
        try:
            await context.send_initial_metadata(((ID_HEADER, observed.answer_id()),))
            return await method(request_or_iterator, context)
        except asyncio.CancelledError:
            status = grpc.StatusCode.CANCELLED
            raise
        except BaseException:
            status = context.code() or grpc.StatusCode.UNKNOWN
            raise
        finally:
            observed.end(status.name)
