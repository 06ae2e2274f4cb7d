"""Stands in for the KFP API server: a small HTTP server that keeps the v2beta1 API's contract, as far as it is used.

It runs no pipeline. It answers what a submission asks (healthz, pipelines, versions, experiments, runs), refuses what
the real server refuses (unknown fields, a package that is not a pipeline, arguments that it does not declare or lacks,
a name that is taken, a wrong token), stores what was posted, and moves a run along only as a test says: `course`.
Whether a cluster runs the pipeline is not tested here; that the pipeline itself runs is tested by the local runner.
"""

import contextlib
import json
import re
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import kfp_server_api
import yaml
from google.protobuf import json_format
from kfp.kubernetes.kubernetes_executor_config_pb2 import KubernetesExecutorConfig
from kfp.pipeline_spec.pipeline_spec_pb2 import PipelineSpec

API = "/apis/v2beta1/"
MODELS = {
    "pipelines": kfp_server_api.V2beta1Pipeline,
    "experiments": kfp_server_api.V2beta1Experiment,
    "runs": kfp_server_api.V2beta1Run,
}


class RefusedError(Exception):
    """A status and what the server says."""


def read_package(content: str) -> tuple[PipelineSpec, dict[str, KubernetesExecutorConfig]]:
    """A compiled pipeline and what Kubernetes is told of each executor. Raises ParseError for an unknown field."""
    specification, *platform = yaml.safe_load_all(content)
    executors = platform[0]["platforms"]["kubernetes"]["deploymentSpec"]["executors"] if platform else {}
    parsed = {name: json_format.ParseDict(e, KubernetesExecutorConfig()) for name, e in executors.items()}
    return json_format.ParseDict(specification, PipelineSpec()), parsed


def node(name: str, state: str, seconds: float = 0, error: str = "") -> dict[str, Any]:
    """One task detail, as the server gives it; `seconds` after which it ended."""
    times = {"create_time": "2026-11-24T12:00:00Z", "start_time": "2026-11-24T12:00:00Z"}
    end = f"2026-11-24T12:{int(seconds) // 60:02d}:{int(seconds) % 60:02d}Z" if seconds else "1970-01-01T00:00:00Z"
    said = {"error": {"code": 13, "message": error}} if error else {}
    return {"display_name": name, "state": state, **times, "end_time": end, **said}


def at(state: str, *nodes: dict[str, Any]) -> dict[str, Any]:
    """Where a run is: one stage of a `course`."""
    return {"state": state, "run_details": {"task_details": [node("root", state), *nodes]}}


@dataclass
class KfpServer:
    """What was posted, as the API gives it back."""

    url: str = ""
    pipelines: list[dict[str, Any]] = field(default_factory=list)
    versions: list[dict[str, Any]] = field(default_factory=list)
    experiments: list[dict[str, Any]] = field(default_factory=list)
    runs: list[dict[str, Any]] = field(default_factory=list)
    course: list[dict[str, Any]] = field(default_factory=list)
    """What a run becomes, one stage at each look at it."""
    token: str = ""
    """Without this bearer token everything is answered with 401; empty: anybody may."""
    refuse: int = 0
    """Answer everything but healthz with this status, if not 0."""
    refuse_posts: int = 0
    """Answer whatever would change something with this status, if not 0."""
    multi_user: bool = False
    """Experiments, pipelines and runs then belong to a namespace, which must be named."""
    down: int = 0
    """Drop so many connections without an answer."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, method: str, path: str, query: dict[str, str], body: Any, token: str) -> Any:
        """The answer's content. Raises RefusedError."""
        if self.token and token != f"Bearer {self.token}":
            raise RefusedError(401, "Request header error: there is no valid token")
        if path == f"{API}healthz":
            return {"multi_user": self.multi_user}
        refused = self.refuse or (self.refuse_posts if method in ("POST", "DELETE") else 0)
        if refused:
            raise RefusedError(refused, "refused: the user may not do that")
        with self.lock:
            return self._answer(method, path.removeprefix(API), query, body)

    def _answer(self, method: str, path: str, query: dict[str, str], body: Any) -> Any:
        kind, _, one = path.partition("/")
        if path == "pipelines/upload_version":
            return self._upload(query["name"], query["pipelineid"], body)
        if path.endswith("/versions"):
            owned = [v for v in self.versions if v["pipeline_id"] == one.removesuffix("/versions")]
            return _listed("pipeline_versions", owned, query)
        stored = {"pipelines": self.pipelines, "experiments": self.experiments, "runs": self.runs}[kind]
        if not one:
            return self._create(kind, stored, body) if method == "POST" else _listed(kind, stored, query)
        found = next((item for item in stored if item[f"{kind[:-1]}_id"] == one), None)
        if found is None:
            raise RefusedError(404, f"{kind[:-1].title()} {one} not found")
        if method == "DELETE":
            stored.remove(found)
            return {}
        if self.course:
            found.update(self.course.pop(0))
        return found

    def _create(self, kind: str, stored: list[dict[str, Any]], body: dict[str, Any]) -> dict[str, Any]:
        if self.multi_user and kind != "runs" and not body.get("namespace"):
            raise RefusedError(400, "Invalid input error: a namespace is needed in multi-user mode")
        unknown = set(body) - set(MODELS[kind].attribute_map.values())
        if unknown:
            raise RefusedError(400, f"unknown fields {sorted(unknown)}")
        if kind != "runs" and any(item["display_name"] == body["display_name"] for item in stored):
            raise RefusedError(409, f"Already exist error: the name {body['display_name']} already exists")
        made = {f"{kind[:-1]}_id": str(uuid.uuid4()), "created_at": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}", **body}
        if kind == "runs":
            self._check_arguments(made)
            made |= {"state": "PENDING", "storage_state": "AVAILABLE"}
        stored.append(made)
        return made

    def _upload(self, name: str, pipeline: str, content: str) -> dict[str, Any]:
        if any((v["pipeline_id"], v["display_name"]) == (pipeline, name) for v in self.versions):
            raise RefusedError(409, f"Already exist error: the name {name} already exists")
        try:
            specification, platform = read_package(content)
        except (yaml.YAMLError, json_format.ParseError) as error:
            raise RefusedError(400, f"the package is not a pipeline: {error}") from error
        made = {"pipeline_id": pipeline, "pipeline_version_id": str(uuid.uuid4()), "display_name": name}
        self.versions.append(made | {"pipeline_spec": json_format.MessageToDict(specification)})
        assert platform, "a cluster needs to be told of secrets"
        return made

    def version_of(self, run: dict[str, Any]) -> dict[str, Any]:
        wanted = run["pipeline_version_reference"]["pipeline_version_id"]
        return next(v for v in self.versions if v["pipeline_version_id"] == wanted)

    def _check_arguments(self, run: dict[str, Any]) -> None:
        declared = self.version_of(run)["pipeline_spec"]["root"]["inputDefinitions"]["parameters"]
        given = run["runtime_config"]["parameters"]
        needed = {name for name, definition in declared.items() if not definition.get("isOptional")}
        if set(given) - set(declared) or needed - set(given):
            raise RefusedError(
                400, f"undeclared {sorted(set(given) - set(declared))}, lacking {sorted(needed - set(given))}"
            )
        kinds = {"STRING": str, "LIST": list, "STRUCT": dict}
        for name, value in given.items():
            if not isinstance(value, kinds[declared[name]["parameterType"]]):
                raise RefusedError(400, f"parameter {name} is of the wrong type")


