"""What a person sees of a back-test: the same tables on the terminal and on one HTML page."""

from pathlib import Path
from typing import Any

from components.backtest.outcome import mean
from components.backtest.policies import POLICIES
from components.charts import lines
from components.files import new_file
from components.report import Section, page
from pipelines.readable import columns

Table = tuple[list[str], list[list[str]]]


def summary_table(result: dict[str, Any]) -> Table:
    """One row a policy."""
    header = ["policy", "mean accuracy", "live accuracy", "most forgotten", "retrains", "promoted"]
    rows = [
        [
            p["policy"],
            f"{p['mean_accuracy']:.3f}",
            f"{p['live_accuracy']:.3f}",
            f"{p['most_forgotten']:.3f}",
            str(p["retrains"]),
            str(p["promoted"]),
            f"{p['training_rows']:,}",
            f"{p['training_cpu_seconds']:,.0f}",
        ]
        for p in result["policies"]
    ]
    return [*header, "training rows", "training CPU s"], rows


def accuracy_table(result: dict[str, Any]) -> Table:
    """By source: accuracy in the end, and in brackets the best on the way where that was higher."""
    sources = [s["source"] for s in result["sources"]]
    first = ["first champion", *(f"{result['first']['held_out'][s]:.3f}" for s in sources)]
    return ["policy", *sources], [first, *([p["policy"], *(_ended(p, s) for s in sources)] for p in result["policies"])]


def as_text(result: dict[str, Any]) -> str:
    """For a terminal: the table, accuracy by domain, and where to look."""
    blocks = [
        columns(*summary_table(result)),
        "Accuracy by domain in the end (best on the way)\n" + columns(*accuracy_table(result)),
        f"{lead(result)}\nReport  {result['report']}",
    ]
    return "\n\n".join(blocks)


def lead(result: dict[str, Any]) -> str:
    """The outcome in a sentence or two, the best policy first."""
    ranked = sorted(result["policies"], key=lambda p: p["mean_accuracy"], reverse=True)
    told = [f"{p['policy']} {p['mean_accuracy']:.3f} for {p['training_cpu_seconds']:,.0f} CPU seconds" for p in ranked]
    return (
        f"Mean accuracy over the held-out rows of {len(result['sources'])} domains in the end, and the cost of the "
        f"retrains: {', '.join(told)}."
    )


def write_page(result: dict[str, Any]) -> Path:
    """One self-contained HTML page; returns its path."""
    path = Path(result["report"])
    with new_file(path) as temporary:
        temporary.write_text(page("Everbert: retrain policies on history", lead(result), _sections(result)), "utf-8")
    return path


def _sections(result: dict[str, Any]) -> list[Section]:
    names = [p["policy"] for p in result["policies"]]
    start = mean(result["first"]["held_out"])
    held_out = [[start, *(mean(step["held_out"]) for step in course)] for course in result["courses"].values()]
    live = [[step["accuracy"] for step in course] for course in result["courses"].values()]
    windows = list(range(len(held_out[0])))
    return [
        Section("Policies", _EXPLAINED, table=summary_table(result)),
        Section("Accuracy over time", _HELD_OUT, figures=[lines(windows, names, held_out, "window", "mean accuracy")]),
        Section("On what came in", _LIVE, figures=[lines(windows[1:], names, live, "window", "accuracy")], minor=True),
        Section("Accuracy by domain", _BY_DOMAIN, table=accuracy_table(result)),
        Section("Retrains", table=(["policy", "window", "rows", "CPU s", "promoted", "decision"], _retrains(result))),
        Section("Domains", table=(["domain", "windows", "rows", "held-out rows"], _domains(result))),
        Section("What the policies do", facts=[(name, POLICIES[name].help) for name in names]),
    ]


_EXPLAINED = (
    "Mean accuracy: of the last champion on the held-out rows, which trained and judged nothing, each domain counting "
    "alike. Live accuracy: of whatever champion served, on all rows that came in. Most forgotten: how far the last "
    "champion is below the best on the way, in the domain where that is furthest. Training rows count once an epoch; "
    "rows and CPU seconds are those of the retrains, without the first training that all policies share."
)
_HELD_OUT = (
    "Of the champion after each window, on the held-out rows of all domains, those still to come among them. A step "
    "is a promotion."
)
_LIVE = "Of the champion that served, on each window before its labels were known."
_BY_DOMAIN = "On each domain's held-out rows in the end; in brackets the best on the way where that was higher."


def _ended(p: dict[str, Any], source: str) -> str:
    forgotten = p["forgotten"][source] > 0
    return f"{p['accuracy'][source]:.3f}" + (f" ({p['best'][source]:.3f})" if forgotten else "")


def _retrains(result: dict[str, Any]) -> list[list[Any]]:
    return [
        [
            name,
            step["window"],
            step["retrain"]["training_rows"],
            round(step["retrain"]["training_cpu_seconds"]),
            step["retrain"]["promoted"],
            step["retrain"]["reason"],
        ]
        for name, course in result["courses"].items()
        for step in course
        if step["retrain"]
    ]


def _domains(result: dict[str, Any]) -> list[list[Any]]:
    """In the order of time; the first trained the first champion and came in no window."""
    course = next(iter(result["courses"].values()))
    windows = {
        s["source"]: [step["window"] for step in course if step["source"] == s["source"]] for s in result["sources"]
    }
    return [[s["source"], _span(windows[s["source"]]), s["rows"], s["held_out_rows"]] for s in result["sources"]]


def _span(windows: list[int]) -> str:
    """1 to 4, 5, or the first training."""
    if not windows:
        return "first training"
    return f"{windows[0]} to {windows[-1]}" if len(windows) > 1 else str(windows[0])
