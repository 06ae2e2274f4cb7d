"""A process that forks for every check it is asked for, and can kill the check at any of its writes.

A line on stdin asks for a check: {"bucket", "kfp", "at", "kill": number of the write that is not made any more, 0 for
none}. A line on stdout answers, once the check has ended: {"killed": whether it was, "writes": how many it had made}.
"""

import json
import os
import signal
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from stream_samples import SETTINGS

from components.storage import ObjectStore
from pipelines.cluster_runner import ClusterRuns
from pipelines.drift_check import check


class MortalStore(ObjectStore):
    """Kills its process, as kill -9 would, in place of the `last`th write."""

    def __init__(self, bucket: str, last: int) -> None:
        super().__init__(bucket)
        self.last, self.writes = last, 0

    def _write(self) -> None:
        self.writes += 1
        if self.writes == self.last:
            os.kill(os.getpid(), signal.SIGKILL)

    def put(self, key: str, content: bytes, **conditions: Any) -> str:
        self._write()
        return super().put(key, content, **conditions)

    def publish(self, path: str | Path, key: str, metadata: dict[str, str], **conditions: Any) -> None:
        self._write()
        super().publish(path, key, metadata, **conditions)

    def upload(self, path: str | Path, key: str) -> None:
        self._write()
        super().upload(path, key)


def forked(asked: dict[str, Any]) -> dict[str, Any]:
    """Fork, check in the child, and say how it ended."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        store = MortalStore(asked["bucket"], asked["kill"])
        check(store, "sentiment", SETTINGS, ClusterRuns(asked["kfp"]), at=datetime.fromisoformat(asked["at"]))
        os.write(writing, str(store.writes).encode())
        os._exit(0)
    os.close(writing)
    _, status = os.waitpid(child, 0)
    with os.fdopen(reading) as said:
        writes = said.read()
    return {"killed": os.WIFSIGNALED(status), "writes": int(writes or 0)}


if __name__ == "__main__":
    torch.set_num_threads(1)  # threads do not outlive a fork
    for line in sys.stdin:
        print(json.dumps(forked(json.loads(line))), flush=True)
