"""The windows of the drift benchmarks: which rows stand in the reference and which in the window, by number.

Only numpy is needed, so that other libraries, in environments of their own, see the very same windows. Reference and
window are drawn anew, together, for every window: a test holds its level over the draw of both, and with one fixed
reference its rate of false alarms would depend on that reference's luck.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

REFERENCE_ROWS = 2000
Numbers = NDArray[np.intp]


@dataclass(frozen=True)
class Cell:
    """One kind of window. `share` of its `n` rows are from `domain`; positive: the share of positive labels, if set."""

    name: str
    n: int
    level: float
    domain: str = ""
    share: float = 0.0
    positive: float = 0.0
    target: float = 0.0
    """Power to aim at."""


POWER = (
    Cell("10 % amazon", 500, 0.01, "amazon", 0.10, target=0.95),
    Cell("10 % tweets", 500, 0.01, "tweets", 0.10, target=0.85),
    Cell("25 % typos", 500, 0.01, "typos", 0.25, target=0.95),
    Cell("label mix 50 -> 65 %", 500, 0.01, positive=0.65, target=0.60),
    Cell("10 % amazon", 100, 0.05, "amazon", 0.10, target=0.50),
)
QUIET_SIZES = (50, 100, 200, 500, 1000)


@dataclass(frozen=True)
class Window:
    """Row numbers: of the pool, for the reference and for the window, and of the cell's domain."""

    reference: Numbers
    own: Numbers
    foreign: Numbers


def draw(cell: Cell, number: int, pool_labels: NDArray, foreign_rows: int) -> Window:
    """Window `number` of a cell: the same number, the same window. Rows are drawn without replacement."""
    generator = np.random.default_rng([number, cell.n, sum(cell.name.encode())])
    order = generator.permutation(len(pool_labels))
    reference, rest = order[:REFERENCE_ROWS], order[REFERENCE_ROWS:]
    if cell.positive:
        # The label mix of the reference is that of the pool, half and half.
        wanted = round(cell.positive * cell.n)
        by_label = rest[pool_labels[rest] == 1][:wanted], rest[pool_labels[rest] == 0][: cell.n - wanted]
        return Window(reference, np.concatenate(by_label), rest[:0])
    others = round(cell.share * cell.n)
    own = rest[others : cell.n]
    if cell.domain == "typos":  # row i is row i of the pool, garbled
        return Window(reference, own, rest[:others])
    return Window(reference, own, generator.permutation(foreign_rows)[:others])
