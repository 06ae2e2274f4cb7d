"""What a check counts: windows once, budgets kept, what outlives a promotion; pure functions, no store."""

import json
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.batch.sample import Kept, extended
from components.config import RetrainSettings
from components.drift import sequential
from components.drift import state as transitions
from components.drift.state import Entry, Mark, Part, Retrain, State, Window
from components.drift.stream import Waiting, choose, counted_until, cut

SETTINGS = RetrainSettings()
BAR = sequential.bar(SETTINGS.false_retrain_budget, SETTINGS.checks_a_year)
NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)


def part(key: str, first: int, end: int, *, last: bool = False, etag: str = "e1") -> Part:
    return Part(key, etag, first, end, f"digest-{key}-{end}", last)


def window(p: float, *parts: Part) -> Window:
    return Window(parts or (part("incoming/a.csv", 0, 50),), 50, p)


def entry(number: int, verdict: str = "quiet") -> Entry:
    return Entry(number, NOON.isoformat(), verdict, 1, 50, 0.5, 1.0, BAR, 0.0, None)


def count(state: State, windows: list[Window], at: datetime = NOON) -> State:
    return transitions.count(state, windows, [p for w in windows for p in w.parts], at, SETTINGS)


def test_evidence_is_the_sequential_rules_and_stays_below_its_ceiling() -> None:
    p_values = [0.9, 0.01, 0.02]
    expected = 1.0
    for p in p_values:
        expected = sequential.update(expected, p)
    assert count(State("m", "v1"), [window(p) for p in p_values]).evidence == expected
    flooded = count(State("m", "v1"), [window(0.001)] * 300)
    assert flooded.evidence == transitions.CEILING_BARS * BAR
    quiet_again = count(flooded, [window(0.7)] * 40)
    assert quiet_again.evidence < BAR


def test_the_suspects_are_the_windows_since_the_evidence_last_started() -> None:
    state = count(State("m", "v1"), [window(0.9), window(0.8), window(0.01), window(0.6), window(0.02)])
    assert [w.p_value for w in state.suspects] == [0.01, 0.6, 0.02]
    many = count(state, [window(0.01)] * 100)
    assert len(many.suspects) == transitions.MOST_SUSPECTS


def test_marks_say_how_far_each_object_is_counted() -> None:
    a, b = part("incoming/a.csv", 0, 30, last=True), part("incoming/b.csv", 0, 20)
    state = count(State("m", "v1"), [window(0.5, a, b)])
    assert state.objects["incoming/a.csv"] == Mark("e1", 0, 30, a.digest, done=True)
    assert state.objects["incoming/b.csv"] == Mark("e1", 0, 20, b.digest, done=False)
    further = count(state, [window(0.5, part("incoming/b.csv", 20, 70, last=True))])
    assert (further.objects["incoming/b.csv"].since, further.objects["incoming/b.csv"].end) == (0, 70)
    replaced = count(further, [window(0.5, part("incoming/b.csv", 0, 50, etag="e2"))])
    assert (replaced.objects["incoming/b.csv"].etag, replaced.objects["incoming/b.csv"].since) == ("e2", 0)
    assert transitions.keep_objects(replaced, ["incoming/b.csv"]).objects.keys() == {"incoming/b.csv"}


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 3000)), min_size=1, max_size=60))
def test_no_year_has_more_windows_than_its_budget(checks: list[tuple[int, int]]) -> None:
    """Greedy checks at any times within a year: they test all they may."""
    settings = replace(SETTINGS, checks_a_year=500)
    state, tested, at = State("m", "v1"), 0, NOON
    for hours, wanted in checks:
        at += timedelta(hours=hours)
        allowed = min(wanted, int(transitions.allowed_windows(state, at, settings)))
        state = transitions.count(state, [window(0.5)] * allowed, [], at, settings)
        tested += allowed
    assert at - NOON < transitions.YEAR
    assert tested <= 500


def test_the_windows_allowance_comes_back_with_time() -> None:
    settings = replace(SETTINGS, checks_a_year=365)
    state = transitions.count(State("m", "v1"), [window(0.5)] * 36, [], NOON, settings)
    assert int(transitions.allowed_windows(state, NOON, settings)) == 0
    assert int(transitions.allowed_windows(state, NOON + timedelta(days=2), settings)) == 2
    assert transitions.allowed_windows(state, NOON + timedelta(days=900), settings) == pytest.approx(36.5)


def test_a_retrain_spends_the_evidence_and_is_kept_as_long_as_it_matters() -> None:
    state = count(State("m", "v1"), [window(0.001)] * 6)
    first = Retrain("m-v1-1", NOON.isoformat(), {"bucket": "b"})
    decided = transitions.conclude(state, entry(1, "retrain"), retrain=first)
    assert (decided.evidence, decided.suspects, decided.verdict) == (sequential.START, (), "retrain")
    assert transitions.hours_since_retrain(decided, NOON + timedelta(hours=5)) == 5
    assert transitions.retrains_this_week(decided, NOON + timedelta(days=6)) == 1
    assert transitions.retrains_this_week(decided, NOON + timedelta(days=8)) == 0
    later = Retrain("m-v1-2", (NOON + timedelta(days=30)).isoformat(), {})
    assert transitions.conclude(decided, entry(2), retrain=later).retrains == (later,)


