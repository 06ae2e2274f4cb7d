"""A process that forks batch workers and kills them.

A line on stdin asks for a race: {"bucket", "kill": a worker each, the seconds after which it is killed, 0 for never}.
A line on stdout answers, once all have ended: {"killed": how many were killed, "done": how many scored everything,
"seconds": how long it took}. Asked for {"bucket", "watch": true}, a worker watches until it is told to end on stdin,
and the answer is {"exit": what it ended with}.
"""

import json
import os
import signal
import sys
import time
from typing import Any

import torch

from components.batch.prefix import score_prefix, watch
from components.classifier.classifier import Classifier
from components.config import BatchSettings
from components.storage import ObjectStore

SETTINGS = BatchSettings(chunk_rows=5, embedding_rows=12, poll_seconds=0.1)


def worker(store: ObjectStore, classifier: Classifier, watches: bool) -> int:
    """Fork a process that scores the bucket and ends with 0; its id."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            if watches:
                watch(store, classifier, SETTINGS)
            else:
                score_prefix(store, classifier, SETTINGS)
            status = 0
        finally:
            os._exit(status)
    return child


def race(store: ObjectStore, classifier: Classifier, kill: list[float]) -> dict[str, Any]:
    started = time.monotonic()
    # Each is killed at its time, whatever becomes of the others.
    left = {worker(store, classifier, False): seconds for seconds in kill}
    killed = done = 0
    while left:
        for child, seconds in list(left.items()):
            if seconds and time.monotonic() - started > seconds:
                os.kill(child, signal.SIGKILL)
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                del left[child]
                killed += os.WIFSIGNALED(status)
                done += status == 0
        time.sleep(0.001)
    return {"killed": killed, "done": done, "seconds": time.monotonic() - started}


def watched(store: ObjectStore, classifier: Classifier) -> dict[str, Any]:
    child = worker(store, classifier, True)
    sys.stdin.readline()
    os.kill(child, signal.SIGTERM)
    return {"exit": os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}


if __name__ == "__main__":
    torch.set_num_threads(1)  # threads do not outlive a fork
    loaded = Classifier.load(sys.argv[1])
    for line in sys.stdin:
        asked = json.loads(line)
        of = ObjectStore(asked["bucket"])  # connects in the child
        print(json.dumps(watched(of, loaded) if "watch" in asked else race(of, loaded, asked["kill"])), flush=True)
