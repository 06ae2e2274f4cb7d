"""Processes that a run starts end with it, whatever ends it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

if not Path("/proc/self/environ").exists():
    pytest.skip("needs /proc", allow_module_level=True)

# Starts a process that starts a process, each in a session of its own, and says the last one's number.
_RUN = """
import subprocess, sys, time
from pipelines.local_services import no_survivors
grandchild = "import subprocess; print(subprocess.Popen(['sleep', '600'], start_new_session=True).pid, flush=True)"
with no_survivors():
    started = subprocess.Popen([sys.executable, "-c", grandchild], stdout=subprocess.PIPE, start_new_session=True)
    print(int(started.stdout.readline()), flush=True)
    sys.stdin.readline()
"""


@pytest.mark.parametrize("end", ["the block ends", signal.SIGTERM, signal.SIGKILL])
def test_a_grandchild_ends_with_the_run(end: str | signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", _RUN], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as run:
        assert run.stdin
        assert run.stdout
        grandchild = int(run.stdout.readline())
        assert is_running(grandchild)
        if isinstance(end, signal.Signals):
            run.send_signal(end)
        else:
            run.stdin.write(b"\n")
            run.stdin.flush()
        run.wait(30)
    deadline = time.monotonic() + 30
    while is_running(grandchild):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def is_running(number: int) -> bool:
    try:
        return "(sleep) Z" not in Path(f"/proc/{number}/stat").read_text(encoding="utf-8")
    except OSError:
        return False


def test_what_was_running_before_goes_on() -> None:
    with subprocess.Popen(["sleep", "600"]) as other:
        try:
            run = subprocess.run([sys.executable, "-c", _RUN], input=b"\n", capture_output=True, timeout=60)
            assert run.returncode == 0
            assert is_running(other.pid)
        finally:
            os.kill(other.pid, signal.SIGKILL)
