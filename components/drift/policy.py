"""What to do about what the checks have seen: the whole retrain policy. Pure functions; the measuring is elsewhere.

    alarm        the evidence has reached its bar: texts like the reference get so far in at most
                 `false_retrain_budget` of the years, however often one looks
    harm         the shift, the estimated loss or the measured loss of accuracy is large enough
    hindrances   a run under way, the cooldown, the weekly cap, too few labels to learn from

    no alarm -> quiet     alarm without harm -> warn     alarm, harm, hindrances -> wait     else -> retrain

Where the rows that raised the alarm can no longer be read, nobody knows whether there is harm: wait.

A loss counts only if its interval leaves out 0: after an alarm the policy asks at every check, and among enough
checks of drift that does no harm, chance alone would give one estimate that is beyond any limit.
"""

from dataclasses import dataclass
from typing import Literal

from components.config import RetrainSettings
from components.drift.detection import DriftResult
from components.drift.harm import Harm

_UNKNOWN = (
    "What harm that does is not known, since the texts it was seen in can no longer be read: the next full window "
    "is measured again."
)
_SUPERSCRIPT = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Seen:
    """What has been seen of one model version's stream of texts up to now."""

    texts: int
    """Rows that came in, counted or waiting."""
    windows_counted: int
    rows_waiting: int
    """Rows that do not fill a window yet."""
    window_size: int
    evidence: float
    bar: float
    """Evidence from here on is an alarm."""
    p_value: float | None
    """Of the last window that was counted; None if there was none."""
    effect_size: float
    """In standard deviations of the reference, with its 95 % interval."""
    effect_interval: tuple[float, float]
    harm: Harm | None
    """None if nothing was measured: there was no need, or the rows can no longer be read."""
    labelled_rows: int
    """Rows with a trusted label, to learn from."""
    hours_since_retrain: float | None
    """None if there was no retrain yet."""
    retrains_this_week: int
    run_under_way: str = ""
    """The id of the run, or empty."""


@dataclass(frozen=True)
class Verdict:
    verdict: Literal["retrain", "warn", "wait", "quiet"]
    reason: str
    """One or two sentences, with the numbers that decided."""


def decide(seen: Seen, settings: RetrainSettings) -> Verdict:
    """The verdict on a stream of texts; equal input gives equal verdicts."""
    if seen.evidence < seen.bar:
        return Verdict("quiet", _quiet(seen))
    alarm = (
        f"The texts have changed: the evidence of {large(seen.evidence)} is past its bar of {large(seen.bar)}, which "
        f"unchanged texts reach in at most {100 * settings.false_retrain_budget:g} % of all years"
    )
    harms = harms_of(seen.effect_size, seen.harm, settings)
    if not harms and seen.harm is None:
        return Verdict("wait", f"{alarm}. {_UNKNOWN}")
    if not harms:
        return Verdict("warn", f"{alarm}. No harm is seen: {_harmless(seen.effect_size, seen.harm, settings)}.")
    hindrances = _hindrances(seen, settings)
    if hindrances:
        return Verdict("wait", f"{alarm}, and {_listed(harms)}. The retrain waits: {_listed(hindrances)}.")
    return Verdict(
        "retrain", f"{alarm}, and {_listed(harms)}. {seen.labelled_rows:,} labelled texts are there to learn from."
    )


def decide_once(result: DriftResult, harm: Harm | None, settings: RetrainSettings) -> Verdict:
    """`warn` or `quiet` for a single comparison: one look is no ground for a retrain, which takes the sequence."""
    test = f"p = {result.p_value:.2g}, level {result.level:g}"
    if result.p_value > result.level:
        return Verdict("quiet", f"The {result.n:,} texts are like those the model was trained on ({test}).")
    harms = harms_of(result.effect_size, harm, settings)
    found = _listed(harms) if harms else f"no harm is seen: {_harmless(result.effect_size, harm, settings)}"
    return Verdict("warn", f"The {result.n:,} texts are unlike those the model was trained on ({test}); {found}.")


