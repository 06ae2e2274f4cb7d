"""What a step costs, in an artifact of its own.

Not in the model folder: equal weights and settings are one model version, however long it took to make it.
"""

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from components.files import write_json


@dataclass(frozen=True)
class Cost:
    """`cpu_seconds`: of the process and of its children that have ended, over all cores. `gpu_seconds`: for which a
    GPU was held, busy or not, over all GPUs: what is paid for."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    gpu_seconds: float = 0.0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            self.seconds + other.seconds, self.cpu_seconds + other.cpu_seconds, self.gpu_seconds + other.gpu_seconds
        )


@contextlib.contextmanager
def measured(path: str | Path) -> Iterator[None]:
    """Write what the block costs this process to `path`, as JSON; nothing if the block fails."""
    started, cpu = time.monotonic(), sum(os.times()[:4])
    yield
    seconds = time.monotonic() - started
    write_json(path, asdict(Cost(seconds, sum(os.times()[:4]) - cpu, seconds * _gpus_in_use())))


def _gpus_in_use() -> int:
    """GPUs on which this process has held memory; torch is not loaded only to find that out."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return 0
    return sum(torch.cuda.max_memory_allocated(number) > 0 for number in range(torch.cuda.device_count()))
