"""Which row goes into which split: decided by the rows' content and the seed, never by their order."""

import numpy as np
import numpy.typing as npt

TRAIN, VALIDATION, TEST = 0, 1, 2
Integers = npt.NDArray[np.int64]


def assign(
    label: Integers,
    source: Integers,
    given: Integers,
    may_judge: npt.NDArray[np.bool_],
    order: npt.NDArray[np.uint64],
    shares: tuple[float, float],
) -> Integers:
    """The split of each row; every argument but `shares` has shape (rows,).

    label, source: codes to stratify by. given: the split a source fixed, or -1. may_judge: False for rows that may
    only train. order: a pseudo-random number of each row. shares: of validation and of test, from 0 to 1.
    A source with test rows of its own gives no others to the test split.
    """
    splits = np.where(given >= 0, given, TRAIN)
    free = (given < 0) & may_judge
    has_test = np.isin(source, np.unique(source[given == TEST]))
    validation, test = shares
    _cut(splits, free & ~has_test, TEST, test, (order, source, label))
    rest = free & (splits == TRAIN)
    _cut(splits, rest & ~has_test, VALIDATION, validation / (1 - test), (order, source, label))
    _cut(splits, rest & has_test, VALIDATION, validation, (order, source, label))
    return splits


def _cut(
    splits: Integers, among: npt.NDArray[np.bool_], split: int, share: float, keys: tuple[npt.NDArray, ...]
) -> None:
    """Move `share` of the rows `among` to `split`, evenly along the order that `keys` (last first) gives."""
    rows = np.flatnonzero(among)
    rows = rows[np.lexsort(tuple(key[rows] for key in keys))]
    steps = np.floor(np.arange(len(rows) + 1) * min(share, 1.0) + 0.5)
    splits[rows[np.diff(steps) > 0]] = split


def replay_sample(label: Integers, source: Integers, order: npt.NDArray[np.uint64], wanted: int) -> Integers:
    """Numbers of at most `wanted` rows, as evenly as possible over label and source, pseudo-random within each."""
    rows = np.lexsort((order, source, label))
    changes = np.r_[True, (np.diff(label[rows]) != 0) | (np.diff(source[rows]) != 0)][: len(rows)]
    begins = np.maximum.accumulate(np.where(changes, np.arange(len(rows)), 0))
    rank = np.arange(len(rows)) - begins
    return rows[np.lexsort((order[rows], rank))][:wanted]
