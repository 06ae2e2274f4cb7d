"""The processes that train one model together, started by torchrun; one process where nobody started more.

Every process sees the same batches in the same order and takes its part of each; DistributedDataParallel exchanges the
gradients, so the result is that of one process, but for rounding and for dropout, of which each process draws its own.
Who places the processes on machines is torchrun's and the cluster's affair.
"""

import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True)
class Processes:
    """This process's number `rank` among `count`."""

    rank: int = 0
    count: int = 1

    @classmethod
    def join(cls) -> "Processes":
        """Join the others if torchrun started this process (it sets WORLD_SIZE), by NCCL on GPUs and gloo on CPUs."""
        if int(os.environ.get("WORLD_SIZE", "1")) < 2:
            return cls()
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
        return cls(dist.get_rank(), dist.get_world_size())

    @property
    def leads(self) -> bool:
        """The process that writes what there is to write."""
        return self.rank == 0

    def part(self, batch: NDArray[np.int64]) -> NDArray[np.int64]:
        """This process's rows of a batch, maybe none: every `count`th, so that all parts hold texts of like length."""
        return batch[self.rank :: self.count]

    def wrap(self, model: torch.nn.Module, device: torch.device) -> torch.nn.Module:
        """The model in DistributedDataParallel, which averages the gradients of all processes."""
        if self.count == 1:
            return model
        return DistributedDataParallel(model, device_ids=[device] if device.type == "cuda" else None)

    def unsynchronised(self, wrapped: torch.nn.Module, *, last: bool) -> AbstractContextManager[None]:
        """For all backward passes of a step but the last: gradients are exchanged once a step."""
        if isinstance(wrapped, DistributedDataParallel) and not last:
            return wrapped.no_sync()
        return nullcontext()

    def as_the_leader(self, values: dict[str, float]) -> dict[str, float]:
        """The leader's values, in every process: what is decided from them is decided alike."""
        if self.count == 1:
            return values
        told = torch.tensor(list(values.values()), dtype=torch.float64, device=_device())
        dist.broadcast(told, src=0)
        return dict(zip(values, told.tolist(), strict=True))

    def sum(self, value: float) -> float:
        """The sum of all processes' values."""
        if self.count == 1:
            return value
        total = torch.tensor(value, dtype=torch.float64, device=_device())
        dist.all_reduce(total)
        return float(total)

    def leave(self) -> None:
        if self.count > 1:
            dist.destroy_process_group()


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"
