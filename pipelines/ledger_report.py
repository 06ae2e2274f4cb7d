"""everbert report: what every retrain cost and gained, and why others were not done; on the terminal and on a page."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from components.accounting import outcomes
from components.accounting.cost import Cost
from components.accounting.outcomes import KEPT, NOT_DONE, PROMOTED, Outcome
from components.charts import bars
from components.files import new_file, write_json
from components.report import Section, page
from components.storage import ObjectStore
from pipelines.readable import columns

_HEADER = ["when", "verdict", "gain by domain", "rows", "labels", "seconds", "CPU s", "GPU s"]
ROLLED_BACK, DONE_LATER = "rolled back", "done later"
_TRAINED = (PROMOTED, KEPT, ROLLED_BACK)
_ROLLBACKS = "decisions/rollback-"  # then the model version and the time, as components/deployment/rollback.py has it
_LONGEST_WHY = 60  # characters of it in a line on a terminal
_GAINED = (
    "Accuracy of the challenger on the held-out rows of a domain, less the champion's; none where the champion stayed. "
    "The chart adds up all promotions."
)
_COST = (
    "Rows: trained on, replayed ones too. Labels: what the retrain's own sources brought; pseudo-labels are named. "
    "Seconds, CPU and GPU seconds: of prepare, train and evaluate; a GPU counts for as long as it was held."
)


def report(store: ObjectStore, model_name: str = "", output: str | Path | None = None) -> dict[str, Any]:
    """The ledger of a model, or of all, and its totals; also as ledger.html and ledger.json in the folder `output`."""
    lines = _as_it_stands(store, outcomes.read(store, model_name))
    result = {"bucket": store.bucket, "lines": [asdict(line) for line in lines], "totals": totals(lines)}
    if output is not None:
        path = Path(output) / "ledger.html"
        result["report"] = str(path)
        write_json(path.with_name("ledger.json"), result)
        with new_file(path) as temporary:
            temporary.write_text(page("Everbert: what the retrains cost and gained", lead(result), _sections(result)))
    return result


def _as_it_stands(store: ObjectStore, lines: list[Outcome]) -> list[Outcome]:
    """As seen from today: a champion that was rolled back has gained nothing, and a retrain that waited may be done."""
    gone = {item.key.removeprefix(_ROLLBACKS).rpartition("-")[0] for item in store.list(_ROLLBACKS)}
    done = {(line.model_name, line.champion): line.at for line in lines if line.verdict in _TRAINED}

    def now(line: Outcome) -> Outcome:
        if line.verdict == PROMOTED and line.challenger in gone:
            return replace(line, verdict=ROLLED_BACK, gain=dict.fromkeys(line.gain, 0.0))
        if line.verdict in ("wait", "warn") and done.get((line.model_name, line.champion), "") > line.at:
            return replace(line, verdict=DONE_LATER)
        return line

    return [now(line) for line in lines]


def totals(lines: list[Outcome]) -> dict[str, Any]:
    """Sums over all lines; `gain` adds up what each promotion gained in a domain."""
    done = [line for line in lines if line.verdict in _TRAINED]
    return {
        "trained": len(done),
        "promoted": sum(line.verdict == PROMOTED for line in done),
        "not_done": sum(line.verdict in NOT_DONE for line in lines),
        "rows": sum(line.rows for line in lines),
        "labels": _added([line.labels for line in lines]),
        "cost": asdict(sum((line.cost for line in lines), Cost())),
        "gain": _added([line.gain for line in lines]),
    }


def _added(parts: list[dict[str, Any]]) -> dict[str, Any]:
    return {name: sum(part.get(name, 0) for part in parts) for name in dict.fromkeys(n for part in parts for n in part)}


def lead(result: dict[str, Any]) -> str:
    """The whole ledger in a sentence or two."""
    total = result["totals"]
    if not result["lines"]:
        return f"The ledger of s3://{result['bucket']} is empty: nothing was trained, and no retrain asked for."
    cost = total["cost"]
    return (
        f"{total['trained']} trained, {total['promoted']} promoted, {total['not_done']} asked for and not done. All in "
        f"all {cost['seconds']:,.0f} seconds, {cost['cpu_seconds']:,.0f} CPU seconds, {cost['gpu_seconds']:,.0f} GPU "
        f"seconds and {sum(total['labels'].values()):,} labels; accuracy gained: {_gain(total['gain'])}."
    )


def as_text(result: dict[str, Any]) -> str:
    """For a terminal: a line a retrain, the totals below."""
    where = [f"Report  {result['report']}"] if "report" in result else []
    if not result["lines"]:
        return "\n\n".join([lead(result), *where])
    why = [_cut(_why(line)) for line in result["lines"]]
    width = max(map(len, why))  # `columns` sets cells to the right
    rows = [[*_numbers(line), text.ljust(width)] for line, text in zip(result["lines"], why, strict=True)]
    table = columns([*_HEADER, "why".ljust(width)], [*rows, [*_totals_row(result["totals"]), ""]])
    return "\n\n".join(["\n".join(line.rstrip() for line in table.splitlines()), lead(result), *where])


def _sections(result: dict[str, Any]) -> list[Section]:
    if not result["lines"]:
        return []
    gain = result["totals"]["gain"]
    drawn = [bars(list(gain), ["gain"], [list(gain.values())], "accuracy gained")] if gain else []
    rows = [*(_numbers(line) for line in result["lines"]), _totals_row(result["totals"])]
    gained, cost = (
        (_HEADER[:3], [row[:3] for row in rows]),
        ([_HEADER[0], *_HEADER[3:]], [[row[0], *row[3:]] for row in rows]),
    )
    why = [(f"{_when(line)} {line['model_name']}: {line['verdict']}", _told(line)) for line in result["lines"]]
    return [
        Section("What was gained", _GAINED, table=gained, figures=drawn),
        Section("What it cost", _COST, table=cost),
        Section("Why", facts=why),
    ]


def _numbers(line: dict[str, Any]) -> list[str]:
    first = not line["gain"] and line["verdict"] in _TRAINED
    gain = "first model" if first else _gain(line["gain"])
    return [_when(line), line["verdict"], gain, *_amounts(line["rows"], line["labels"], line["cost"])]


def _totals_row(total: dict[str, Any]) -> list[str]:
    promoted, amounts = (
        f"{total['promoted']} of {total['trained']}",
        _amounts(total["rows"], total["labels"], total["cost"]),
    )
    return ["all", promoted, _gain(total["gain"]), *amounts]


def _amounts(rows: int, labels: dict[str, int], cost: dict[str, float]) -> list[str]:
    pseudo = labels.get("pseudo", 0)
    named = f"{sum(labels.values()) - pseudo:,}" + (f" + {pseudo:,} pseudo" if pseudo else "")
    return [f"{rows:,}", named, *(f"{cost[name]:,.1f}" for name in ("seconds", "cpu_seconds", "gpu_seconds"))]


def _gain(gain: dict[str, float]) -> str:
    changed = sorted(((domain, value) for domain, value in gain.items() if value), key=lambda item: -item[1])
    return ", ".join(f"{domain} {value:+.3f}" for domain, value in changed) or "none"


def _when(line: dict[str, Any]) -> str:
    return str(line["at"])[:16].replace("T", " ")


def _why(line: dict[str, Any]) -> str:
    """What asked for a retrain that was done, what stood in the way of one that was not (the last sentence of it)."""
    return str(line["reason"]).rstrip(".").split(". ")[-1] if line["verdict"] not in _TRAINED else str(line["cause"])


def _told(line: dict[str, Any]) -> str:
    record = f" ({line['record']})" if line["record"] else ""
    return f"Asked for: {line['cause'].rstrip('.')}. Came of it: {line['reason'].rstrip('.')}{record}."


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_WHY else f"{text[: _LONGEST_WHY - 1]}…"
