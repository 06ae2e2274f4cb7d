"""Stands in for the Kubernetes API server, KServe's controller and the cluster's network: small, and no more than that.

Of the API it keeps what a roll-out meets: get, watch from a resourceVersion (time-outs, 410 Gone, lost connections),
server-side apply with field managers (conflicts, fields given up are removed), resourceVersion as a condition,
generation, 403, 404, 429 and 500. `kserve_controller.py` plays the controller. Requests to hosts below
svc.cluster.local are answered by the models that the tests put behind the storageUris; each test runs real ones.
Whether a real KServe accepts the fields is tested against its CRD, not here; nothing here starts a pod.
"""

import contextlib
import copy
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from kserve_controller import Controller, Model

Object = dict[str, Any]
_COLLECTION = "/apis/serving.kserve.io/v1beta1/namespaces/everbert/inferenceservices"
_USER = "system:serviceaccount:everbert:everbert-pipeline"


@dataclass
class KubernetesServer:
    """`faults`: what the next request of a verb gets instead of an answer: a status, or for a watch also "gone" (an
    ERROR event), "cut" (half a line) or "ends" (the time is up). `forbidden`: verbs that get 403, always."""

    port: int = 0
    objects: dict[str, Object] = field(default_factory=dict)
    models: dict[str, Model] = field(default_factory=dict)
    faults: dict[str, list[Any]] = field(default_factory=dict)
    forbidden: set[str] = field(default_factory=set)
    requests: list[str] = field(default_factory=list)
    """The verbs of the API requests, in order."""
    asked: dict[str, int] = field(default_factory=dict)
    """Host -> requests for predictions that came in."""
    before_apply: Callable[[Object], None] = lambda applied: None
    loses: Callable[[Object], bool] = lambda applied: False
    """Whether what is applied is answered by 504 all the same."""
    version: int = 100
    changed: threading.Condition = field(default_factory=threading.Condition)

    def __post_init__(self) -> None:
        self.controller = Controller(self)

    def fault(self, verb: str) -> Any:
        return self.faults[verb].pop(0) if self.faults.get(verb) else None

    def write(self, name: str, made: Object) -> Object:
        """Keep a version of the object; call with `changed` held."""
        self.version += 1
        made["metadata"]["resourceVersion"] = str(self.version)
        self.objects[name] = made
        self.changed.notify_all()
        return made

    def put(self, name: str, manager: str, fields: Object) -> Object:
        """What another manager sets, by an update."""
        with self.changed:
            return self._apply(name, manager, "Update", fields, force=True)

    def apply(self, name: str, manager: str, body: Object) -> tuple[int, Object]:
        self.before_apply(body)
        with self.changed:
            live, wanted = self.objects.get(name), body["metadata"].pop("resourceVersion", None)
            if wanted and (live is None or live["metadata"]["resourceVersion"] != wanted):
                return 409, _status(409, "Conflict", f'the object "{name}" has been modified; apply your changes again')
            taken = _conflicts(live, manager, body)
            if taken:
                return 409, _status(409, "Conflict", f"Apply failed with {len(taken)} conflicts", {"causes": taken})
            return (200 if live else 201), self._apply(name, manager, "Apply", body)

    def _apply(self, name: str, manager: str, operation: str, body: Object, *, force: bool = False) -> Object:
        fields = {key: value for key, value in copy.deepcopy(body).items() if key in ("metadata", "spec")}
        named = {key: value for key, value in fields.pop("metadata", {}).items() if key in ("annotations", "labels")}
        fields |= {"metadata": named} if named else {}
        live = self.objects.get(name)
        made = copy.deepcopy(live) if live else {"metadata": {"name": name, "generation": 0}, "spec": {}}
        before = copy.deepcopy(made["spec"])
        owners = _owners(made)
        mine, old = set(_leaves(fields)), owners.pop((manager, operation), set())
        others = set().union(*owners.values()) if owners else set()
        for path in old - mine - others:
            _remove(made, path)
        for path in mine:
            _set(made, path, _value(fields, path))
        owners[(manager, operation)] = mine | (old if operation == "Update" else set())
        made["metadata"]["managedFields"] = [
            {"manager": m, "operation": o, "fieldsV1": _as_fields_v1(paths)} for (m, o), paths in owners.items()
        ]
        if made["spec"] != before:
            made["metadata"]["generation"] += 1
            self.controller.spec_changed(name, made)
        return self.write(name, made)


