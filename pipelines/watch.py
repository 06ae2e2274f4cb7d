"""The watch after a promotion: is the new champion worse, on the labels that came in since, than the one it replaced?

Both score the same live rows. The evidence may be looked at as often as one likes (`components/deployment/watch.py`);
once it reaches 1 / level, the previous champion serves again. Rows whose labels were asked for do not count: they were
picked because the new champion is unsure of them.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from components import logs
from components.classifier.classifier import Classifier
from components.config import PromotionSettings
from components.deployment import pointer
from components.deployment.pointer import Pointer
from components.deployment.rollback import finish, rollback
from components.deployment.rollback_record import Rollback
from components.deployment.watch import evidence_of_worse
from components.drift import ledger
from components.drift.labels import known_labels, labelled_rows
from components.storage import ObjectStore, local_folder


@dataclass(frozen=True)
class Watched:
    """`lost`, `won`: live labelled rows that only the previous, and only the new champion gets right."""

    model_version: str
    previous: str
    rows: int
    lost: int
    won: int
    evidence: float
    bar: float
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
    state, _ = ledger.read(store, model_name, champion.model_version)
    with local_folder(champion.uri) as new, local_folder(previous.uri) as old:
        classifiers = [Classifier.load(new), Classifier.load(old)]
        labels = classifiers[0].labels
        known = {i: label for i, label in known_labels(store, labels).items() if not label.asked_for}
        rows = labelled_rows(store, state.objects, known, labels)[-promotion.watch_rows :]
        if not rows:
            return None
        truth = np.array([labels.number(row["label"]) for row in rows])
        right = [_labels(classifier, [row["text"] for row in rows]) == truth for classifier in classifiers]
    lost, won = int((~right[0] & right[1]).sum()), int((right[0] & ~right[1]).sum())
    made = Watched(
        champion.model_version, previous.model_version, len(rows), lost, won,
        evidence_of_worse(lost, won), 1 / promotion.watch_level,
    )  # fmt: skip
    logs.event("watched", model=model_name, **asdict(made))
    return _roll_back(store, model_name, made, served) if made.evidence >= made.bar else made


def _roll_back(store: ObjectStore, model_name: str, seen: Watched, served: dict[str, Any]) -> Watched:
    reason = (
        f"On {seen.rows} labelled live rows it was wrong where its predecessor was right on {seen.lost}, and right "
        f"where that was wrong on {seen.won}: evidence {seen.evidence:.3g} against a bar of {seen.bar:.3g}."
    )
    done = rollback(store, model_name, reason=reason, expected=seen.model_version, **served)
    return Watched(**{**vars(seen), "rollback": done})


def _labels(classifier: Classifier, texts: list[str]) -> np.ndarray:
    return classifier.probabilities(classifier.score(texts, description="watch")).argmax(axis=1)
