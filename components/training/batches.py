"""Batches of training texts of similar length, so that little of the work is padding."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

_LENGTH_STEP = 4  # tokens: texts within one step count as equally long and are shuffled among each other


def epoch_batches(
    lengths: Sequence[int], batch_size: int, generator: np.random.Generator
) -> Iterator[NDArray[np.int64]]:
    """Every index of `lengths` exactly once, in batches of similar length, in random order."""
    steps = np.asarray(lengths) // _LENGTH_STEP
    order = np.lexsort((generator.random(len(lengths)), steps))
    starts = np.arange(0, len(order), batch_size)
    generator.shuffle(starts)
    for start in starts:
        yield order[start : start + batch_size]