def _listed(kind: str, stored: list[dict[str, Any]], query: dict[str, str]) -> dict[str, Any]:
    """A page of those that match; like the real server, no more than page_size at a time, and nothing where none."""
    matching = [item for item in stored if _matches(item, query)]
    first, size = int(query.get("page_token") or 0), int(query.get("page_size") or 10)
    following = {"next_page_token": str(first + size)} if first + size < len(matching) else {}
    return {kind: matching[first : first + size], "total_size": len(matching), **following} if matching else {}


def _matches(item: dict[str, Any], query: dict[str, str]) -> bool:
    """The experiment, and the filter's predicates: EQUALS and NOT_EQUALS on strings."""
    predicates = json.loads(query["filter"])["predicates"] if query.get("filter") else []
    assert all(p["operation"] in ("EQUALS", "NOT_EQUALS") for p in predicates), predicates
    wanted = query.get("experiment_id")
    return wanted in (None, "", item.get("experiment_id")) and all(
        (item.get(p["key"]) == p["stringValue"]) is (p["operation"] == "EQUALS") for p in predicates
    )


def _body(handler: BaseHTTPRequestHandler) -> Any:
    """What was posted: JSON, or the one file of a form."""
    content = handler.rfile.read(int(handler.headers.get("Content-Length") or 0)).decode()
    boundary = re.search(r"boundary=(\S+)", handler.headers.get("Content-Type") or "")
    if boundary:
        return content.split(f"--{boundary[1]}")[1].partition("\r\n\r\n")[2].removesuffix("\r\n")
    return json.loads(content) if content else {}


@contextlib.contextmanager
def kfp_server() -> Iterator[KfpServer]:
    kept = KfpServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            parts, body = urlsplit(self.path), _body(self)
            query = {name: values[0] for name, values in parse_qs(parts.query).items()}
            if kept.down:
                kept.down -= 1
                self.close_connection = True
            elif not parts.path.startswith(API):
                self._send(200, "text/html", "<!doctype html><title>Kubeflow</title>")  # KFP's pages, or a login
            else:
                token = self.headers.get("Authorization") or ""
                try:
                    self._send(200, "application/json", kept.answer(self.command, parts.path, query, body, token))
                except RefusedError as error:
                    status, said = error.args
                    self._send(status, "application/json", {"error": said, "code": 13, "message": said, "details": []})

        def _send(self, status: int, kind: str, value: Any) -> None:
            content = (value if isinstance(value, str) else json.dumps(value)).encode()
            self.send_response(status)
            if status == 302:
                self.send_header("Location", f"{kept.url}/dex/login")
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_DELETE = _answer  # noqa: N815

        def log_message(self, *arguments: Any) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    kept.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield kept
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
