"""What one drift check found: drift.html for a reader, drift.json for a program.

The top of the page is for somebody who was woken up: what happened, how sure that is, how bad it is, what happens
next by itself, and what is left to do.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from components import files
from components.drift.policy import large
from components.drift.report_content import PastCheck, Report
from components.drift.report_sections import sections, when
from components.report import Answer, Status, page

__all__ = ["PastCheck", "Report", "facts", "write_report"]

TONES = {"quiet": "good", "warn": "warn", "wait": "bad", "retrain": "action"}


def write_report(folder: str | Path, report: Report) -> Path:
    """Write `drift.html` and `drift.json` into `folder`, each atomically; returns the path of the page."""
    path = Path(folder) / "drift.html"
    html = page(title(report), report.verdict.reason, sections(report), status(report))
    files.write_json(path.with_name("drift.json"), facts(report))
    with files.new_file(path) as temporary:
        temporary.write_text(html, encoding="utf-8")
    return path


def facts(report: Report) -> dict[str, Any]:
    """The verdict and all that it rests on, as plain JSON values; no texts."""
    return {
        **asdict(report.verdict),
        "name": report.name,
        "model_version": report.model_version,
        "at": report.at,
        "run": report.run,
        "request": report.request,
        "result": asdict(report.result) if report.result else None,
        "harm": asdict(report.harm) if report.harm else None,
        "seen": asdict(report.seen) | {"harm": None} if report.seen else None,
        "history": [asdict(check) for check in report.history],
    }


def title(report: Report) -> str:
    """What happened, in a line."""
    if report.result is None and not (report.seen and report.seen.windows_counted):
        return "Not enough texts yet for a check"
    alone = "The texts have changed" if report.verdict.verdict == "warn" else "The texts are like those the model knows"
    return {
        "quiet": "No alarm" if report.seen else alone,
        "warn": "The texts have changed, but no harm is seen" if report.seen else alone,
        "wait": "A retrain is due, but it has to wait",
        "retrain": "The texts have changed, and a retrain has started",
    }[report.verdict.verdict]


def status(report: Report) -> Status:
    """The answers to what an operator asks first."""
    count = f"{report.seen.texts if report.seen else len(report.texts):,} texts"
    context = [report.name, count, f"model {report.model_version}" if report.model_version else "", when(report.at)]
    verdict = report.verdict.verdict
    answers = [
        Answer("How sure is that?", *_how_sure(report)),
        Answer("How bad is it?", *_how_bad(report)),
        Answer("What happens next?", *_what_next(report)),
        Answer("What should I do?", *_what_to_do(report)),
    ]
    return Status(verdict, TONES[verdict], " · ".join(part for part in context if part), answers)


def _how_sure(report: Report) -> tuple[str, str]:
    result, seen = report.result, report.seen
    if seen and not seen.windows_counted:
        return "Nothing is tested yet", ""
    last = f"p = {result.p_value:.2g} for {result.n:,} texts" if result else ""
    if seen:
        words = "The alarm bar is passed" if seen.evidence >= seen.bar else "Below the alarm bar"
        window = f" The last window: {last}." if last else ""
        return words, f"Evidence {large(seen.evidence)}, alarm at {large(seen.bar)}.{window}"
    chance = f"Unchanged texts look this unlike in 1 of {1 / result.p_value:,.0f} comparisons." if result else ""
    return last, chance


def _how_bad(report: Report) -> tuple[str, str]:
    harm, measured = report.harm, report.seen or report.result
    if measured is None or (report.seen and not report.seen.windows_counted):
        return "Not known yet", ""
    shift = f"The texts have shifted by {_sd(measured.effect_size, measured.effect_interval)}."
    if harm is None:
        return f"A shift of {measured.effect_size:.2f} sd", shift
    if harm.measured_accuracy is not None and harm.measured_interval:
        words = f"Accuracy {harm.measured_accuracy:.3f}, was {harm.reference_accuracy:.3f}"
        low, high = harm.measured_interval
        found = f"Measured on {harm.labelled_rows:,} labels (95 % interval {low:.3f} to {high:.3f})"
        return words, f"{found}; estimated without labels: {harm.estimated_accuracy:.3f}. {shift}"
    low, high = harm.estimated_interval
    words = f"Accuracy about {harm.estimated_accuracy:.3f}, was {harm.reference_accuracy:.3f}"
    return words, f"Estimated without labels (95 % interval {low:.3f} to {high:.3f}). {shift}"


def _what_next(report: Report) -> tuple[str, str]:
    verdict, seen = report.verdict.verdict, report.seen
    if seen is None:
        return "Nothing by itself", "A single comparison starts no retrain; only a series of checks does."
    waiting = f"{seen.rows_waiting:,} texts wait until a window of {seen.window_size:,} is full."
    if verdict == "retrain":
        run = f"Run {report.run} retrains the model" if report.run else "The pipeline retrains the model"
        return run, "The successor takes over only if it is proven better; until then the present model answers."
    if verdict == "wait":
        return "The retrain starts by itself", "At the first check that finds what it waits for."
    if verdict == "warn":
        return "The next check asks again", f"A retrain starts by itself as soon as harm shows. {waiting}"
    return "The next check goes on counting", waiting


def _what_to_do(report: Report) -> tuple[str, str]:
    verdict, seen = report.verdict.verdict, report.seen
    if report.request:
        how = f"Fill in the column label of {report.request} where it lies; the next check reads it."
        return f"Label {report.request_rows:,} texts", how
    if verdict == "warn":
        labels = "If the model is meant for texts like these, put labels for them under labels/: they show the harm."
        return "Look at the example texts below", labels
    if verdict == "wait" and seen and seen.run_under_way:
        return "See that the run gets on", f"The run {seen.run_under_way} holds up this one."
    if verdict == "wait":
        return "Nothing", "If it cannot wait: retrain.cooldown_hours and retrain.weekly_cap are the limits."
    return "Nothing", ""


def _sd(effect: float, interval: tuple[float, float]) -> str:
    return f"{effect:.2f} standard deviations (95 % interval {interval[0]:.2f} to {interval[1]:.2f})"
