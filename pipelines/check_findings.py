"""What one attempt at a check finds, before anything of it is written."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from components import logs
from components.classifier.classifier import Classifier
from components.config import Settings
from components.deployment.pointer import Pointer
from components.drift import sequential, stream
from components.drift import state as transitions
from components.drift.detection import DriftResult
from components.drift.labels import KnownLabel, StreamText, known_labels, labelled_rows, measured_labels, texts_at
from components.drift.measurement import Judged, Measure, Tested, judge, measure_window
from components.drift.policy import Seen, Verdict, decide
from components.drift.state import State
from components.drift.stream import Incoming, KeptRows, Parts, Rows, UnreadableError
from components.errors import DataError
from components.progress import progress
from components.storage import ObjectStore


@dataclass(frozen=True)
class Champion:
    """The served model, loaded."""

    pointer: Pointer
    classifier: Classifier
    measure: Measure

    @classmethod
    def load(cls, pointer: Pointer, folder: Path) -> "Champion":
        """From its folder. Raises ModelFolderError, or DataError if the reference is another model's."""
        classifier, measure = Classifier.load(folder), Measure.load(folder)
        measure.reference.refuse_other_model(classifier.description.files["model.safetensors"])
        return cls(pointer, classifier, measure)


@dataclass(frozen=True)
class Findings:
    before: State
    counted: State
    """With the new windows counted, nothing decided."""
    tested: list[Tested]
    judged: Judged | None
    """None if there is neither a new window nor an alarm, or the rows can no longer be read."""
    last: DriftResult | None
    """The test of the newest judged window."""
    texts: list[StreamText | None]
    """Of the judged rows."""
    known: dict[str, KnownLabel]
    labelled: list[dict[str, str]]
    """Rows to learn from; only an alarm makes it worth reading all of the stream."""
    seen: Seen
    verdict: Verdict
    refused: list[str]


def find(
    store: ObjectStore, champion: Champion, before: State, run_under_way: str, settings: Settings, at: datetime
) -> Findings:
    """Count what is new in the stream, weigh it, and decide."""
    measure, kept = champion.measure, KeptRows(store, champion.classifier.version)
    size = measure.window_size(settings.drift)
    came = stream.incoming(store, champion.classifier, before.objects, settings.batch)
    while True:
        try:
            tested, counted, waiting = _count(kept, came, before, size, measure, settings, at)
            break
        except UnreadableError as error:  # a part of the payload log, most likely, which is read here first
            came = came.without(error.part, str(error))
    bar = sequential.bar(settings.retrain.false_retrain_budget, settings.retrain.checks_a_year)
    alarm = counted.evidence >= bar
    known = known_labels(store, measure.labels) if tested or alarm else {}
    judged, texts = _judge(store, kept, _to_judge(counted, tested, alarm), known, measure, settings)
    labelled = labelled_rows(store, counted.objects, known, measure.labels) if alarm else []
    seen = Seen(
        texts=counted.rows + waiting,
        windows_counted=counted.windows,
        rows_waiting=waiting,
        window_size=size,
        evidence=counted.evidence,
        bar=bar,
        p_value=tested[-1].window.p_value if tested else transitions.last_p_value(counted),
        effect_size=judged.result.effect_size if judged else 0.0,
        effect_interval=judged.result.effect_interval if judged else (0.0, 0.0),
        harm=judged.harm if judged else None,
        labelled_rows=len(labelled),
        hours_since_retrain=transitions.hours_since_retrain(counted, at),
        retrains_this_week=transitions.retrains_this_week(counted, at),
        run_under_way=run_under_way,
    )
    last = tested[-1].result if tested else None
    if judged and last is None:
        last = measure_window(kept, judged.parts[-1], measure, settings.drift).result
    verdict = decide(seen, settings.retrain)
    return Findings(before, counted, tested, judged, last, texts, known, labelled, seen, verdict, came.refused)


def _count(
    kept: KeptRows, came: Incoming, before: State, size: int, measure: Measure, settings: Settings, at: datetime
) -> tuple[list[Tested], State, int]:
    """Test the new windows, as many as the year's budget allows; the state with them, and the rows that still wait."""
    windows, waiting = stream.cut(came.waiting, size)
    chosen, passed = stream.choose(windows, int(transitions.allowed_windows(before, at, settings.retrain)))
    tested = [
        measure_window(kept, parts, measure, settings.drift)
        for parts in progress(chosen, description="test", unit="window")
    ]
    there = transitions.keep_objects(before, came.keys)
    counted = transitions.count(
        there, [t.window for t in tested], [part for parts in passed for part in parts], at, settings.retrain
    )
    return tested, counted, waiting + size * (len(windows) - len(passed))


def _to_judge(counted: State, tested: list[Tested], alarm: bool) -> list[Parts]:
    """The windows that the evidence speaks of: those since it last started, or, if it has not, the new ones."""
    if not tested and not alarm:
        return []
    suspected = [window.parts for window in counted.suspects] if counted.evidence > sequential.START else []
    return suspected or [t.window.parts for t in tested][-transitions.MOST_SUSPECTS :]


def _judge(
    store: ObjectStore,
    kept: KeptRows,
    windows: list[Parts],
    known: dict[str, KnownLabel],
    measure: Measure,
    settings: Settings,
) -> tuple[Judged | None, list[StreamText | None]]:
    """Size and harm of the change, and the texts of the rows; of those windows whose rows are still there."""
    there = [parts for parts in windows if kept.has(parts)]
    if len(there) < len(windows):
        logs.warning("not_judged", reason=f"the rows of {len(windows) - len(there)} of {len(windows)} windows are gone")
    if not there:
        return None, []
    texts: list[StreamText | None] = []

    def labels_of(rows: Rows) -> NDArray[np.int64]:
        texts.extend(texts_at(store, [part for parts in there for part in parts], rows.where))
        return measured_labels(texts, known)

    try:
        return judge(kept, there, labels_of, measure, settings.drift), texts
    except DataError as error:
        logs.warning("not_judged", reason=str(error))
        return None, []
