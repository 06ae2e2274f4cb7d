"""What a person sees at the end of `everbert run`: the same tables on the terminal and on one HTML page."""

from pathlib import Path
from typing import Any

from components.charts import bars
from components.drift.policy import large
from components.files import new_file
from components.report import Section, page
from pipelines.readable import columns

_DRIFT_COLUMNS = ["came in", "windows", "texts", "last p", "evidence", "alarm at", "effect (sd)", "verdict"]
Table = tuple[str, list[str], list[list[str]]]  # heading, header, rows


def summary(loop: Any, retrain: dict[str, Any] | None, versions: dict[str, str]) -> dict[str, Any]:
    """Plain values: accuracy by domain before and after, drift by window, the decision, seconds, requests, versions.

    `retrain` is the decision record of the retrain, or None if there was none.
    """
    sources = retrain["evaluation"]["sources"] if retrain else []
    return {
        "accuracy": [
            {
                "domain": s["source"],
                "rows": s["rows"],
                "before": s["champion_accuracy"],
                "after": s["challenger_accuracy"],
            }
            for s in sources
        ],
        "decision": {"verdict": retrain["verdict"], "reason": retrain["reason"]} if retrain else None,
        "drift": [_drift(window, check, loop.folder) for window, check in loop.checks.items()],
        "requests": {"answered": 0, "failed": 0} | loop.requests,
        "seconds": {name: round(seconds, 1) for name, seconds in loop.seconds.items()},
        "pipeline_seconds": [{name: round(s, 1) for name, s in run.seconds.items()} for run in loop.runs],
        "versions": versions,
        "folder": str(loop.folder),
        "report": str(loop.folder / "report.html"),
    }


def lead(result: dict[str, Any]) -> str:
    """The outcome in a sentence or two."""
    if not result["accuracy"]:
        return "No window drifted far enough for a retrain."
    changes = [f"{a['domain']} {a['before']:.3f} to {a['after']:.3f}" for a in result["accuracy"]]
    served = (
        "is served" if result["decision"]["verdict"] == "promote" else "was not proven better, so the champion stays"
    )
    requests = result["requests"]
    return (
        f"The retrained model {served}. Accuracy on held-out rows, before and after: {', '.join(changes)}. "
        f"{requests['failed']} of {requests['answered'] + requests['failed']} requests failed meanwhile."
    )


def tables(result: dict[str, Any]) -> list[Table]:
    """Every table, as text cells."""
    accuracy = [
        [a["domain"], str(a["rows"]), f"{a['before']:.3f}", f"{a['after']:.3f}", f"{a['after'] - a['before']:+.3f}"]
        for a in result["accuracy"]
    ]
    drift = [
        [
            d["window"],
            str(d["windows"]),
            str(d["rows"]),
            "-" if d["p_value"] is None else f"{d['p_value']:.2g}",
            large(d["evidence"]),
            large(d["bar"]),
            f"{d['effect_size']:.3f} ({d['effect_interval'][0]:.3f} to {d['effect_interval'][1]:.3f})",
            d["verdict"],
        ]
        for d in result["drift"]
    ]
    runs = [["first", "retrain"][i] if i < 2 else str(i) for i in range(len(result["pipeline_seconds"]))]
    steps = [
        [step, *(f"{run[step]:.1f}" if step in run else "-" for run in result["pipeline_seconds"])]
        for step in dict.fromkeys(step for run in result["pipeline_seconds"] for step in run)
    ]
    return [
        ("Accuracy on held-out rows", ["domain", "rows", "before", "after", "change"], accuracy),
        (
            "Drift checks",
            ["came in", "windows", "texts", "last p", "evidence", "alarm at", "effect (sd)", "verdict"],
            drift,
        ),
        ("Seconds", ["stage", "seconds"], [[name, f"{s:.1f}"] for name, s in result["seconds"].items()]),
        ("Seconds in the pipeline", ["step", *runs], steps),
        ("Versions", ["library", "version"], [[name, version] for name, version in result["versions"].items()]),
    ]


def as_text(result: dict[str, Any]) -> str:
    """The tables for a terminal, the sentence and where to look last, where the eye is."""
    blocks = [f"{heading}\n{columns(header, rows)}" for heading, header, rows in tables(result) if rows]
    return "\n\n".join([*blocks, lead(result), f"Report  {result['report']}\nFolder  {result['folder']}"])


def write_page(result: dict[str, Any]) -> Path:
    """The tables and a chart as one self-contained HTML page; returns its path."""
    sections = [Section(heading, table=(header, rows)) for heading, header, rows in tables(result) if rows]
    accuracy = result["accuracy"]
    if accuracy:
        values = [[a[when] for a in accuracy] for when in ("before", "after")]
        chart = bars([a["domain"] for a in accuracy], ["before", "after"], values)
        sections.insert(0, Section("Accuracy by domain", figures=[chart]))
    reasons = [(d["window"], d["reason"]) for d in result["drift"]]
    if result["decision"]:
        reasons.append((result["decision"]["verdict"], result["decision"]["reason"]))
    sections.insert(-3, Section("Reasons", facts=reasons))
    path = Path(result["report"])
    with new_file(path) as temporary:
        temporary.write_text(page("Everbert: the closed loop", lead(result), sections), encoding="utf-8")
    return path


def _drift(window: str, check: Any, folder: Path) -> dict[str, Any]:
    seen = check.seen
    return {
        "window": window,
        "rows": check.windows * seen.window_size,
        "windows": check.windows,
        "p_value": seen.p_value,
        "evidence": seen.evidence,
        "bar": seen.bar,
        "effect_size": seen.effect_size,
        "effect_interval": list(seen.effect_interval),
        "verdict": check.verdict.verdict,
        "reason": check.verdict.reason,
        "report": str(folder / check.report) if check.report else "",
        "record": check.record,
    }
