"""Two classifiers on the same rows: is one better, and how much worse may it be?

Only the rows that one gets right and the other wrong say anything: `won` by the challenger, `lost` by it.
"""

from math import ceil, sqrt

from scipy.optimize import brentq
from scipy.stats import binomtest, norm

_POWER = 0.9


def mcnemar(won: int, lost: int) -> float:
    """Exact one-sided p-value that the challenger is no better (McNemar 1947); 1 if the two never differ."""
    discordant = won + lost
    if discordant == 0:
        return 1.0
    return float(binomtest(won, discordant, 0.5, alternative="greater").pvalue)


def largest_loss(won: int, lost: int, rows: int, level: float) -> float:
    """Upper confidence bound, at `level` one-sided, of the accuracy lost: P(lost) - P(won), from -1 to 1.

    The score interval of Tango 1998, "Equivalence test and confidence interval for the difference in proportions for
    the paired-sample design": right for few discordant rows and for none at all.
    """
    if lost == rows:
        return 1.0
    z = float(norm.isf(level))
    observed = (lost - won) / rows
    return float(brentq(lambda loss: _score(loss, won, lost, rows) + z, observed, 1 - 1e-9))


def can_tell(won: int, lost: int, rows: int, margin: float, level: float) -> bool:
    """Whether so many rows would show a loss within `margin` nine times in ten, were the two equally good.

    Equally good models that differ on as many rows as these do lose more of them than they win by chance.
    """
    discordant = won + lost
    unlucky = min(discordant, ceil((discordant + float(norm.ppf(_POWER)) * sqrt(discordant)) / 2))
    return largest_loss(discordant - unlucky, unlucky, rows, level) <= margin


def _score(loss: float, won: int, lost: int, rows: int) -> float:
    """Tango's standardised distance of the observed loss from `loss`; falls as `loss` grows."""
    b = -lost - won + (2 * rows - lost + won) * loss
    c = -won * loss * (1 - loss)
    share_won = (sqrt(max(b * b - 8 * rows * c, 0.0)) - b) / (4 * rows)
    variance = rows * (2 * share_won + loss * (1 - loss))
    distance = lost - won - rows * loss
    return distance / sqrt(variance) if variance > 0 else 0.0
