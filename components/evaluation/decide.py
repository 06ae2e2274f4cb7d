"""decide: the champion stays unless there is proof that the challenger is better.

Pure functions of the evaluation and the settings, so that a decision can be made again from its record.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from scipy.stats import binomtest

from components.config import PromotionSettings
from components.evaluation.paired import can_tell, largest_loss, mcnemar

_BETTER = "better on the new domain"
_NO_TRUSTED_LABEL = (
    "No held-out row of the new domain has a trusted label, so nothing is proven on it and the champion stays: fill in "
    "the request for labels that `everbert check` writes under labels/requested/."
)
_WON_LOST_ROWS = ("only_challenger_right", "only_champion_right", "rows")
Condition = dict[str, Any]


@dataclass(frozen=True)
class Decision:
    """`verdict` is "promote" or "keep"; `reason` is in sentences; `conditions` says what each test found."""

    verdict: str
    reason: str
    conditions: list[Condition]

    @property
    def promoted(self) -> bool:
        return self.verdict == "promote"

    def record(self, evaluation: dict[str, Any], settings: PromotionSettings, new_sources: list[str]) -> dict[str, Any]:
        """The decision record: everything that `decide` saw, and what it said."""
        seen = {"evaluation": evaluation, "settings": asdict(settings), "new_sources": new_sources}
        return {"kind": "promotion", **seen, **asdict(self)}


def decide(evaluation: dict[str, Any], settings: PromotionSettings, new_sources: list[str]) -> Decision:
    """Promote or keep, from what `evaluate` found.

    Against a champion, all of this must hold: better on the held-out rows of `new_sources` (of all sources if it is
    empty; exact one-sided McNemar test); not worse within the margin on the golden set (the held-out rows of the old
    sources) and on every slice of it that is large enough to tell; not worse calibrated; and in the behavioural tests
    not behind. Without a champion: better than always answering the commonest label (exact binomial test).
    Either way the answers that would be served must be those of transformers.
    """
    if evaluation["champion"] is None:
        conditions = [_beats_majority(evaluation, settings)]
    else:
        new = [s for s in evaluation["slices"] if not new_sources or s["source"] in new_sources]
        old = [s for s in evaluation["slices"] if new_sources and s["source"] not in new_sources]
        conditions = [_better([s for s in new if s["by"] == "source"], settings)]
        conditions += _not_worse_anywhere(dict(_golden(old)), settings)
        conditions.append(_calibrated(evaluation, settings))
        conditions += _behaves(evaluation, settings)
    conditions += _as_the_reference(evaluation)
    failed = [c for c in conditions if not c["holds"]]
    verdict = "keep" if failed else "promote"
    return Decision(verdict, " ".join(c["finding"] for c in failed or _told(conditions)), conditions)


def _told(conditions: list[Condition]) -> list[Condition]:
    """Of conditions that all hold, those that a reason in words is made of: not each of many slices."""
    return [c for c in conditions if not c.get("slice")]


def _golden(old: list[dict[str, Any]]) -> Iterable[tuple[str, dict[str, int]]]:
    """The old sources together, each of them, and the slices of all of them: (name, counts)."""
    whole = [s for s in old if s["by"] == "source"]
    if whole:
        yield "", _sum(whole)
    for source in whole if len(whole) > 1 else []:
        yield f"source {source['source']}", _sum([source])
    for by, name in dict.fromkeys((s["by"], s["name"]) for s in old if s["by"] != "source"):
        yield f"{by} {name}", _sum([s for s in old if (s["by"], s["name"]) == (by, name)])


def _sum(parts: list[dict[str, Any]]) -> dict[str, int]:
    return {key: sum(part[key] for part in parts) for key in _WON_LOST_ROWS}


def _won_lost_rows(part: dict[str, int]) -> tuple[int, int, int]:
    won, lost, rows = (part[key] for key in _WON_LOST_ROWS)
    return won, lost, rows


def _beats_majority(evaluation: dict[str, Any], settings: PromotionSettings) -> Condition:
    rows, accuracy = evaluation["challenger"]["rows"], evaluation["challenger"]["accuracy"]
    share = evaluation["majority_share"]
    p = float(binomtest(round(accuracy * rows), rows, share, alternative="greater").pvalue)
    holds = p <= settings.level
    finding = (
        f"There is no champion yet; the challenger's accuracy of {accuracy:.3f} on {rows} held-out rows is "
        f"{'better' if holds else 'not provably better'} than always answering the commonest label "
        f"({share:.3f}, p = {p:.2g}, level {settings.level})."
    )
    return {"condition": "better than the commonest label", "holds": holds, "p_value": p, "finding": finding}


def _better(sources: list[dict[str, Any]], settings: PromotionSettings) -> Condition:
    if not sources:
        return {"condition": _BETTER, "holds": False, "p_value": 1.0, "gain": 0.0, "finding": _NO_TRUSTED_LABEL}
    total = _sum(sources)
    won, lost, rows = total["only_challenger_right"], total["only_champion_right"], total["rows"]
    p = mcnemar(won, lost)
    holds = p <= settings.level
    gain = (won - lost) / max(1, rows)
    names = ", ".join(s["source"] for s in sources)
    finding = (
        f"On the {rows} held-out rows of {names} the challenger is "
        f"{'better' if holds else 'not provably better'}: {gain:+.3f} accuracy, right where the champion is wrong on "
        f"{won} rows and wrong where it is right on {lost} (p = {p:.2g}, level {settings.level})."
    )
    return {"condition": _BETTER, "holds": holds, "p_value": p, "gain": gain, "finding": finding}


def _not_worse_anywhere(parts: dict[str, dict[str, int]], settings: PromotionSettings) -> Iterable[Condition]:
    """The golden set (no name) must be shown to lose no more than the margin; so must a slice that can show it.

    A slice too small for that may not veto by chance: it does so only on proof that it is worse, at a level that all
    such slices share (Bonferroni).
    """
    margins = {name: settings.slice_margin if name else settings.margin for name in parts}
    small = {
        name
        for name, part in parts.items()
        if name and not can_tell(*_won_lost_rows(part), margins[name], settings.level)
    }
    for name, part in parts.items():
        if name in small:
            yield _not_proven_worse(name, part, settings.level / len(small))
        else:
            yield _within(name, part, margins[name], settings.level)


def _within(name: str, part: dict[str, int], margin: float, level: float) -> Condition:
    won, lost, rows = _won_lost_rows(part)
    bound = largest_loss(won, lost, rows, level)
    holds = bound <= margin
    found = "within" if holds else "not provably within"
    told = f"at worst by {-bound:+.3f} (level {level}): {found} the margin of {margin}"
    return _on(name, part, told) | {"holds": holds, "largest_loss": bound}


def _not_proven_worse(name: str, part: dict[str, int], level: float) -> Condition:
    won, lost, _ = _won_lost_rows(part)
    p = mcnemar(lost, won)
    holds = p > level
    told = f"too few rows to tell, {'and not provably worse' if holds else 'yet provably worse'} (p = {p:.2g})"
    return _on(name, part, told) | {"holds": holds, "p_value": p, "level": level}


def _on(name: str, part: dict[str, int], told: str) -> Condition:
    won, lost, rows = _won_lost_rows(part)
    place = f"On the slice {name}" if name else "On the golden set"
    finding = f"{place} ({rows} rows) it changes accuracy by {(won - lost) / rows:+.3f}, {told}."
    return {"condition": f"not worse on {name or 'the golden set'}", "slice": name, "finding": finding}


def _calibrated(evaluation: dict[str, Any], settings: PromotionSettings) -> Condition:
    new, old = evaluation["challenger"]["ece"], evaluation["champion"]["ece"]
    holds = new - old <= settings.calibration_margin
    finding = (
        f"Its expected calibration error is {new:.3f}, the champion's {old:.3f}: "
        f"{'within' if holds else 'beyond'} the margin of {settings.calibration_margin}."
    )
    return {"condition": "not worse calibrated", "holds": holds, "ece": new, "finding": finding}


def _as_the_reference(evaluation: dict[str, Any]) -> Iterable[Condition]:
    parity = evaluation.get("parity")
    if parity:  # records made before it was measured have none
        finding = (
            f"The engine ({parity['dtype']}) gives {parity['texts']} texts the logits of transformers to within "
            f"{parity['largest_difference']:.2g}, {'within' if parity['holds'] else 'not within'} the bound of "
            f"{parity['bound']}, and {parity['other_labels']} of them another label."
        )
        name = "answers as transformers"
        yield {"condition": name, "slice": name, "holds": parity["holds"], "finding": finding}


def _behaves(evaluation: dict[str, Any], settings: PromotionSettings) -> Iterable[Condition]:
    before = {test["kind"]: test["pass_rate"] for test in evaluation["champion"].get("behaviours", [])}
    for test in evaluation["challenger"].get("behaviours", []):
        rate = test["pass_rate"]
        least = before.get(test["kind"], rate) - settings.behaviour_margin
        holds = rate >= least
        finding = (
            f"It passes {rate:.0%} of the {test['tests']} tests of {test['kind']}, "
            f"{'at least' if holds else 'less than'} the {max(least, 0):.0%} that the champion's rate asks for."
        )
        condition = f"behaves: {test['kind']}"
        yield {"condition": condition, "slice": test["kind"], "holds": holds, "pass_rate": rate, "finding": finding}
