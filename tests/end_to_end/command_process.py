"""The command `everbert` as a process, and the processes it started."""

import os
import secrets
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

MARK = "EVERBERT_TEST_PROCESS"  # in the environment of the command, so in that of all its descendants


@dataclass
class Command:
    """One call of `everbert`."""

    arguments: tuple[str | Path, ...]
    mark: str = field(default_factory=lambda: f"{MARK}={secrets.token_hex(8)}")

    def start(self, folder: Path | None = None) -> "subprocess.Popen[str]":
        name, _, value = self.mark.partition("=")
        return subprocess.Popen(
            [sys.executable, "-m", "pipelines", *map(str, self.arguments)], cwd=folder, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
            env=os.environ | {"HF_HUB_OFFLINE": "1", name: value},
        )  # fmt: skip

    def running(self) -> list[str]:
        """The command lines of its processes that still run, itself and all descendants."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if self.mark.encode() in (process / "environ").read_bytes().split(b"\0"):
                    found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
            except OSError:  # gone meanwhile, or somebody else's
                continue
        return list(filter(None, found))  # a zombie has no command line


@dataclass(frozen=True)
class Answer:
    code: int
    stdout: str
    stderr: str


def everbert(*arguments: str | Path, seconds: float = 300) -> Answer:
    """Run the command to its end."""
    process = Command(arguments).start()
    try:
        stdout, stderr = process.communicate(timeout=seconds)
    finally:
        process.kill()
        process.wait()
    return Answer(process.returncode, stdout, stderr)


def assert_refused(answer: Answer, said: str) -> None:
    """Exit 2, one line on stderr that says it, nothing on stdout."""
    lines = answer.stderr.strip().splitlines()
    assert (answer.code, len(lines)) == (2, 1), answer.stderr
    assert lines[0].startswith("everbert"), answer.stderr
    assert said in lines[0]
    assert answer.stdout == ""
