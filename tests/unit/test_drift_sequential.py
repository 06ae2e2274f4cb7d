"""The false-retrain budget: the bet, the evidence and the bar, against integrals and simulated years."""

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import binom

from components.drift.sequential import START, bar, bet, update


def test_a_bet_on_a_uniform_p_value_is_fair() -> None:
    # Integrated over log p, where it has no pole.
    mean, _ = quad(lambda x: bet(np.exp(x)) * np.exp(x), -200, 0)
    assert mean == pytest.approx(1, abs=1e-6)


def test_a_smaller_p_value_bets_more_and_a_p_value_of_one_loses() -> None:
    bets = [bet(p) for p in (1e-4, 1e-3, 0.01, 0.1, 1.0)]
    assert bets == sorted(bets, reverse=True)
    assert bets[-1] < 1


def test_evidence_forgets_what_is_below_one_and_multiplies_the_rest() -> None:
    assert update(START, 0.01) == bet(0.01)
    assert update(0.3, 0.01) == bet(0.01)
    assert update(7.0, 0.01) == pytest.approx(7 * bet(0.01))


@pytest.mark.parametrize("granularity", [0, 1000])
@pytest.mark.parametrize(("budget", "checks"), [(0.2, 100), (0.05, 500)])
def test_the_bar_holds_its_budget_and_spends_most_of_it(budget: float, checks: int, granularity: int) -> None:
    """Simulated years of uniform p-values, and of those of a permutation test, which never are below 1 / 1000."""
    years = 20_000
    p = 1 - np.random.default_rng(4).random((checks, years))
    if granularity:
        p = np.ceil(p * granularity) / granularity
    bets = bet(1.0) * p ** (np.log(bet(0.1) / bet(1.0)) / np.log(0.1))
    evidence, alarmed = np.full(years, START), np.zeros(years, dtype=bool)
    for checked in bets:
        evidence = np.maximum(evidence, 1) * checked
        alarmed |= evidence >= bar(budget, checks)
    assert alarmed.sum() <= binom.ppf(0.999, years, budget)
    assert alarmed.mean() >= (0.6 if not granularity else 0.25) * budget


def test_the_bar_of_a_year_of_hourly_checks_is_far_below_that_of_doobs_inequality() -> None:
    assert 8760 / 0.01 / 20 < bar(0.01, 8760) < 8760 / 0.01 / 4


def test_the_bar_rises_with_the_checks_and_falls_with_the_budget() -> None:
    assert bar(0.01, 24) < bar(0.01, 8760) < bar(0.001, 8760)