def _leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Lists are atomic, as spec.canary is."""
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _leaves(item, (*path, key))
    elif path:
        yield path


def _owners(live: Object) -> dict[tuple[str, str], set[tuple[str, ...]]]:
    entries = live["metadata"].get("managedFields", [])
    return {(e["manager"], e["operation"]): set(_from_fields_v1(e["fieldsV1"])) for e in entries}


def _as_fields_v1(paths: set[tuple[str, ...]]) -> Object:
    made: Object = {}
    for path in paths:
        inner = made
        for part in path:
            inner = inner.setdefault(f"f:{part}", {})
    return made


def _from_fields_v1(fields: Object, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, inner in fields.items():
        if inner:
            yield from _from_fields_v1(inner, (*path, key[2:]))
        else:
            yield (*path, key[2:])


def _conflicts(live: Object | None, manager: str, body: Object) -> list[Object]:
    fields, found = {"spec": body["spec"]}, []
    for (other, operation), paths in (_owners(live) if live else {}).items():
        for path in sorted(paths & set(_leaves(fields))):
            if (other, operation) != (manager, "Apply") and _value(live, path) != _value(fields, path):
                said = f'conflict with "{other}" using serving.kserve.io/v1beta1'
                found.append({"reason": "FieldManagerConflict", "message": said, "field": "." + ".".join(path)})
    return found


def _value(inside: Any, path: tuple[str, ...]) -> Any:
    for part in path:
        inside = inside.get(part) if isinstance(inside, dict) else None
    return inside


def _set(inside: Object, path: tuple[str, ...], value: Any) -> None:
    for part in path[:-1]:
        inside = inside.setdefault(part, {})
    inside[path[-1]] = value


def _remove(inside: Object, path: tuple[str, ...]) -> None:
    for part in path[:-1]:
        inside = inside.get(part, {})
    inside.pop(path[-1], None)


def _status(code: int, reason: str, message: str, details: Object | None = None) -> Object:
    return {"kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": message,
            "details": details or {}}  # fmt: skip


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    kept: KubernetesServer

    def _route(self) -> None:
        parts = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else {}
        host = (self.headers.get("Host") or "").partition(":")[0]
        if host.endswith(".svc.cluster.local"):
            self._say(*self.kept.controller.serve(host, parts.path, body))
        elif query.get("watch") in ("true", "True"):
            self._watch(query)
        else:
            self._api(parts.path.removeprefix(_COLLECTION).strip("/"), query, body)

    do_GET = do_POST = do_PATCH = _route  # noqa: N815

    def _api(self, name: str, query: dict[str, str], body: Object) -> None:
        verb = "patch" if self.command == "PATCH" else "get"
        self.kept.requests.append(verb)
        if self._refused(verb):
            return
        if verb == "patch":
            assert self.headers["Content-Type"] == "application/apply-patch+yaml"
            answer = self.kept.apply(name, query["fieldManager"], body)
            lost = (504, _status(504, "Timeout", "try again"))
            self._say(*(lost if self.kept.loses(body) else answer))
        elif name in self.kept.objects:
            self._say(200, self.kept.objects[name])
        else:
            message = f'inferenceservices.serving.kserve.io "{name}" not found'
            self._say(404, _status(404, "NotFound", message, {"name": name}))

    def _refused(self, verb: str) -> bool:
        if verb in self.kept.forbidden:
            said = f'inferenceservices.serving.kserve.io is forbidden: User "{_USER}" cannot {verb} resource'
            self._say(403, _status(403, "Forbidden", said))
            return True
        fault = self.kept.fault(verb)
        if fault:
            self._say(fault, _status(fault, "ServerTimeout", "try again"), {"Retry-After": "0.05"})
        return bool(fault)

    def _watch(self, query: dict[str, str]) -> None:
        kept, name = self.kept, query["fieldSelector"].partition("=")[2]
        kept.requests.append("watch")
        fault = kept.fault("watch")
        if "watch" in kept.forbidden or isinstance(fault, int):
            kept.faults.setdefault("watch", []).insert(0, fault) if fault else None
            self._refused("watch")
            return
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        if fault == "gone":
            self._line({"type": "ERROR", "object": _status(410, "Expired", "too old resource version")})
        elif fault == "cut":
            self._chunk(b'{"type": "MODIFIED", "obj')
            self.close_connection = True
            return
        elif fault != "ends":
            self._events(name, int(query["resourceVersion"]), time.monotonic() + float(query["timeoutSeconds"]))
        self._chunk(b"")

    def _events(self, name: str, seen: int, deadline: float) -> None:
        kept = self.kept
        while time.monotonic() < deadline:
            with kept.changed:
                kept.changed.wait(0.05)
                live = copy.deepcopy(kept.objects.get(name))
            if live and int(live["metadata"]["resourceVersion"]) > seen:
                seen = int(live["metadata"]["resourceVersion"])
                self._line({"type": "MODIFIED", "object": live})

    def _line(self, event: Object) -> None:
        self._chunk(json.dumps(event).encode() + b"\n")

    def _chunk(self, content: bytes) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.wfile.write(f"{len(content):x}\r\n".encode() + content + b"\r\n")
            self.wfile.flush()

    def _say(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        content = value.encode() if isinstance(value, str) else json.dumps(value).encode()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            for header, said in (headers or {}).items():
                self.send_header(header, said)
            self.end_headers()
            self.wfile.write(content)

    def log_message(self, *arguments: Any) -> None:
        """Quiet."""


KUBECONFIG = """
apiVersion: v1
kind: Config
current-context: test
contexts: [{{name: test, context: {{cluster: test, user: test}}}}]
clusters: [{{name: test, cluster: {{server: "http://127.0.0.1:{port}"}}}}]
users: [{{name: test, user: {{token: secret}}}}]
"""


@contextlib.contextmanager
def kubernetes_server() -> Iterator[KubernetesServer]:
    kept = KubernetesServer()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"kept": kept}))
    server.daemon_threads = True
    kept.port = server.server_address[1]
    stop = threading.Event()
    threads = [
        threading.Thread(target=server.serve_forever, daemon=True),
        threading.Thread(target=kept.controller.run, args=(stop,), daemon=True),
    ]
    for thread in threads:
        thread.start()
    try:
        yield kept
    finally:
        stop.set()
        server.shutdown()
        server.server_close()
        for thread in threads:
            thread.join()


def resolve_cluster_names() -> None:
    """In this process, names below svc.cluster.local are this machine; the cluster's DNS does so in a pod."""
    plain = socket.getaddrinfo

    def resolved(host: Any, *arguments: Any, **named: Any) -> Any:
        here = isinstance(host, str) and host.endswith(".svc.cluster.local")
        return plain("127.0.0.1" if here else host, *arguments, **named)

    socket.getaddrinfo = resolved
