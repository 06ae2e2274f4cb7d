"""Paired comparisons, against published and simulated values."""

import numpy as np
import pytest

from components.evaluation.paired import can_tell, largest_loss, mcnemar


def test_mcnemar_by_hand() -> None:
    assert mcnemar(5, 0) == pytest.approx(1 / 32)
    assert mcnemar(3, 1) == pytest.approx(5 / 16)
    assert mcnemar(0, 0) == 1.0


@pytest.mark.parametrize(("won", "lost", "rows"), [(0, 1, 44), (1, 0, 44), (12, 20, 300), (60, 8, 278)])
def test_at_the_bound_the_score_is_that_of_the_constrained_likelihood(won: int, lost: int, rows: int) -> None:
    """Tango's closed form against the most likely share of wins, searched for, given that loss."""
    loss = largest_loss(won, lost, rows, 0.025)
    share = np.linspace(max(0.0, -loss), (1 - loss) / 2, 400_001)[1:-1]
    likelihood = won * np.log(share) + lost * np.log(share + loss) + (rows - won - lost) * np.log1p(-2 * share - loss)
    best = share[np.argmax(likelihood)]
    z = (lost - won - rows * loss) / np.sqrt(rows * (2 * best + loss - loss**2))
    assert z == pytest.approx(-1.96, abs=0.01)


def test_no_difference_seen_leaves_room_for_some() -> None:
    """z^2 / (n + z^2) for no discordant row at all."""
    z = 1.6448536
    assert largest_loss(0, 0, 200, 0.05) == pytest.approx(z**2 / (200 + z**2), rel=1e-3)


def test_the_bound_holds_as_often_as_it_says() -> None:
    generator = np.random.default_rng(1)
    won, lost = generator.multinomial(400, [0.05, 0.07, 0.88], size=2000)[:, :2].T
    covered = np.mean([largest_loss(int(w), int(x), 400, 0.05) >= 0.02 for w, x in zip(won, lost, strict=True)])
    assert covered == pytest.approx(0.95, abs=0.015)


def test_more_rows_can_tell_and_more_disagreement_cannot() -> None:
    assert can_tell(3, 3, 1000, 0.02, 0.05)
    assert not can_tell(3, 3, 100, 0.02, 0.05)
    assert not can_tell(100, 100, 1000, 0.02, 0.05)


def test_an_equal_challenger_passes_nine_times_in_ten_where_the_rows_can_tell() -> None:
    generator, rows, differing, passed, told = np.random.default_rng(2), 1000, 0.05, 0, 0
    for won, lost, _ in generator.multinomial(rows, [differing / 2, differing / 2, 1 - differing], size=1000):
        if can_tell(int(won), int(lost), rows, 0.023, 0.05):
            told += 1
            passed += largest_loss(int(won), int(lost), rows, 0.05) <= 0.023
    assert told > 500
    assert passed / told > 0.88
