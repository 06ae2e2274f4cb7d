"""The watch after a promotion: is the new champion worse, on the labels that came in since, than the one it replaced?

Both score the same live rows, each row once. The evidence may be looked at as often as one likes, since counted rows
stay counted (`components/deployment/watch.py`); once it reaches 1 / level, the previous champion serves again. After
`watch_rows` rows the new champion has stood its test. Rows whose labels were asked for do not count: they were picked
because the new champion is unsure of them.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from components import logs
from components.classifier.classifier import Classifier
from components.classifier.labels import LabelSet
from components.config import PromotionSettings
from components.deployment import pointer
from components.deployment.pointer import Pointer
from components.deployment.rollback import finish, rollback
from components.deployment.rollback_record import Rollback
from components.deployment.watch import Tally, read_tally, write_tally
from components.drift import ledger
from components.drift.labels import known_labels, labelled_rows
from components.errors import ConflictError
from components.storage import ObjectStore, local_folder


@dataclass(frozen=True)
class Watched:
    """`lost`, `won`: live labelled rows that only the previous, and only the new champion gets right.

    `over`: whether all rows that the watch takes are counted.
    """

    model_version: str
    previous: str
    rows: int
    lost: int
    won: int
    evidence: float
    bar: float
    over: bool
    rollback: Rollback | None = None

    def as_result(self) -> dict[str, Any]:
        return asdict(self)


def watch(store: ObjectStore, model_name: str, promotion: PromotionSettings, **served: Any) -> Watched | None:
    """Compare, and roll back if the new champion is proven worse; None if there is nothing to compare.

    `served` says to what a rollback must reach: server_url, or inference_service and settings; as `rollback` takes it.
    There is nothing without a previous champion, and before labels have come for rows that the new one scored.
    """
    found = pointer.read(store, model_name)
    if found is None:
        return None
    champion = found[0]
    finish(store, champion, **served)  # a rollback that was killed, by hand or by the watch before this one
    if not champion.previous:
        return None
    previous = Pointer(**champion.previous)
    tally = _compared(store, champion, previous, promotion.watch_rows)
    if not tally.rows:
        return None
    made = Watched(
        champion.model_version, previous.model_version, len(tally.rows), tally.lost, tally.won, tally.evidence,
        1 / promotion.watch_level, len(tally.rows) >= promotion.watch_rows,
    )  # fmt: skip
    logs.event("watched", model=model_name, **asdict(made))
    return _roll_back(store, model_name, made, served) if made.evidence >= made.bar else made


def _compared(store: ObjectStore, champion: Pointer, previous: Pointer, most: int) -> Tally:
    """What was counted, with the rows whose labels have come in since."""
    tally, etag = read_tally(store, champion, previous)
    if len(tally.rows) >= most:
        return tally
    with local_folder(champion.uri) as folder:
        classifier = Classifier.load(folder)
        labels = classifier.labels
        labelled = _labelled(store, champion, labels)
        due = tally.due(labelled, most)
        if not due:
            return tally
        texts = [labelled[row]["text"] for row in due]
        truth = np.array([labels.number(labelled[row]["label"]) for row in due])
        new = _answers(classifier, texts) == truth
    with local_folder(previous.uri) as folder:
        old = _answers(Classifier.load(folder), texts) == truth
    tally = tally.with_rows(due, new, old)
    try:
        write_tally(store, champion, previous, tally, etag)
    except ConflictError:  # another check has counted them meanwhile
        tally, _ = read_tally(store, champion, previous)
    return tally


def _labelled(store: ObjectStore, champion: Pointer, labels: LabelSet) -> dict[str, dict[str, str]]:
    """By id, the rows since the champion came whose label is known and was not asked for."""
    state, _ = ledger.read(store, champion.name, champion.model_version)
    known = {row: label for row, label in known_labels(store, labels).items() if not label.asked_for}
    return {row["id"]: row for row in labelled_rows(store, state.objects, known, labels)}


def _roll_back(store: ObjectStore, model_name: str, seen: Watched, served: dict[str, Any]) -> Watched:
    reason = (
        f"On {seen.rows} labelled live rows it was wrong where its predecessor was right on {seen.lost}, and right "
        f"where that was wrong on {seen.won}: evidence {seen.evidence:.3g} against a bar of {seen.bar:.3g}."
    )
    done = rollback(store, model_name, reason=reason, expected=seen.model_version, **served)
    return Watched(**{**vars(seen), "rollback": done})


def _answers(classifier: Classifier, texts: list[str]) -> np.ndarray:
    return classifier.probabilities(classifier.score(texts, description="watch")).argmax(axis=1)
