"""What the checks of one model version have counted and decided: pure values, and what a check makes of them.

The state is one JSON object (`ledger.py` reads and commits it) and stays small for years:
- `objects` holds a mark of some 150 bytes for each object that still lies under incoming/: without it, the object's
  rows would be counted again. The mark goes when the object goes; a lifecycle rule on incoming/ bounds the state. All
  that one server process has put into the payload log has one mark.
- `suspects`: at most the newest MOST_SUSPECTS windows since the evidence last started.
- `history`: the newest MOST_HISTORY checks; the decision records keep all of them.
- `retrains`: those younger than a week and a day, which the weekly cap needs, and the newest, which the cooldown needs.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from components.config import RetrainSettings
from components.drift import sequential

SCHEMA = 1
MOST_SUSPECTS = 50
MOST_HISTORY = 1000
# Evidence beyond so many bars says nothing more, and would take as long to fall again once the drift is over.
CEILING_BARS = 1000
BURST_SHARE = 0.1
YEAR, WEEK = timedelta(days=365), timedelta(days=7)


@dataclass(frozen=True)
class Part:
    """Consecutive kept rows of one object: those of its scored rows with `first` <= number < `end`.

    Of requests: `key` is the series', `etag` the name of the payload part, and `digest` that part's entity tag.
    """

    key: str
    etag: str
    first: int
    end: int
    digest: str
    """Of all the object's texts before `end`."""
    last: bool
    """No kept row of the object comes after it."""


@dataclass(frozen=True)
class Window:
    """A window of texts that was tested, and its p-value."""

    parts: tuple[Part, ...]
    rows: int
    p_value: float


@dataclass(frozen=True)
class Mark:
    """How far one object's rows are counted."""

    etag: str
    since: int
    """Rows before this one were counted by an earlier version of the model."""
    end: int
    """Rows before this one are counted."""
    digest: str
    """Of the texts before `end`: an object that was overwritten by a longer one still starts with them."""
    done: bool
    """Nothing of it is left to count."""


@dataclass(frozen=True)
class Retrain:
    """A decision to retrain: what to run, under which id. Committed before it is submitted."""

    id: str
    at: str
    arguments: dict[str, Any]


@dataclass(frozen=True)
class Entry:
    """One check, for the history."""

    number: int
    at: str
    verdict: str
    windows: int
    rows: int
    p_value: float | None
    evidence: float
    bar: float
    effect_size: float
    estimated_accuracy: float | None


@dataclass(frozen=True)
class State:
    """All that the checks of one version of a model know. Times are ISO 8601, UTC."""

    model_name: str
    model_version: str
    evidence: float = sequential.START
    windows: int = 0
    rows: int = 0
    allowance: float | None = None
    """Windows that may be tested at once, as of `allowance_at`; None: the full burst."""
    allowance_at: str = ""
    objects: Mapping[str, Mark] = field(default_factory=dict)
    suspects: tuple[Window, ...] = ()
    history: tuple[Entry, ...] = ()
    retrains: tuple[Retrain, ...] = ()
    request: str = ""
    """Key of the newest request for labels."""
    requests: int = 0
    took_over: Mapping[str, str] = field(default_factory=dict)
    """Other version -> entity tag of its state when it was merged into this one."""
    schema: int = SCHEMA

    @property
    def number(self) -> int:
        """Of the last committed check, 0 if there is none."""
        return self.history[-1].number if self.history else 0

    @property
    def verdict(self) -> str:
        """Of the last committed check."""
        return self.history[-1].verdict if self.history else ""


def allowed_windows(state: State, at: datetime, settings: RetrainSettings) -> float:
    """How many windows may be tested at `at`, so that no year has more than `checks_a_year` of them.

    A tenth of a year's windows may come in a burst; the rest of them is spread evenly over the year.
    """
    burst = max(1.0, BURST_SHARE * settings.checks_a_year)
    if state.allowance is None:
        return burst
    elapsed = max(timedelta(), at - datetime.fromisoformat(state.allowance_at))
    refill = max(1.0, settings.checks_a_year - burst) * (elapsed / YEAR)
    return min(burst, state.allowance + refill)


def accumulate(evidence: float, p_values: Iterable[float], bar: float) -> float:
    """The evidence after windows with these p-values, in order."""
    for p in p_values:
        evidence = min(sequential.update(evidence, p), CEILING_BARS * bar)
    return evidence


