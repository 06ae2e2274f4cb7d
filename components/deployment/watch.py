"""The watch after a promotion: is the new champion worse than the one it replaced, on the labels that came in since?"""

from math import exp, log

from scipy.special import betaln
from scipy.stats import beta


def evidence_of_worse(lost: int, won: int) -> float:
    """Evidence, from 0 up, that the previous champion is the better: an e-value, valid whenever one looks.

    lost, won: live labelled rows that only the previous, and only the new champion got right. Were the new one at
    least as good, each such row would be `lost` with a chance of at most 1/2, and the chance that this ever reaches
    1 / level at most `level` (Ville). The likelihood ratio of 1/2 against a share of losses uniform on (1/2, 1), the
    method of mixtures (Robbins 1970); the paired counterpart, for repeated looks, of the promotion's McNemar test.
    """
    upper = beta.logsf(0.5, lost + 1, won + 1)
    logarithm = log(2) + betaln(lost + 1, won + 1) + upper + (lost + won) * log(2)
    return exp(min(logarithm, 700.0))
