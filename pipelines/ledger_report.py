"""everbert report: what every retrain cost and gained, and why others were not done; on the terminal and on a page."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from components.accounting import outcomes
from components.accounting.cost import Cost
from components.accounting.outcomes import NOT_DONE, PROMOTED, Outcome
from components.charts import bars
from components.files import new_file, write_json
from components.report import Section, page
from components.storage import ObjectStore
from pipelines.readable import columns

_HEADER = ["when", "model", "verdict", "rows", "labels", "seconds", "CPU s", "GPU s", "gain by domain", "why"]
_LONGEST_WHY = 60  # characters of it in a line on a terminal
_EXPLAINED = (
    "Rows: trained on, replayed ones included. Labels: what the retrain's own sources brought; pseudo-labels are named. "
    "Seconds, CPU and GPU seconds: of prepare, train and evaluate; a GPU counts for as long as it was held. Gain: the "
    "challenger's accuracy on the held-out rows of a domain, less the champion's; none where the champion stayed."
)


def report(store: ObjectStore, model_name: str = "", output: str | Path | None = None) -> dict[str, Any]:
    """The ledger of a model, or of all, and its totals; also as ledger.html and ledger.json in the folder `output`."""
    lines = outcomes.read(store, model_name)
    result = {"bucket": store.bucket, "lines": [asdict(line) for line in lines], "totals": totals(lines)}
    if output is not None:
        path = Path(output) / "ledger.html"
        result["report"] = str(path)
        write_json(path.with_name("ledger.json"), result)
        with new_file(path) as temporary:
            temporary.write_text(page("Everbert: what the retrains cost and gained", lead(result), _sections(result)))
    return result


def totals(lines: list[Outcome]) -> dict[str, Any]:
    """Sums over all lines; `gain` adds up what each promotion gained in a domain."""
    done = [line for line in lines if line.verdict not in NOT_DONE]
    return {
        "trained": len(done),
        "promoted": sum(line.verdict == PROMOTED for line in done),
        "not_done": len(lines) - len(done),
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
        f"seconds and {sum(total['labels'].values()):,} labels; accuracy gained: {_gain(total['gain']) or 'none'}."
    )


def as_text(result: dict[str, Any]) -> str:
    """For a terminal: a line a retrain, the totals below."""
    where = [f"Report  {result['report']}"] if "report" in result else []
    if not result["lines"]:
        return "\n\n".join([lead(result), *where])
    rows = [[*_numbers(line), _cut(_why(line)).ljust(_LONGEST_WHY)] for line in result["lines"]]
    header = [*_HEADER[:-1], _HEADER[-1].ljust(_LONGEST_WHY)]
    table = columns(header, [*rows, [*_totals_row(result["totals"]), ""]])
    return "\n\n".join(["\n".join(line.rstrip() for line in table.splitlines()), lead(result), *where])


def _sections(result: dict[str, Any]) -> list[Section]:
    if not result["lines"]:
        return []
    gain = result["totals"]["gain"]
    drawn = [bars(list(gain), ["gain"], [list(gain.values())], "accuracy gained")] if gain else []
    rows = [_numbers(line) for line in result["lines"]]
    why = [[_when(line), line["verdict"], line["cause"], line["reason"], line["record"]] for line in result["lines"]]
    return [
        Section("The ledger", _EXPLAINED, table=(_HEADER[:-1], [*rows, _totals_row(result["totals"])])),
        *([Section("Gained by domain", "Over all promotions.", figures=drawn)] if drawn else []),
        Section("Why", table=(["when", "verdict", "asked for because", "what came of it", "record"], why)),
    ]


def _numbers(line: dict[str, Any]) -> list[str]:
    gain = _gain(line["gain"]) if line["gain"] or line["verdict"] in NOT_DONE else "first model"
    amounts = _amounts(line["rows"], line["labels"], line["cost"])
    return [_when(line), line["model_name"], line["verdict"], *amounts, gain or "-"]


def _totals_row(total: dict[str, Any]) -> list[str]:
    amounts = _amounts(total["rows"], total["labels"], total["cost"])
    return ["all", "", f"{total['promoted']} of {total['trained']}", *amounts, _gain(total["gain"]) or "-"]


def _amounts(rows: int, labels: dict[str, int], cost: dict[str, float]) -> list[str]:
    pseudo = labels.get("pseudo", 0)
    named = f"{sum(labels.values()) - pseudo:,}" + (f" + {pseudo:,} pseudo" if pseudo else "")
    return [f"{rows:,}", named, *(f"{cost[name]:,.1f}" for name in ("seconds", "cpu_seconds", "gpu_seconds"))]


def _gain(gain: dict[str, float]) -> str:
    ranked = sorted(gain.items(), key=lambda item: -item[1])
    return ", ".join(f"{domain} {value:+.3f}" for domain, value in ranked)


def _when(line: dict[str, Any]) -> str:
    return str(line["at"])[:16].replace("T", " ")


def _why(line: dict[str, Any]) -> str:
    """What asked for a retrain that was done, what stood in the way of one that was not."""
    return str(line["reason"] if line["verdict"] in NOT_DONE else line["cause"])


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_WHY else f"{text[: _LONGEST_WHY - 1]}…"
