"""The watch's evidence: by hand, and how often it is wrong however often one looks."""

import numpy as np
import pytest

from components.deployment.watch import evidence_of_worse


def test_evidence_by_hand() -> None:
    """2 * integral of (2 q)^lost (2 (1 - q))^won over q in (1/2, 1)."""
    assert evidence_of_worse(0, 0) == pytest.approx(1)
    assert evidence_of_worse(1, 0) == pytest.approx(1.5)
    assert evidence_of_worse(0, 1) == pytest.approx(0.5)
    assert evidence_of_worse(2, 0) == pytest.approx(7 / 3)


def test_it_grows_with_proof_and_stays_finite() -> None:
    assert evidence_of_worse(30, 5) > 1000
    assert evidence_of_worse(5, 30) < 0.1
    assert np.isfinite(evidence_of_worse(100_000, 0))


def test_an_equal_champion_is_rolled_back_no_oftener_than_the_level_however_often_one_looks() -> None:
    generator = np.random.default_rng(6)
    lost = np.cumsum(generator.random((400, 300)) < 0.5, axis=1)
    seen = np.arange(1, 301)
    ever = sum(max(evidence_of_worse(int(x), int(n - x)) for x, n in zip(row, seen, strict=True)) >= 20 for row in lost)
    assert ever / 400 <= 0.05
