"""Progress bars: on stderr, and only where a person watches.

A pipeline step runs in a process of its own whose output is captured. Where the parent has a terminal, it says so
in EVERBERT_TERMINAL (see `share_terminal`) and the step draws its bars there.
"""

import os
import sys
from collections.abc import Iterable
from typing import Any, TextIO, TypeVar

from tqdm import tqdm

T = TypeVar("T")
_TERMINAL = "EVERBERT_TERMINAL"


def share_terminal() -> None:
    """Let child processes whose output is captured draw on this process's terminal, if it has one."""
    if sys.stderr.isatty():
        os.environ[_TERMINAL] = os.ttyname(sys.stderr.fileno())


def progress(
    iterable: Iterable[T] | None = None,
    *,
    description: str,
    total: float | None = None,
    unit: str = "row",
    scale: bool = False,
) -> "tqdm[Any]":
    """A tqdm bar over `iterable`, or one to `update()` by hand; silent where nobody watches."""
    terminal = _terminal()
    return tqdm(
        iterable, desc=description, total=total, unit=unit, unit_scale=scale, file=terminal or sys.stderr,
        disable=terminal is None, dynamic_ncols=True, mininterval=0.2, leave=False,
    )  # fmt: skip


def _terminal() -> TextIO | None:
    if sys.stderr.isatty():
        return sys.stderr
    path = os.environ.get(_TERMINAL)
    if not path:
        return None
    try:
        return open(path, "w", encoding="utf-8")
    except OSError:
        return None
