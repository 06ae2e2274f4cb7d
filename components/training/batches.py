"""Batches of training texts of similar length, so that little of the work is padding."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

_LENGTH_STEP = 4  # tokens: texts within one step count as equally long and are shuffled among each other
Indices = NDArray[np.int64]


def epoch_batches(lengths: Sequence[int], batch_size: int, generator: np.random.Generator) -> list[Indices]:
    """Every index of `lengths` exactly once, in batches of similar length, in random order."""
    steps = np.asarray(lengths) // _LENGTH_STEP
    order = np.lexsort((generator.random(len(lengths)), steps))
    starts = np.arange(0, len(order), batch_size)
    generator.shuffle(starts)
    return [order[start : start + batch_size] for start in starts]


def micro_batches(batch: Indices, lengths: Sequence[int], token_budget: int) -> Iterator[Indices]:
    """`batch` in parts that each hold at most `token_budget` tokens once padded; a single text may hold more.

    The gradient of a batch is the sum of its parts', so that the budget bounds the memory and changes nothing else.
    """
    ordered = batch[np.argsort(np.asarray(lengths)[batch], kind="stable")]
    start = 0
    for end in range(1, len(ordered) + 1):
        if end == len(ordered) or (end + 1 - start) * lengths[ordered[end]] > token_budget:
            yield ordered[start:end]
            start = end
