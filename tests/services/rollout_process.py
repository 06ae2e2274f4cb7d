"""A process that forks for every deployment or rollback it is asked for, and can kill it at any of its writes.

A line on stdin asks: {"bucket", "name", "version" (none: roll back), "kill": number of the write that is not made any
more, 0 for none}. Writes are those to Kubernetes, to the object store, and to the registry's aliases and tags. A line
on stdout answers, once it has ended: {"killed": whether it was, "writes": how many it had made}.
"""

import json
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from kubernetes_server import resolve_cluster_names

from components import tracking
from components.config import DeploymentSettings
from components.deployment.deploy import deploy
from components.deployment.kubernetes_api import OneInferenceService
from components.deployment.rollback import rollback
from components.storage import ObjectStore

SETTINGS = DeploymentSettings(steps=(50, 100), watch_seconds=0, ready_seconds=30, probe_seconds=0.01, latency_seconds=5)


class Writes:
    """Kills its process, as kill -9 would, in place of the `last`th write."""

    def __init__(self, last: int) -> None:
        self.last, self.made = last, 0

    def counted(self, write: Callable[..., Any]) -> Callable[..., Any]:
        def counting(*arguments: Any, **named: Any) -> Any:
            self.made += 1
            if self.made == self.last:
                os.kill(os.getpid(), signal.SIGKILL)
            return write(*arguments, **named)

        return counting


def forked(asked: dict[str, Any]) -> dict[str, Any]:
    """Fork, deploy or roll back in the child, and say how it ended."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        writes = Writes(asked["kill"])
        OneInferenceService.apply = writes.counted(OneInferenceService.apply)  # type: ignore[method-assign]
        ObjectStore.put = writes.counted(ObjectStore.put)  # type: ignore[method-assign]
        tracking.set_alias = writes.counted(tracking.set_alias)
        tracking.set_tag = writes.counted(tracking.set_tag)
        store, where = ObjectStore(asked["bucket"]), "everbert/sentiment"
        if asked["version"]:
            version = tracking.version(asked["name"], asked["version"])
            deploy(store, version, inference_service=where, settings=SETTINGS)
        else:
            rollback(store, asked["name"], reason="worse", inference_service=where, settings=SETTINGS)
        os.write(writing, str(writes.made).encode())
        os._exit(0)
    os.close(writing)
    _, status = os.waitpid(child, 0)
    with os.fdopen(reading) as said:
        made = said.read()
    return {"killed": os.WIFSIGNALED(status), "writes": int(made or 0)}


if __name__ == "__main__":
    resolve_cluster_names()
    for line in sys.stdin:
        print(json.dumps(forked(json.loads(line))), flush=True)
