"""Stands in for the KFP API server: a small HTTP server that keeps the v2beta1 API's shapes and nothing else.

It runs no pipeline. It answers what kfp.Client asks to submit a run and to find it again (healthz, experiments, runs),
stores what was posted, and says that every run is RUNNING until a test says otherwise. Whether a cluster accepts the
pipeline is not tested here; that the compiled pipeline itself runs is tested by the local runner.
"""

import contextlib
import json
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

API = "/apis/v2beta1"


@dataclass
class KfpServer:
    """What was posted, as the API gives it back."""

    url: str = ""
    experiments: list[dict[str, Any]] = field(default_factory=list)
    runs: list[dict[str, Any]] = field(default_factory=list)
    refuse: int = 0
    """Answer everything but healthz with this status, if not 0."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, method: str, path: str, query: dict[str, list[str]], body: dict[str, Any]) -> tuple[int, Any]:
        if path == f"{API}/healthz":
            return 200, {"multi_user": False}
        if self.refuse:
            return self.refuse, {"error": "refused", "code": 7, "message": "refused", "details": []}
        kind, _, one = path.removeprefix(f"{API}/").partition("/")
        stored = {"experiments": self.experiments, "runs": self.runs}[kind]
        if method == "POST":
            return 200, self._create(kind, stored, body)
        if one:
            found = next((item for item in stored if item[f"{kind[:-1]}_id"] == one), None)
            return (200, found) if found else (404, {"error": "not found", "code": 5, "message": "not found"})
        matching = [item for item in stored if _matches(item, query)]
        return 200, {kind: matching, "total_size": len(matching)} if matching else {}

    def _create(self, kind: str, stored: list[dict[str, Any]], body: dict[str, Any]) -> dict[str, Any]:
        made = {f"{kind[:-1]}_id": str(uuid.uuid4()), "created_at": "2026-11-24T12:00:00Z", **body}
        if kind == "runs":
            made |= {"state": "RUNNING", "storage_state": "AVAILABLE"}
        with self.lock:
            stored.append(made)
        return made


def _matches(item: dict[str, Any], query: dict[str, list[str]]) -> bool:
    """The filter's predicates, of which kfp.Client uses EQUALS on a string."""
    predicates = json.loads(query["filter"][0])["predicates"] if "filter" in query else []
    assert all(p["operation"] in ("EQUALS", 1) for p in predicates), predicates
    return all(item.get({"name": "display_name"}.get(p["key"], p["key"])) == p["stringValue"] for p in predicates)


@contextlib.contextmanager
def kfp_server() -> Iterator[KfpServer]:
    kept = KfpServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            parts = urlsplit(self.path)
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else {}
            status, value = kept.answer(self.command, parts.path, parse_qs(parts.query), body)
            content = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = _answer  # noqa: N815

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
