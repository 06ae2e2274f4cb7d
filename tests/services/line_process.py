"""A Python process that answers JSON lines with JSON lines, for tests that kill what it forks."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class LineProcess:
    """Its end of the conversation."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._stdin, self._stdout = process.stdin, process.stdout

    def say(self, asked: dict[str, Any]) -> None:
        """Ask, and do not wait."""
        print(json.dumps(asked), file=self._stdin, flush=True)

    def hear(self) -> dict[str, Any]:
        """Wait for the next answer."""
        return dict(json.loads(self._stdout.readline()))

    def ask(self, asked: dict[str, Any]) -> dict[str, Any]:
        self.say(asked)
        return self.hear()

    def close(self) -> None:
        self._stdin.close()


@contextlib.contextmanager
def line_process(script: str, *arguments: str, temporary: Path) -> Iterator[LineProcess]:
    """A script beside this file, with its temporary files in `temporary`: what is killed leaves its own behind."""
    here = Path(__file__)
    with subprocess.Popen(
        [sys.executable, str(here.with_name(script)), *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True, cwd=here.parents[2], env=os.environ | {"TMPDIR": str(temporary)},
    ) as process:  # fmt: skip
        talk = LineProcess(process)
        yield talk
        talk.close()
