"""Structured logs: one JSON object a line, on stderr, one line an event. Never the text of a review."""

import json
import logging
import sys
import time
from pathlib import Path
from typing import Any

_LOGGER = logging.getLogger("everbert")


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        time_of = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"
        fields = getattr(record, "fields", {})
        line = {"time": time_of, "level": record.levelname.lower(), "event": record.getMessage(), **fields}
        return json.dumps(line, ensure_ascii=False, default=str)


def configure(level: int = logging.INFO, path: Path | None = None) -> None:
    """Send Everbert's events to stderr, or to a file. Called by programs (the command, the server), never on import."""
    handler = logging.StreamHandler(sys.stderr) if path is None else logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(_JsonFormatter())
    _LOGGER.handlers[:] = [handler]
    _LOGGER.setLevel(level)
    _LOGGER.propagate = False


def event(name: str, **fields: Any) -> None:
    """One event, with its fields. A library call: silent until a program calls `configure`."""
    _LOGGER.info(name, extra={"fields": fields})


def warning(name: str, **fields: Any) -> None:
    """One event that somebody should look at."""
    _LOGGER.warning(name, extra={"fields": fields})
