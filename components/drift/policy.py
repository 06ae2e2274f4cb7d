"""What to do about a drift check: significance and size decide, and a retrain needs labels to learn from."""

from dataclasses import dataclass
from typing import Literal

from components.config import DriftSettings
from components.drift.detection import DriftResult


@dataclass(frozen=True)
class Verdict:
    verdict: Literal["retrain", "wait", "quiet"]
    reason: str
    """One full sentence, with the numbers that decided."""


def decide(result: DriftResult, labelled_rows: int, settings: DriftSettings) -> Verdict:
    """`quiet` unless the drift is significant and large; then `retrain`, or `wait` until there are enough labels."""
    if result.p_value > settings.level:
        return Verdict(
            "quiet",
            f"The {result.n} texts are like what the model knows: p = {result.p_value:.4g} is above the level "
            f"{settings.level:g}.",
        )
    if result.effect_size < settings.effect_size:
        return Verdict(
            "quiet",
            f"The {result.n} texts differ (p = {result.p_value:.4g}), but their shift of {result.effect_size:.3f} "
            f"standard deviations is below {settings.effect_size:g}, too small to call for a retrain "
            f"(the classifier's margins moved by {result.head_shift:.3f}).",
        )
    drift = (
        f"The {result.n} texts have drifted by {result.effect_size:.3f} standard deviations (p = {result.p_value:.4g})"
    )
    if labelled_rows < settings.minimum_labels:
        return Verdict(
            "wait", f"{drift}, but only {labelled_rows} of the {settings.minimum_labels} labelled rows needed are here."
        )
    return Verdict("retrain", f"{drift}, and {labelled_rows} labelled rows are there to learn from.")