def harms_of(effect_size: float, harm: Harm | None, settings: RetrainSettings) -> list[str]:
    """Every harm that is large enough to act on, as a clause each."""
    found = []
    if effect_size >= settings.effect_size:
        found.append(f"they have shifted by {effect_size:.2f} standard deviations (limit {settings.effect_size:g})")
    if harm and harm.estimated_loss >= settings.estimated_loss and harm.estimated_loss_interval[0] > 0:
        found.append(
            f"the accuracy, estimated without labels, has fallen from {harm.reference_accuracy:.3f} to "
            f"{harm.estimated_accuracy:.3f} (limit of the loss {settings.estimated_loss:g})"
        )
    if harm and _measured_loss_counts(harm, settings):
        found.append(
            f"the accuracy on {harm.labelled_rows:,} labelled texts is {harm.measured_accuracy:.3f} instead of "
            f"{harm.reference_accuracy:.3f} (limit of the loss {settings.measured_loss:g})"
        )
    return found


def _measured_loss_counts(harm: Harm, settings: RetrainSettings) -> bool:
    if harm.measured_loss is None or harm.measured_loss_interval is None:
        return False
    enough = harm.labelled_rows >= settings.minimum_measured
    return enough and harm.measured_loss >= settings.measured_loss and harm.measured_loss_interval[0] > 0


def _harmless(effect_size: float, harm: Harm | None, settings: RetrainSettings) -> str:
    found = [f"the shift of {effect_size:.2f} standard deviations is below {settings.effect_size:g}"]
    if harm:
        found.append(
            f"the estimated accuracy is {harm.estimated_accuracy:.3f}, the reference's {harm.reference_accuracy:.3f}"
        )
    if harm and harm.measured_accuracy is not None:
        found.append(f"the accuracy on {harm.labelled_rows:,} labelled texts is {harm.measured_accuracy:.3f}")
    return _listed(found)


def _hindrances(seen: Seen, settings: RetrainSettings) -> list[str]:
    """Everything that a retrain waits for, as a clause each."""
    found = []
    if seen.run_under_way:
        found.append(f"the run {seen.run_under_way} is still under way")
    elif seen.hours_since_retrain is not None and seen.hours_since_retrain < settings.cooldown_hours:
        left = settings.cooldown_hours - seen.hours_since_retrain
        found.append(
            f"the last one was {_hours(seen.hours_since_retrain)} ago, so the cooldown lasts {_hours(left)} more"
        )
    if seen.retrains_this_week >= settings.weekly_cap:
        found.append(f"{seen.retrains_this_week} of at most {settings.weekly_cap} a week are used up")
    if seen.labelled_rows < settings.minimum_labels:
        found.append(
            f"only {seen.labelled_rows:,} of the {settings.minimum_labels:,} labelled texts it needs are there"
        )
    return found


def _quiet(seen: Seen) -> str:
    waiting = f"{seen.rows_waiting:,} texts wait until a window of {seen.window_size:,} is full"
    if not seen.windows_counted:
        return f"Nothing is tested yet: {waiting}."
    last = "" if seen.p_value is None else f" (last window p = {seen.p_value:.2g})"
    return (
        f"No alarm: after {seen.windows_counted:,} windows of {seen.window_size:,} texts{last} the evidence for a "
        f"change is {large(seen.evidence)}, and an alarm takes {large(seen.bar)}. {waiting[0].upper()}{waiting[1:]}."
    )


def large(value: float) -> str:
    """A number that may be anything from 0 to 1e300, for a reader: 0.31, 12, 876,000, 3.1 × 10¹²."""
    if value >= 1e7:
        digits, exponent = f"{value:.1e}".split("e+")
        return f"{digits} × 10{exponent.lstrip('0').translate(_SUPERSCRIPT)}"
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def _hours(hours: float) -> str:
    return f"{hours:.0f} hours" if hours >= 1.5 else f"{hours * 60:.0f} minutes"


def _listed(clauses: list[str]) -> str:
    """a, b and c"""
    return ", ".join(clauses[:-1]) + " and " + clauses[-1] if len(clauses) > 1 else clauses[0]
