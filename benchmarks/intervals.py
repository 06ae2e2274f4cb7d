"""Confidence intervals of shares, and tables."""

from collections.abc import Sequence

from scipy.stats import beta


def clopper_pearson(hits: int, tries: int, confidence: float = 0.95) -> tuple[float, float]:
    """The exact interval of a share."""
    tail = (1 - confidence) / 2
    low = float(beta.ppf(tail, hits, tries - hits + 1)) if hits else 0.0
    high = float(beta.ppf(1 - tail, hits + 1, tries - hits)) if hits < tries else 1.0
    return low, high


def share(hits: int, tries: int, digits: int = 2) -> str:
    """'0.95 (0.91 to 0.98)', or a dash if nothing was tried."""
    if not tries:
        return "-"
    low, high = clopper_pearson(hits, tries)
    return f"{hits / tries:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(str(value) for value in line) + " |" for line in lines)
