"""Calibration: splits against plain sorting, error rates by simulation, the stored null against the exact test."""

import numpy as np
import pytest
from scipy.stats import binom, kstest

from components.drift.calibration import (
    ENOUGH,
    Layout,
    Splits,
    Tails,
    permutation_test,
    stored_null,
    stored_test,
)
from components.drift.statistics import Sample, named, quantiles_of
from components.drift.window import Window

STATISTIC = named("sliced_wasserstein")
LAYOUT = Layout(2, 1)


def draws(generator: np.random.Generator, rows: int) -> np.ndarray:
    """Skewed, correlated, with ties: nothing that the calibration may lean on."""
    values = generator.exponential(size=(rows, 4))
    values[:, 1] = np.round(values[:, 1])
    values[:, 3] += values[:, 0]
    return values.astype(np.float32)


def plainly(rows: np.ndarray) -> Sample:
    """Columns 0 and 1 are slices, 2 is the head, 3 is a further slice."""
    return Sample(rows[:, [0, 1, 3]].mean(axis=0), quantiles_of(rows[:, :2]), quantiles_of(rows[:, 2:3]))


def assert_same(found: Sample, expected: Sample) -> None:
    np.testing.assert_allclose(found.means, expected.means, rtol=1e-4)
    np.testing.assert_array_equal(found.slices, expected.slices)
    np.testing.assert_array_equal(found.head, expected.head)


@pytest.mark.parametrize("rows", [1, 20, 69])
def test_splits_are_those_of_plain_sorting(rows: int) -> None:
    pooled = draws(np.random.default_rng(0), 70)
    splits, again = Splits(pooled, rows, LAYOUT, np.random.default_rng(1)), np.random.default_rng(1)
    orders = [np.arange(70), *(again.permutation(70) for _ in range(4))]
    for first, second in [splits.observed(), *(splits.random() for _ in range(4))]:
        order = orders.pop(0)
        assert_same(first, plainly(pooled[order[:rows]]))
        assert_same(second, plainly(pooled[order[rows:]]))


def test_evidence_by_hand() -> None:
    tails = Tails.fit(np.array([[0.0, 1.0, 5.0], [8.0, 27.0, 5.0]]))
    assert tails.mean.tolist() == pytest.approx([1, 2, 5 ** (1 / 3)])
    # At its mean a family has a tail of one half; a family that does not vary has a tail of one.
    weights = (0.6, 0.3, 0.1)
    assert tails.evidence(np.array([1.0, 8.0, 99.0]), weights) == pytest.approx(np.log(0.6 / 0.5))
    # Two deviations up in the second family alone: a tail of 0.0228.
    assert tails.evidence(np.array([1.0, 64.0, 5.0]), weights) == pytest.approx(np.log(0.3 / 0.02275), abs=1e-3)


def test_permutation_p_values_are_uniform_under_no_drift() -> None:
    """Reference and window are drawn together, at a size where nothing is normal yet."""
    generator = np.random.default_rng(8)
    windows = [draws(generator, 60) for _ in range(200)]
    p = np.array([permutation_test(w[:20], w[20:], LAYOUT, STATISTIC, 199, 5).p_value for w in windows])
    for level in (0.05, 0.2):
        assert binom.ppf(0.001, len(p), level) <= np.sum(p <= level) <= binom.ppf(0.999, len(p), level)


def test_a_clear_p_value_stops_early_and_a_small_one_uses_every_permutation() -> None:
    generator = np.random.default_rng(2)
    known, window = draws(generator, 300), draws(generator, 60)
    quiet = permutation_test(window, known, LAYOUT, STATISTIC, 999, 5)
    assert quiet.draws < 999
    assert quiet.p_value == ENOUGH / quiet.draws
    drifted = permutation_test(window + 1, known, LAYOUT, STATISTIC, 999, 5)
    assert (drifted.p_value, drifted.draws) == (1 / 1000, 999)


def test_a_window_that_repeats_one_row_is_far_from_the_reference() -> None:
    known = draws(np.random.default_rng(3), 300)
    assert permutation_test(np.repeat(known[:1], 60, axis=0), known, LAYOUT, STATISTIC, 199, 5).p_value == 1 / 200


def test_constant_rows_are_no_drift() -> None:
    constant = np.full((150, 4), 0.1, dtype=np.float32)
    assert permutation_test(constant[:60], constant[60:], LAYOUT, STATISTIC, 199, 5).p_value == 1


def test_the_stored_null_holds_its_level_at_every_size() -> None:
    """A new reference for each row of p-values: with a large window the test is about the reference's own error."""
    generator = np.random.default_rng(6)
    by_reference = []
    for _ in range(80):
        known = draws(generator, 200)
        null = stored_null(known, LAYOUT, STATISTIC, 199, 5)
        windows = [(n, plainly(draws(generator, n))) for n in (1000, 4000, 20_000)]
        tests = [stored_test(window, plainly(known), (n, 200), STATISTIC, null) for n, window in windows]
        by_reference.append([test.p_value for test in tests])
    for p in np.array(by_reference).T:
        assert kstest(p, "uniform").pvalue > 0.001
        assert np.sum(p <= 0.05) <= binom.ppf(0.999, len(p), 0.05)


def test_both_calibrations_agree_where_they_hand_over() -> None:
    """Their p-values differ by what a thousand draws leave open, not in one direction."""
    generator = np.random.default_rng(7)
    known = draws(generator, 2000)
    null = stored_null(known, LAYOUT, STATISTIC, 999, 5)
    ratios = []
    for shift in (0.05, 0.06, 0.07, 0.08) * 2:
        window = draws(generator, 1000) + np.float32(shift)
        stored = stored_test(plainly(window), plainly(known), (1000, 2000), STATISTIC, null)
        exact = permutation_test(window, known, LAYOUT, STATISTIC, 999, 5)
        ratios.append(stored.p_value / exact.p_value)
        assert stored.chance.mean() == pytest.approx(exact.chance.mean(), rel=0.4)
    assert 0.6 < np.exp(np.mean(np.log(ratios))) < 1.6


def test_a_large_window_keeps_its_means_its_quantiles_and_a_bounded_sample() -> None:
    rows = np.clip(np.random.default_rng(9).normal(size=(50_000, 4)), -6, 6).astype(np.float32)
    window = Window(LAYOUT, 6.0, 1000, 5)
    for chunk in np.array_split(rows, 7):
        window.add(chunk)
    assert window.rows == 50_000
    found, expected = window.summary(), plainly(rows)
    np.testing.assert_allclose(found.means, expected.means, atol=1e-5)
    np.testing.assert_allclose(found.slices, expected.slices, atol=6 / 4096 + 1e-6)
    np.testing.assert_allclose(found.head, expected.head, atol=6 / 4096 + 1e-6)
    assert len(window.kept) < 3000
    assert kstest(window.kept[:, 1], "norm").pvalue > 0.001


def test_a_small_window_is_kept_as_it_is() -> None:
    rows = draws(np.random.default_rng(9), 120)
    window = Window(LAYOUT, 6.0, 120, 5)
    for chunk in np.array_split(rows, 3):
        window.add(chunk)
    assert not window.sampled
    np.testing.assert_array_equal(window.kept, rows)
    assert_same(window.summary(), plainly(rows))
