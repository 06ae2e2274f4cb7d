"""What 10 million and 1 billion texts a day would take, worked out from measured figures.

    python benchmarks/scale.py
    python benchmarks/scale.py --tokens 12000 --core-price 0.03

Nothing is measured here. The defaults are what the other benchmarks printed on one machine (docs/log.md) and prices of
the order that the large clouds ask; give your own. Prints the tables of docs/scale.md.
"""

import argparse
from dataclasses import dataclass

from intervals import table

DAY = 86_400
MONTH = 30
VOLUMES = {"10 million": 10_000_000, "1 billion": 1_000_000_000}


@dataclass(frozen=True)
class Figures:
    """Measured, and asked for."""

    tokens: float
    """Tokens a core scores in a second (benchmarks/scoring.py)."""
    length: float
    """Tokens of a text."""
    plumbing: float
    """Microseconds of a core for a row of batch scoring without the model (benchmarks/batch.py)."""
    busy: float
    """Share of its time that a core is planned to be busy: the rest is for failures and bursts."""
    peak: float
    """Requests in the busiest hour against those in the mean one."""
    cores: int
    """Cores of a node that are left for the work."""
    core_price: float
    """Dollars an hour."""
    storage_price: float
    """Dollars a GB and month."""
    characters: float
    """Bytes of a text."""


def main() -> None:
    """Work out, print."""
    figures = _figures()
    print(f"A core scores {figures.tokens / figures.length:,.0f} texts of {figures.length:.0f} tokens a second.\n")
    names = ("texts a day", "texts a second", "cores", "nodes", "dollars a day", "dollars a million texts")
    for title, factor, row in (
        ("Batch, spread over the day", 1.0, figures.plumbing),
        (f"Served, for a busiest hour of {figures.peak:g} times the mean", figures.peak, 0.0),
    ):
        lines = [_line(name, count, factor, row, figures) for name, count in VOLUMES.items()]
        print(f"{title}\n\n{table(names, lines)}\n")
    lines = [(name, *_stored(count, figures)) for name, count in VOLUMES.items()]
    columns = ("texts a day", "GB of predictions a day", "dollars to keep a month's", "objects of 100,000 rows")
    print(table(columns, lines))


def _line(name: str, count: int, factor: float, row: float, figures: Figures) -> tuple[str, ...]:
    a_text = figures.length / figures.tokens + row / 1e6  # core seconds
    cores = count * factor * a_text / DAY / figures.busy
    dollars = cores * 24 * figures.core_price
    nodes = -(-cores // figures.cores)
    a_million = dollars / count * 1e6
    return name, f"{count * factor / DAY:,.0f}", f"{cores:,.1f}", f"{nodes:,.0f}", f"{dollars:,.0f}", f"{a_million:.2f}"


def _stored(count: int, figures: Figures) -> tuple[str, ...]:
    gigabytes = count * figures.characters / 1e9
    kept = gigabytes * MONTH * figures.storage_price
    return f"{gigabytes:,.1f}", f"{kept:,.0f}", f"{count / 100_000:,.0f}"


def _figures() -> Figures:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--tokens", type=float, default=7560, help="tokens a core scores in a second (default: %(default)s)")
    add("--length", type=float, default=123, help="tokens of a text (default: %(default)s)")
    add("--plumbing", type=float, default=80, help="microseconds a batch row without the model (default: %(default)s)")
    add("--busy", type=float, default=0.6, help="share of its time that a core is busy (default: %(default)s)")
    add("--peak", type=float, default=3, help="busiest hour against the mean one (default: %(default)s)")
    add("--cores", type=int, default=30, help="cores of a node left for the work (default: %(default)s)")
    add("--core-price", type=float, default=0.04, help="dollars a core and hour (default: %(default)s)")
    add("--storage-price", type=float, default=0.023, help="dollars a GB and month (default: %(default)s)")
    add("--characters", type=float, default=700, help="bytes of a text and its prediction (default: %(default)s)")
    return Figures(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
