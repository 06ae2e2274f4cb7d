"""decide: the champion stays unless there is proof that the challenger is better.

Pure functions of the evaluation and the settings, so that a decision can be made again from its record.
"""

from dataclasses import asdict, dataclass
from typing import Any

from scipy.stats import binomtest

from components.config import PromotionSettings


@dataclass(frozen=True)
class Decision:
    """`verdict` is "promote" or "keep"; `reason` is a sentence; `conditions` says what each test found."""

    verdict: str
    reason: str
    conditions: list[dict[str, Any]]

    @property
    def promoted(self) -> bool:
        return self.verdict == "promote"

    def record(self, evaluation: dict[str, Any], settings: PromotionSettings, new_sources: list[str]) -> dict[str, Any]:
        """The decision record: everything that `decide` saw, and what it said."""
        seen = {"evaluation": evaluation, "settings": asdict(settings), "new_sources": new_sources}
        return {"kind": "promotion", **seen, **asdict(self)}


def decide(evaluation: dict[str, Any], settings: PromotionSettings, new_sources: list[str]) -> Decision:
    """Promote or keep, from what `evaluate` found.

    Against a champion: better on the held-out rows of `new_sources` (of all sources if it is empty; exact one-sided
    McNemar test), and on every old source no more than `settings.margin` less accurate. Without a champion: better
    than always answering the commonest label (exact binomial test).
    """
    if evaluation["champion"] is None:
        conditions = [_beats_majority(evaluation, settings)]
    else:
        fresh = [s for s in evaluation["sources"] if not new_sources or s["source"] in new_sources]
        old = [s for s in evaluation["sources"] if new_sources and s["source"] not in new_sources]
        conditions = [_better(fresh, settings)] + [_not_worse(s, settings) for s in old]
    failed = [c for c in conditions if not c["holds"]]
    verdict = "keep" if failed else "promote"
    return Decision(verdict, " ".join(c["finding"] for c in failed or conditions), conditions)


def mcnemar(only_challenger_right: int, only_champion_right: int) -> float:
    """Exact one-sided p-value that the challenger is no better (McNemar 1947); 1 if the two never differ."""
    discordant = only_challenger_right + only_champion_right
    if discordant == 0:
        return 1.0
    return float(binomtest(only_challenger_right, discordant, 0.5, alternative="greater").pvalue)


def _beats_majority(evaluation: dict[str, Any], settings: PromotionSettings) -> dict[str, Any]:
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


def _better(sources: list[dict[str, Any]], settings: PromotionSettings) -> dict[str, Any]:
    won = sum(s["only_challenger_right"] for s in sources)
    lost = sum(s["only_champion_right"] for s in sources)
    rows, p = sum(s["rows"] for s in sources), mcnemar(won, lost)
    holds = bool(sources) and p <= settings.level
    gain = (won - lost) / max(1, rows)
    names = ", ".join(s["source"] for s in sources) or "no new source"
    finding = (
        f"On the {rows} held-out rows of {names} the challenger is "
        f"{'better' if holds else 'not provably better'}: {gain:+.3f} accuracy, right where the champion is wrong on "
        f"{won} rows and wrong where it is right on {lost} (p = {p:.2g}, level {settings.level})."
    )
    return {"condition": "better on the new domain", "holds": holds, "p_value": p, "gain": gain, "finding": finding}


def _not_worse(source: dict[str, Any], settings: PromotionSettings) -> dict[str, Any]:
    loss = source["champion_accuracy"] - source["challenger_accuracy"]
    too_few = source["rows"] < settings.minimum_slice
    holds = too_few or loss <= settings.margin
    finding = (
        f"On {source['source']} ({source['rows']} rows) it changes accuracy by {-loss:+.3f}, "
        f"{'within' if loss <= settings.margin else 'beyond'} the margin of {settings.margin}"
        f"{'; too few rows to veto' if too_few else ''}."
    )
    return {"condition": f"not worse on {source['source']}", "holds": holds, "loss": loss, "finding": finding}
