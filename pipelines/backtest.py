"""everbert backtest: a labelled history through retrain policies, as one table, one page and one JSON file."""

import contextlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from components.backtest.backtest import Replayed, backtest
from components.backtest.outcome import Outcome
from components.backtest.policies import Policy
from components.config import Settings
from components.errors import InputError
from components.files import write_json
from pipelines.backtest_report import write_page

PAGE, RESULT = "backtest.html", "backtest.json"


def run(
    stream: Sequence[str], policies: Sequence[Policy], settings: Settings, output: Path, work: Path, **options: Any
) -> dict[str, Any]:
    """Replay, and write page and JSON into `output`; returns what the JSON holds. `options` are those of `backtest`.

    Raises InputError if `output` or `work` is a file, and what `backtest` raises.
    """
    new = not output.exists()
    for folder in (output, work):  # now, not after hours of training
        if folder.exists() and not folder.is_dir():
            raise InputError(f"{folder} is a file; choose another folder for --output and --work-dir")
        folder.mkdir(parents=True, exist_ok=True)
    try:
        replayed = backtest(stream, policies, settings, work, **options)
    except BaseException:
        if new:
            with contextlib.suppress(OSError):  # somebody has put something there
                output.rmdir()
        raise
    result = as_result(replayed) | {"report": str(output / PAGE)}
    write_json(output / RESULT, result)
    write_page(result)
    return result


def as_result(replayed: Replayed) -> dict[str, Any]:
    """Plain values; no texts."""
    history = replayed.history
    held_out = history.held_out["source"].value_counts()
    came_in = {
        source: sum(len(window.rows) for window in history.windows if window.source == source)
        for source in history.sources
    }
    came_in[history.sources[0]] = len(history.first)
    return {
        "sources": [
            {"source": source, "rows": came_in[source], "held_out_rows": int(held_out[source])}
            for source in history.sources
        ],
        "first": {"held_out": replayed.first, **asdict(replayed.first_training)},
        "policies": [_row(outcome) for outcome in replayed.outcomes.values()],
        "courses": {name: [asdict(step) for step in steps] for name, steps in replayed.courses.items()},
    }


def _row(outcome: Outcome) -> dict[str, Any]:
    return asdict(outcome) | {"forgotten": outcome.forgotten, "most_forgotten": outcome.most_forgotten}