def test_the_history_is_bounded() -> None:
    state = State("m", "v1")
    for number in range(1, transitions.MOST_HISTORY + 6):
        state = transitions.conclude(state, entry(number))
    assert (len(state.history), state.number, state.history[0].number) == (1000, 1005, 6)


def test_a_new_version_takes_over_what_was_counted_but_not_the_evidence() -> None:
    old = count(State("m", "v1"), [window(0.001, part("incoming/a.csv", 0, 50))] * 3)
    old = transitions.conclude(old, entry(1), retrain=Retrain("m-v1-1", NOON.isoformat(), {}))
    new = transitions.take_over(State("m", "v2"), old, "tag")
    assert (new.evidence, new.number, new.windows) == (sequential.START, 0, 0)
    assert new.objects["incoming/a.csv"] == Mark("e1", 50, 50, "digest-incoming/a.csv-50", done=False)
    assert transitions.hours_since_retrain(new, NOON) == 0
    assert new.allowance == old.allowance
    assert new.took_over == {"v1": "tag"}
    own = count(new, [window(0.5, part("incoming/a.csv", 50, 100, last=True))])
    assert own.objects["incoming/a.csv"].since == 50
    assert transitions.take_over(own, old, "tag").objects == own.objects


@pytest.mark.parametrize("step", [1, -1])
def test_of_an_object_that_was_replaced_the_later_check_s_mark_is_taken_over(step: int) -> None:
    """v1 counted the object anew, after a rollback from v2, which knew the one before it."""
    before = count(State("m", "v2"), [window(0.5, part("incoming/a.csv", 0, 300, etag="e1"))])
    after = count(State("m", "v1"), [window(0.5, part("incoming/a.csv", 0, 500, etag="e2"))], NOON + timedelta(hours=1))
    new = State("m", "v3")
    for other in (before, after)[::step]:
        new = transitions.take_over(new, other, "tag")
    assert (new.objects["incoming/a.csv"].etag, new.objects["incoming/a.csv"].end) == ("e2", 500)


def test_a_state_comes_back_from_json_as_it_was() -> None:
    state = count(State("m", "v1"), [window(0.01)])
    state = transitions.conclude(state, entry(1), retrain=Retrain("r", NOON.isoformat(), {"a": 1}), request="labels/r")
    state = count(state, [window(0.2)])
    assert transitions.from_json(json.loads(json.dumps(asdict(state)))) == state
    with pytest.raises(ValueError, match="schema is 99"):
        transitions.from_json(asdict(state) | {"schema": 99})


@given(st.lists(st.integers(0, 40), max_size=12), st.integers(1, 25))
def test_windows_are_full_disjoint_and_leave_only_a_rest(sizes: list[int], size: int) -> None:
    waiting = [
        Waiting(f"incoming/{i:02}.csv", "e", np.arange(n) * 3 + 5, np.array([f"{r:04}" for r in range(n)], dtype="S4"))
        for i, n in enumerate(sizes)
        if n
    ]
    windows, rest = cut(waiting, size)
    assert rest == sum(sizes) - size * len(windows) < size
    rows_of = {w.key: w.rows for w in waiting}
    covered: list[tuple[str, int]] = []
    for parts in windows:
        rows = [(p.key, int(r)) for p in parts for r in rows_of[p.key] if p.first <= r < p.end]
        assert len(rows) == size
        covered += rows
    assert covered == [(w.key, int(r)) for w in waiting for r in w.rows][: len(covered)]
    ends = {p.key: p for parts in windows for p in parts}
    assert all(p.last == (p.end > rows_of[p.key][-1]) for p in ends.values())


def test_thinning_takes_evenly_spaced_windows_and_the_newest() -> None:
    windows = [(part(f"incoming/{i}.csv", 0, 50),) for i in range(10)]
    assert choose(windows, 20) == (windows, windows)
    assert [w[0].key for w in choose(windows, 3)[0]] == ["incoming/2.csv", "incoming/5.csv", "incoming/9.csv"]
    assert choose(windows, 3)[1] == windows  # what is passed over is not tested later
    assert choose(windows, 0) == ([], [])  # they wait


def test_an_object_that_was_overwritten_goes_on_where_its_texts_are_the_same() -> None:
    def kept(texts: list[str], rows: list[int]) -> Kept:
        digests, digest = [], ""
        for text in texts:
            digest = extended(digest, text)
            digests.append(digest)
        chosen = np.array(rows)
        empty = np.zeros((len(rows), 2), dtype=np.float32)
        return Kept(chosen, empty, empty, np.array([digests[r] for r in rows], dtype="S16"))

    texts = ["one", "two", "three", "four"]
    old = kept(texts, [0, 1, 2, 3])
    mark = Mark("e1", 0, 3, old.digests[2].decode(), done=False)
    assert counted_until(None, "e1", old) == 0
    assert counted_until(mark, "e1", old) == 3
    assert counted_until(mark, "e2", kept([*texts, "five"], [0, 1, 2, 3, 4])) == 3
    assert counted_until(mark, "e2", kept(["other", *texts[1:]], [0, 1, 2, 3])) == 0
    assert counted_until(mark, "e2", kept(["one", "two"], [0, 1])) == 0
    # The sample no longer holds the row that would tell: a row is rather left out than counted twice.
    assert counted_until(mark, "e2", kept([*texts, "five"], [0, 1, 4])) == 3
