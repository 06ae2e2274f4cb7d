"""The retrain policies that a back-test compares. A new one costs an entry here."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from components.config import Settings
from components.errors import InputError


@dataclass(frozen=True)
class Policy:
    """When to retrain, on which rows, from which weights, and whether the challenger must prove itself."""

    name: str
    help: str
    when: Literal["never", "schedule", "drift"]
    learn: Literal["new", "replay", "all"] = "replay"
    """The rows since the champion took over; those and a replay of older ones; all rows so far. Old held-out rows stay
    held out in each case: without them there is no reference to test the next texts against."""
    start: Literal["champion", "base"] = "champion"
    distil: bool = True
    proof: bool = True
    """Promoted by `decide`; otherwise in any case."""

    def settings(self, settings: Settings) -> Settings:
        """The settings that its retrains run with."""
        data, training = settings.data, settings.training
        data = replace(data, replay_ratio=0.0) if self.learn == "new" else data
        training = training if self.distil else replace(training, distillation=0.0)
        return replace(settings, data=data, training=training)


POLICIES = {
    policy.name: policy
    for policy in (
        Policy("never", "keep the first model", "never"),
        Policy("schedule", "retrain every few windows, otherwise as everbert", "schedule"),
        Policy(
            "naive", "on drift, the champion learns the new rows alone; always promoted", "drift", learn="new",
            distil=False, proof=False,
        ),
        Policy("everbert", "on drift, the champion learns new rows and a replay; promoted on proof", "drift"),
        Policy(
            "everything", "on drift, the base model learns all rows so far; always promoted", "drift", learn="all",
            start="base", distil=False, proof=False,
        ),
        Policy("cold", "as everbert, but from the base model", "drift", start="base"),
    )
}  # fmt: skip
COMPARED = ("never", "schedule", "naive", "everbert", "everything")
"""Those that are compared unless others are asked for."""


def named(names: Sequence[str]) -> list[Policy]:
    """The policies of these names, each once. Raises InputError that lists the valid ones."""
    for name in names:
        if name not in POLICIES:
            raise InputError(f"there is no policy {name!r}; there are {', '.join(POLICIES)}")
    return [POLICIES[name] for name in dict.fromkeys(names)]
