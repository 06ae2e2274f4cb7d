"""What a person sees at the end of `everbert run`: one table, and one HTML page."""

from pathlib import Path
from typing import Any

from components.files import new_file
from components.report import Section, bars, page


def summary(loop: Any, evaluation: dict[str, Any] | None, library_versions: dict[str, str]) -> dict[str, Any]:
    """Plain values: accuracy by domain before and after the retrain, drift by window, seconds by step, versions."""
    sources = [] if evaluation is None else evaluation["sources"]
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
        "drift": [
            {
                "window": name, "rows": c.result.n, "statistic": c.result.statistic, "p_value": c.result.p_value,
                "effect_size": c.result.effect_size, "drifted": c.result.drifted, "verdict": c.verdict.verdict,
                "reason": c.verdict.reason, "report": str(c.report),
            }
            for name, c in loop.checks.items()
        ],
        "requests": loop.requests,
        "seconds": {name: round(s, 1) for name, s in loop.seconds.items()},
        "steps": [{name: round(s, 1) for name, s in run.seconds.items()} for run in loop.runs],
        "versions": library_versions,
        "folder": str(loop.folder),
        "report": str(loop.folder / "report.html"),
    }  # fmt: skip


def table(result: dict[str, Any]) -> str:
    """The summary as text, for a terminal."""
    blocks = [
        _columns(
            ["accuracy on held-out rows", "rows", "before", "after", "change"],
            [
                [
                    a["domain"],
                    str(a["rows"]),
                    f"{a['before']:.3f}",
                    f"{a['after']:.3f}",
                    f"{a['after'] - a['before']:+.3f}",
                ]
                for a in result["accuracy"]
            ],
        ),
        _columns(
            ["drift check", "rows", "statistic", "p", "effect (sd)", "verdict"],
            [
                [
                    d["window"],
                    str(d["rows"]),
                    f"{d['statistic']:.2f}",
                    f"{d['p_value']:.3g}",
                    f"{d['effect_size']:.3f}",
                    d["verdict"],
                ]
                for d in result["drift"]
            ],
        ),
        _columns(["step", "seconds"], [[name, f"{s:.1f}"] for name, s in result["seconds"].items()]),
        _columns(
            ["requests during the roll-over, by model version", ""],
            [[v, str(n)] for v, n in result["requests"].items()],
        ),
        "versions: " + ", ".join(f"{name} {v}" for name, v in result["versions"].items()),
    ]
    return "\n\n".join(blocks)


def write_page(result: dict[str, Any]) -> Path:
    """The summary as one self-contained HTML page; returns its path."""
    accuracy = result["accuracy"]
    gained = [a["after"] - a["before"] for a in accuracy]
    lead = (
        f"Accuracy changed by at most {max(gained, key=abs):+.3f} on a domain." if gained else "There was no retrain."
    )
    sections = []
    if accuracy:
        chart = bars(
            [a["domain"] for a in accuracy],
            ["before", "after"],
            [[a[k] for a in accuracy] for k in ("before", "after")],
        )
        sections.append(Section("Accuracy on held-out rows", figures=[chart]))
    sections += [
        Section(
            "Drift checks",
            table=(
                ["window", "rows", "statistic", "p", "effect size (sd)", "verdict", "reason"],
                [
                    [
                        d["window"],
                        str(d["rows"]),
                        f"{d['statistic']:.2f}",
                        f"{d['p_value']:.3g}",
                        f"{d['effect_size']:.3f}",
                        d["verdict"],
                        d["reason"],
                    ]
                    for d in result["drift"]
                ],
            ),
        ),
        Section(
            "Seconds by step", table=(["step", "seconds"], [[n, f"{s:.1f}"] for n, s in result["seconds"].items()])
        ),
        Section("Requests during the roll-over", facts=[(v, str(n)) for v, n in result["requests"].items()]),
        Section("Versions", facts=list(result["versions"].items())),
    ]
    path = Path(result["report"])
    with new_file(path) as temporary:
        temporary.write_text(page("Everbert: the closed loop", lead, sections), encoding="utf-8")
    return path


def _columns(header: list[str], rows: list[list[str]]) -> str:
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = [
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in [header, *rows]
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])
