"""The watch's evidence: by hand, and how often it is wrong however often one looks."""

from functools import cache

import numpy as np
import pytest

from components.deployment.watch import Tally, evidence_of_worse

evidence = cache(evidence_of_worse)  # which the simulations ask for the same again and again


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
    ever = sum(max(evidence(int(x), int(n - x)) for x, n in zip(row, seen, strict=True)) >= 20 for row in lost)
    assert ever / 400 <= 0.05


LEVEL, LOOK, ALL = 0.05, 50, 10_000


def ever_rolled_back(generator: np.random.Generator, most: int) -> tuple[bool, bool]:
    """(by the tally, by the newest rows alone): whether evidence of one of many looks reaches 1 / LEVEL.

    Of two equal champions: each row is wrong with one of them. Rows and labels come in LOOK at a time, and the rows
    before them can no longer be read.
    """
    lost = generator.random((ALL // LOOK, LOOK)) < 0.5
    tally, by_tally, by_newest = Tally(), False, False
    for look, new_is_wrong in enumerate(lost):
        readable = {f"{look}-{row}": wrong for row, wrong in enumerate(new_is_wrong)}
        due = tally.due(readable, most)
        wrong = np.array([readable[row] for row in due], dtype=bool)
        tally = tally.with_rows(due, ~wrong, wrong)
        by_tally |= evidence(tally.lost, tally.won) >= 1 / LEVEL
        by_newest |= evidence(int(new_is_wrong.sum()), int((~new_is_wrong).sum())) >= 1 / LEVEL
    return by_tally, by_newest


@pytest.mark.parametrize("most", [300, 1000])
def test_the_level_holds_beyond_the_rows_that_one_look_sees(most: int) -> None:
    """Which is what it did not do while each look took the newest rows alone."""
    generator = np.random.default_rng(7)
    by_tally, by_newest = np.mean([ever_rolled_back(generator, most) for _ in range(100)], axis=0)
    assert by_tally <= LEVEL
    assert by_newest > 2 * LEVEL


def test_a_row_is_counted_once_and_no_more_than_the_most() -> None:
    tally = Tally()
    assert tally.due([], 3) == []
    due = tally.due(["a", "b", "a", "c", "d"], 3)
    assert len(set(due)) == 3
    assert tally.due(["d", "c", "b", "a"], 3) == due  # whatever order they are found in
    tally = tally.with_rows(due, np.array([True, False, False]), np.array([False, True, False]))
    assert tally == Tally(tuple(due), lost=1, won=1)
    assert tally.due(["a", "b", "c", "d"], 3) == []
    assert tally.due(["a", "b", "c", "d"], 2) == []  # the setting was lowered
    assert {*due, *tally.due(["a", "b", "c", "d"], 9)} == {"a", "b", "c", "d"}


def test_a_worse_champion_is_still_found_among_more_rows_than_the_most() -> None:
    """All labels come in at once, sorted by source, and only the last source shows it."""
    ids = [f"{source}-{number}" for source in ("movies", "tweets") for number in range(5000)]
    due = Tally().due(ids, 2000)
    worse = np.array([row.startswith("tweets") for row in due])
    assert Tally().with_rows(due, ~worse, np.ones(2000, dtype=bool)).evidence > 1e6
