"""What each retrain policy makes of the stream movies -> amazon -> tweets -> nyt.

    python benchmarks/stream.py              three seeds; about an hour and a half of one core
    python benchmarks/stream.py --seeds 13 --policies everbert

`everbert backtest` on the reviews in samples/, each domain after the first as one window, a week after the one before.
The seed decides which rows are held out, the splits, and the training. All policies run on the first seed, everbert
alone on the others. Prints accuracy by domain in the end with the best on the way, what was forgotten, and the cost of
the retrains.
"""

import argparse
import csv
import json
from hashlib import sha256
from pathlib import Path
from typing import Any

from drift_rows import BASE, FOREIGN, SAMPLES
from intervals import table

from components import config, logs
from components.backtest.outcome import mean
from components.backtest.policies import named
from components.data.sources import read
from pipelines.backtest import run

SEEDS = (13, 14, 15)
POLICIES = ("never", "naive", "everbert", "everything")
WHOLE = 10_000  # rows a window: more than a domain has
WEEK = 168.0  # hours


def main() -> None:
    """Replay each seed, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path(".everbert/bench/stream"), help="folder for what it makes")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--policies", nargs="+", default=POLICIES, help="on the first seed")
    parser.add_argument("--window", type=int, default=WHOLE, help="rows that come in together")
    parser.add_argument("--config", help="settings file, as for everbert")
    parser.add_argument("--output", type=Path, help="JSON file for the figures")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    logs.configure(path=options.work / "events.log")  # each step as it is done, for those who wait
    stream = write_stream(options.work)
    found = {}
    for place, seed in enumerate(options.seeds):
        policies = options.policies if place == 0 else ["everbert"]
        settings = config.load(options.config, {section: {"seed": seed} for section in ("data", "training", "drift")})
        folder = options.work / f"seed-{seed}"
        found[seed] = run(
            stream, named(policies), settings, folder, folder, base_model=BASE, window=options.window, hours=WEEK
        )
        print(f"Seed {seed}\n\n{as_table(found[seed])}\n", flush=True)
    if len(found) > 1:
        ours = [p for result in found.values() for p in result["policies"] if p["policy"] == "everbert"]
        print("everbert: mean accuracy {:.4f} over the seeds, most forgotten {:.4f}, {:.0f} CPU s".format(*means(ours)))
    if options.output:
        options.output.write_text(json.dumps(found, indent=1), encoding="utf-8")


def write_stream(work: Path) -> list[str]:
    """The four CSV files, in the order of time."""
    archives = [SAMPLES / place / "movies.tar.gz" for place in ("", "held_out")]
    movies, held_out = ([(row.text, row.label) for row in read(str(a), config.DataSettings())] for a in archives)
    # The held-out ones in the order in which samples/make.py chose them: rows that come in together train together.
    movies += _labelled("movies") + sorted(held_out, key=lambda row: sha256(row[0].encode()).digest())
    domains = {"movies": movies} | {name: _labelled(file) for name, file in FOREIGN.items()}
    for name, rows in domains.items():
        with open(work / f"{name}.csv", "w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([("text", "label"), *rows])
    return [str(work / f"{name}.csv") for name in domains]


def as_table(result: dict[str, Any]) -> str:
    """Markdown: a row a policy."""
    domains = [source["source"] for source in result["sources"]]
    columns = ("policy", *domains, "mean", "most forgotten", "retrains", "promoted", "training rows", "training CPU s")
    first = result["first"]["held_out"]
    rows = [("first champion", *(f"{first[d]:.3f}" for d in domains), f"{mean(first):.4f}", "", "", "", "", "")]
    for p in result["policies"]:
        ended = (f"{p['accuracy'][d]:.3f} ({p['best'][d]:.3f})" for d in domains)
        cost = (p["retrains"], p["promoted"], f"{p['training_rows']:,}", f"{p['training_cpu_seconds']:.0f}")
        rows.append((p["policy"], *ended, f"{p['mean_accuracy']:.4f}", f"{p['most_forgotten']:.4f}", *cost))
    return table(columns, rows)


def means(outcomes: list[dict[str, Any]]) -> list[float]:
    """Over the seeds: mean accuracy, most forgotten, CPU seconds of training."""
    names = ("mean_accuracy", "most_forgotten", "training_cpu_seconds")
    return [sum(p[name] for p in outcomes) / len(outcomes) for name in names]


def _labelled(name: str) -> list[tuple[str, str]]:
    tables = []
    for folder in ("labels", "incoming"):
        with open(SAMPLES / folder / f"{name}.csv", encoding="utf-8", newline="") as file:
            tables.append({row["id"]: row for row in csv.DictReader(file)})
    return [(row["text"], tables[0][row_id]["label"]) for row_id, row in tables[1].items()]


if __name__ == "__main__":
    main()
