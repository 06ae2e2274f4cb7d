"""The parts of the drift page below its top."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from components.charts import bars, histogram_pair, history, intervals, quantiles
from components.drift.annotation import unusualness
from components.drift.harm import wilson
from components.drift.policy import large
from components.drift.report_content import Report
from components.drift.statistics import quantiles_of, wasserstein2_squared
from components.report import Section

SLICES_SHOWN = 3
EXAMPLES_SHOWN = 3
UNUSUAL_SHOWN = 6
CHARACTERS_SHOWN = 240
CHECKS_SHOWN = 300
TAIL = 0.05


def sections(report: Report) -> list[Section]:
    """All parts that there is something to show in."""
    found = [*_evidence(report), *_accuracy(report)]
    if len(report.texts):
        found += [*_slices(report), _unusual(report), *_predictions(report)]
    return found + _test(report)


def _evidence(report: Report) -> list[Section]:
    seen, past = report.seen, report.history[-CHECKS_SHOWN:]
    if seen is None:
        return []
    text = (
        "Each full window of texts is tested once, and its p-value is turned into a bet against the claim that nothing "
        "has changed. The evidence is what these bets have won: it stays low while the texts are as they were, and "
        "the bar is so high that unchanged texts hardly ever reach it, however often one looks."
    )
    shown = [
        ("evidence", f"{large(seen.evidence)} (alarm at {large(seen.bar)})"),
        ("windows tested", f"{seen.windows_counted:,} of {seen.window_size:,} texts each"),
        ("texts that wait for a full window", seen.rows_waiting),
    ]
    if len(past) < 2:
        return [
            Section(
                "The evidence", f"{text}\nThis is the first check of this model; later ones show its history.", shown
            )
        ]
    columns = zip(*((check.number, check.evidence, check.p_value, check.verdict) for check in past), strict=True)
    numbers, evidence, p_values, verdicts = columns
    chart = history(numbers, evidence, p_values, verdicts, seen.bar)
    shown.append(("checks shown", f"{past[0].number} ({when(past[0].at)}) to {past[-1].number} ({when(past[-1].at)})"))
    return [Section("The evidence", text, shown, figures=[chart])]


def _accuracy(report: Report) -> list[Section]:
    harm = report.harm
    if harm is None:
        return []
    known = int(report.reference.correct.sum()), len(report.reference.correct)
    rows = [
        ("reference", harm.reference_accuracy, wilson(*known)),
        ("estimated", harm.estimated_accuracy, harm.estimated_interval),
    ]
    if harm.measured_accuracy is not None and harm.measured_interval:
        rows.append(("measured", harm.measured_accuracy, harm.measured_interval))
    text = (
        f"Reference: on {known[1]:,} held-out texts of the training sources. Estimated: for the current texts, without "
        "labels, from how sure the model is of them. "
    )
    if harm.measured_accuracy is None:
        text += "No label of a current text has come in yet. "
    else:
        text += f"Measured: on the {harm.labelled_rows:,} current texts whose labels have come in. "
    text += (
        "The estimate is blind to what leaves the model as sure as before: labels that have become more or less "
        "frequent, and words that have come to mean something else. Only labels show those. Its interval covers the "
        "chance in the texts, not the error of the method, which was 0.06 on average over twelve changes of domain and "
        "0.17 at worst."
    )
    facts = [("estimated loss", _loss(harm.estimated_loss, harm.estimated_loss_interval))]
    if harm.measured_loss is not None and harm.measured_loss_interval:
        facts.append(("measured loss", _loss(harm.measured_loss, harm.measured_loss_interval)))
    return [Section("The accuracy", text, facts, figures=[intervals(rows, "accuracy, with 95 % intervals")])]


def _loss(loss: float, interval: tuple[float, float]) -> str:
    return f"{loss:+.3f} (95 % interval {interval[0]:+.3f} to {interval[1]:+.3f})"


def _slices(report: Report) -> list[Section]:
    """The embedding slices that moved most, each with texts from its end where the current window has more."""
    compared = _compared_rows(report)
    known = report.reference.slices[compared]
    current = quantiles_of(report.current[:, : known.shape[1]])
    distances = np.sqrt(wasserstein2_squared(quantiles_of(known), current))
    text = (
        f"The model turns each text into numbers; here are the directions (slices) in which the {len(report.texts):,} "
        "current texts have moved most, in standard deviations of the training texts. Equal curves mean no change, and "
        "the shaded area is the shift. The examples lie at the end of the slice that has more texts now than before."
    )
    if not report.reference_texts:
        text += " Only current texts are shown: the reference's own are in the model's data set, which is not at hand."
    largest = np.argsort(-distances, kind="stable")[:SLICES_SHOWN].tolist()
    return [Section("Where the texts differ most", text)] + [_slice(report, compared, s, distances[s]) for s in largest]


def _slice(report: Report, compared: NDArray, number: int, distance: float) -> Section:
    before, now = report.reference.slices[compared, number], report.current[:, number]
    low, high = np.quantile(before, (TAIL, 1 - TAIL))
    shares = float((now < low).mean()), float((now > high).mean())
    up = shares[1] > shares[0]
    end, other = ("high", "low") if up else ("low", "high")
    text = (
        f"{100 * max(shares):.0f} % of the current texts lie at the {end} end, where {100 * TAIL:.0f} % of the "
        f"reference's do (distance {distance:.2f} sd)."
    )
    order = np.argsort(-now if up else now, kind="stable")
    examples = [(f"Now, at the {end} end", _distinct(report.texts[i] for i in order))]
    opposite = compared[np.argsort(before if up else -before, kind="stable")]
    ids = (report.reference.ids[i] for i in opposite)
    known = _distinct(report.reference_texts[row] for row in ids if row in report.reference_texts)
    if known:
        examples.append((f"Before, at the {other} end", known))
    chart = quantiles(before, now, f"slice {number + 1} (sd)")
    heading = f"Slice {number + 1} of {report.reference.slices.shape[1]}"
    return Section(heading, text, figures=[chart], examples=examples, minor=True)


def _compared_rows(report: Report) -> NDArray:
    """The reference rows of the comparison that decided: all, or those of the nearest source."""
    result, sources = report.result, np.array(report.reference.sources)
    if result is None or result.reference_rows == len(sources) or not (sources == result.nearest_source).any():
        return np.arange(len(sources))
    return np.flatnonzero(sources == result.nearest_source)


def _unusual(report: Report) -> Section:
    farthest = np.argsort(-unusualness(report.reference, report.current), kind="stable")
    texts = _distinct((report.texts[i] for i in farthest), UNUSUAL_SHOWN)
    return Section(
        "The most unusual texts",
        "Over all slices, farthest from the middle of the reference.",
        examples=[("Now", texts)],
    )


def _predictions(report: Report) -> list[Section]:
    confidence = histogram_pair(
        report.reference.confidence, report.confidence, "calibrated confidence", (1 / len(report.labels), 1.0), 20
    )
    harm = report.harm
    if harm is None:
        return [Section("The predictions", "How sure the model is of its predictions.", figures=[confidence])]
    names = list(harm.label_mix)
    mix = [[100 * harm.label_mix[name][when] for name in names] for when in (0, 1)]
    low, high = harm.label_mix_interval
    text = (
        f"How often the model predicts each label, and how sure it is. {100 * harm.label_mix_shift:.1f} % of the "
        "predictions would have to change to give the reference's mix "
        f"(95 % interval {100 * low:.1f} to {100 * high:.1f})."
    )
    chart = bars(names, ["reference", "current"], mix, "share of the predictions, %")
    return [Section("The predictions", text, figures=[chart, confidence])]


def _test(report: Report) -> list[Section]:
    result = report.result
    if result is None:
        return []
    text = (
        "Is this window of texts unlike the reference, the held-out texts of the training sources? The statistic "
        "measures how far apart they are as the model sees them; p is the chance of being at least so far apart if "
        "nothing had changed."
    )
    low, high = result.effect_interval
    facts = [
        ("texts tested (n)", result.n),
        ("reference texts (R)", result.reference_rows),
        ("statistic", f"{result.statistic:.4g} ({result.statistic_name.replace('_', ' ')})"),
        ("p-value", f"{result.p_value:.3g} (level {result.level:g})"),
        ("shift of the texts", f"{result.effect_size:.3f} sd (95 % interval {low:.3f} to {high:.3f})"),
        ("shift of the predictions", f"{result.head_shift:.3f} sd"),
        ("nearest source", result.nearest_source or "none"),
        ("calibration", f"{result.calibration}, {result.permutations:,} random splits, seed {result.seed}"),
    ]
    found = [Section("The test of the last window" if report.seen else "The test", text, facts)]
    if len(result.by_source) > 1:
        columns = ("source", "rows", "p_value", "statistic", "effect_size", "head_shift")
        header = ("source", "rows", "p-value", "statistic", "texts (sd)", "predictions (sd)")
        rows = [[test[column] for column in columns] for test in result.by_source]
        text = "The window has drifted only if it is unlike every source: the largest p-value decides."
        found.append(Section("Against each source", text, table=(header, rows), minor=True))
    return found


def when(at: str) -> str:
    """An ISO 8601 time in UTC, to the minute."""
    return f"{at[:16].replace('T', ' ')} UTC" if at else ""


def _distinct(texts: Iterable[str], most: int = EXAMPLES_SHOWN) -> list[str]:
    """The first `most` different texts, shortened."""
    found: dict[str, None] = {}
    for text in texts:
        found[text if len(text) <= CHARACTERS_SHOWN else text[: CHARACTERS_SHOWN - 1] + "…"] = None
        if len(found) == most:
            break
    return list(found)