def count(
    state: State,
    windows: Sequence[Window],
    passed: Iterable[Part],
    at: datetime,
    settings: RetrainSettings,
) -> State:
    """The state after `windows` were tested; `passed` are the parts of these and of windows that were passed over."""
    bar = sequential.bar(settings.false_retrain_budget, settings.checks_a_year)
    suspects, evidence = list(state.suspects), state.evidence
    for window in windows:
        if evidence <= sequential.START:
            suspects.clear()
        suspects.append(window)
        evidence = accumulate(evidence, [window.p_value], bar)
    return replace(
        state,
        evidence=evidence,
        windows=state.windows + len(windows),
        rows=state.rows + sum(window.rows for window in windows),
        allowance=allowed_windows(state, at, settings) - len(windows),
        allowance_at=at.isoformat(),
        objects=_marked(state.objects, passed),
        suspects=tuple(suspects[-MOST_SUSPECTS:]),
    )


def _marked(objects: Mapping[str, Mark], passed: Iterable[Part]) -> dict[str, Mark]:
    marks = dict(objects)
    for part in passed:
        before = marks.get(part.key)
        # An object that was replaced starts anew: what an earlier version of the model counted is gone with it.
        since = before.since if before and before.end <= part.first else part.first
        marks[part.key] = Mark(part.etag, since, part.end, part.digest, part.last)
    return marks


def keep_objects(state: State, keys: Iterable[str]) -> State:
    """Without the marks of objects that are gone; `keys` are those that are there."""
    there = set(keys)
    return replace(state, objects={key: mark for key, mark in state.objects.items() if key in there})


def conclude(state: State, entry: Entry, *, retrain: Retrain | None = None, request: str = "") -> State:
    """The state after a check was decided. A retrain spends the evidence: the next one takes evidence of its own."""
    if retrain:
        week_ago = datetime.fromisoformat(retrain.at) - WEEK - timedelta(days=1)
        recent = tuple(r for r in state.retrains if datetime.fromisoformat(r.at) > week_ago)
        state = replace(state, retrains=(*recent, retrain), evidence=sequential.START, suspects=())
    if request and request != state.request:
        state = replace(state, request=request, requests=state.requests + 1)
    return replace(state, history=(*state.history, entry)[-MOST_HISTORY:])


def last_p_value(state: State) -> float | None:
    """Of the newest window that a check has tested, None if there was none."""
    return next((entry.p_value for entry in reversed(state.history) if entry.p_value is not None), None)


def hours_since_retrain(state: State, at: datetime) -> float | None:
    """None if there was none."""
    if not state.retrains:
        return None
    return (at - datetime.fromisoformat(state.retrains[-1].at)) / timedelta(hours=1)


def retrains_this_week(state: State, at: datetime) -> int:
    return sum(at - datetime.fromisoformat(retrain.at) < WEEK for retrain in state.retrains)


def take_over(mine: State, other: State, etag: str) -> State:
    """`mine` with what another version of the model has counted and decided; the evidence stays each version's own.

    So the cooldown, the weekly cap and the allowance outlive a promotion, and no row is counted again after it. Of an
    object that was replaced meanwhile, the later check's mark counts.
    """
    objects = dict(mine.objects)
    later = other.allowance_at > mine.allowance_at
    for key, mark in other.objects.items():
        known = objects.get(key)
        if known is None or (known.end < mark.end if known.etag == mark.etag else later):
            objects[key] = replace(mark, since=mark.end)
    retrains = {retrain.id: retrain for retrain in (*mine.retrains, *other.retrains)}
    clock = max((mine, other), key=lambda state: state.allowance_at)
    return replace(
        mine,
        objects=objects,
        retrains=tuple(sorted(retrains.values(), key=lambda retrain: retrain.at)),
        allowance=clock.allowance,
        allowance_at=clock.allowance_at,
        took_over={**mine.took_over, other.model_version: etag},
    )


def from_json(content: Mapping[str, Any]) -> State:
    """The inverse of dataclasses.asdict. Raises TypeError, KeyError, ValueError or AttributeError for anything else."""
    if content["schema"] != SCHEMA:
        raise ValueError(f"its schema is {content['schema']}, this program reads {SCHEMA}")
    return State(
        **{
            **content,
            "objects": {key: Mark(**mark) for key, mark in content["objects"].items()},
            "suspects": tuple(window_from_json(window) for window in content["suspects"]),
            "history": tuple(Entry(**entry) for entry in content["history"]),
            "retrains": tuple(Retrain(**retrain) for retrain in content["retrains"]),
        }
    )


def window_from_json(content: Mapping[str, Any]) -> Window:
    return Window(tuple(Part(**part) for part in content["parts"]), content["rows"], content["p_value"])
