"""Named statistics: the value of each by hand, and a registry that the command's choices and errors come from."""

import numpy as np
import pytest

from components import config
from components.drift import statistics
from components.drift.statistics import Sample
from components.errors import SettingsError
from pipelines.parser import build_parser

# Two slices of the embeddings with four quantiles each: the first is 3 higher in the second sample, the next is equal.
# A third slice has a mean only, 6 apart. Along the head 1, 1, 1, 1 stand against 0, 2, 0, 2.
FIRST = Sample(np.array([1.5, 5, 0]), np.array([[0.0, 1, 2, 3], [5, 5, 5, 5]]), np.array([[1.0, 1, 1, 1]]))
SECOND = Sample(np.array([4.5, 5, 6]), np.array([[3.0, 4, 5, 6], [5, 5, 5, 5]]), np.array([[0.0, 2, 0, 2]]))
EXPECTED = {
    "sliced_wasserstein": [(9 + 0 + 36) / 3, (9 + 0) / 2, 1.0],
    "sliced_wasserstein2": [(9 + 0) / 2],
    "mean_wasserstein1": [((3 + 0) / 2) ** 2],
    "mean_distance": [(9 + 0 + 36) / 3],
}


def stack(*samples: Sample) -> Sample:
    return Sample(*(np.stack([getattr(sample, part) for sample in samples]) for part in ("means", "slices", "head")))


def test_every_statistic_has_its_value_here_and_weights_that_spend_the_whole_level() -> None:
    assert set(EXPECTED) == set(statistics.REGISTRY)
    for name, statistic in statistics.REGISTRY.items():
        assert len(statistic.weights) == len(EXPECTED[name])
        assert sum(statistic.weights) == pytest.approx(1)


@pytest.mark.parametrize("name", EXPECTED)
def test_values_by_hand(name: str) -> None:
    assert statistics.named(name).families(FIRST, SECOND).tolist() == pytest.approx(EXPECTED[name])


@pytest.mark.parametrize("name", EXPECTED)
def test_equal_samples_are_no_distance_apart_and_leading_axes_are_kept(name: str) -> None:
    families = statistics.named(name).families
    assert not families(FIRST, FIRST).any()
    both = families(stack(FIRST, SECOND), stack(SECOND, FIRST))
    np.testing.assert_allclose(both, [EXPECTED[name], EXPECTED[name]])


def test_quantiles_by_hand() -> None:
    # Quantiles at 1/8, 3/8, 5/8, 7/8 of {0, 2} are 0 0 2 2, of {1} they are 1 1 1 1.
    assert statistics.quantiles_of(np.array([[2.0], [0.0]]), 4).tolist() == [[0, 0, 2, 2]]
    assert statistics.quantiles_of(np.array([[1.0]]), 4).tolist() == [[1, 1, 1, 1]]
    assert statistics.grid_ranks(2, 4).tolist() == [0, 0, 1, 1]


def test_a_naive_rule_alarms_by_its_threshold_whatever_the_p_value() -> None:
    rule = statistics.Statistic("rule", "", lambda first, second: np.zeros(1), (1.0,), threshold=0.1)
    assert rule.alarms(1.0, np.array([0.0121]), 0.01)
    assert not rule.alarms(0.001, np.array([0.0081]), 0.01)
    assert statistics.named("sliced_wasserstein").alarms(0.01, np.array([0.0]), 0.01)


def test_a_new_statistic_is_one_registration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "REGISTRY", dict(statistics.REGISTRY))

    @statistics.register("nothing")
    def nothing(first: Sample, second: Sample) -> np.ndarray:
        return np.zeros((*first.means.shape[:-1], 1))

    assert statistics.named("nothing").families is nothing


def test_unknown_names_get_the_list_of_known_ones() -> None:
    known = ", ".join(statistics.REGISTRY)
    with pytest.raises(SettingsError, match=f"there is no drift statistic 'ks'; there are {known}"):
        statistics.named("ks")
    with pytest.raises(SettingsError, match=f"drift.statistic must be one of {known}, not 'ks'"):
        config.load(None, {"drift": {"statistic": "ks"}})


def test_the_commands_help_lists_them(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        build_parser().parse_args(["drift", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    for statistic in statistics.REGISTRY.values():
        assert statistic.name in shown
