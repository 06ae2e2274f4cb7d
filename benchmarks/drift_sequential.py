"""A false-retrain budget, kept for a year: simulated years of hourly checks against one reference each.

    python benchmarks/drift_sequential.py --output drift_sequential.json     about half an hour of one core
    python benchmarks/drift_sequential.py --quick                            a minute or two

Each reference is drawn once and stays; its quiet windows are cut, disjoint, from the other held-out rows, and tested
as `everbert check` tests them. A year is 8,760 checks drawn from its reference's own p-values. The rows outside the
reference are as few as the pool has, so they differ from the reference more than an endless stream would.
"""

import argparse
import json
import os
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from drift_rows import Rows, rows_of
from intervals import share, table

from components.config import DriftSettings
from components.drift.basis import Basis
from components.drift.calibration import permutation_test
from components.drift.reference import REFERENCE_TO_WINDOW
from components.drift.sequential import START, bar, bet
from components.drift.statistics import named
from components.progress import progress

CHECKS_A_YEAR, BUDGET = 8760, 0.01
SHIFTS = {"25 % amazon": ("amazon", 0.25), "100 % amazon": ("amazon", 1.0), "100 % tweets": ("tweets", 1.0)}
LONGEST_DELAY = 200
SETTINGS = DriftSettings()


def main() -> None:
    """Measure, print, and write the figures if asked."""
    options = _options()
    options.work.mkdir(parents=True, exist_ok=True)
    rows_of(options.work, options.kind)
    with ProcessPoolExecutor(options.processes) as pool:
        tests = pool.map(partial(_p_values, options), range(options.references))
        references = list(progress(tests, description="references", total=options.references, unit="reference"))
    found = _figures(references, options)
    if options.output:
        options.output.write_text(json.dumps(found | {"p_values": references}, indent=1), encoding="utf-8")
    _print(found)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path(".everbert/bench/drift"), help="folder of drift_power.py")
    parser.add_argument("--output", type=Path, help="JSON file for the figures and every p-value")
    parser.add_argument("--kind", choices=("fine-tuned", "pre-trained"), default="fine-tuned", help="whose embeddings")
    parser.add_argument("--reference-rows", type=int, default=1000, help="rows of each reference")
    parser.add_argument("--window-rows", type=int, help="rows of each window; a tenth of the reference's if not given")
    parser.add_argument("--references", type=int, default=20, help="references drawn")
    parser.add_argument("--quiet-windows", type=int, default=1000, help="quiet windows tested for each reference")
    parser.add_argument("--drifted-windows", type=int, default=40, help="windows of each drift for each reference")
    parser.add_argument("--years", type=int, default=2000, help="simulated years in all")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--quick", action="store_true", help="few references and windows")
    options = parser.parse_args()
    options.window_rows = options.window_rows or options.reference_rows // REFERENCE_TO_WINDOW
    if options.quick:
        options.references, options.quiet_windows, options.drifted_windows = 4, 60, 6
    return options


def _p_values(options: argparse.Namespace, number: int) -> dict[str, list[float]]:
    """Of one reference: p-values of its quiet windows and of each kind of drifted ones."""
    rows = rows_of(options.work, options.kind)
    generator = np.random.default_rng(number)
    held_out, others = np.split(generator.permutation(len(rows.pool.labels)), [options.reference_rows])
    embeddings, logits = rows.pool.embeddings, rows.pool.logits
    basis = Basis.fit(rows.train.embeddings, embeddings[held_out], logits[held_out], SETTINGS.components)
    known, rest = (basis.project(embeddings[part], logits[part]) for part in (held_out, others))
    size = options.window_rows

    def p_value(window: np.ndarray) -> float:
        seed = int(generator.integers(2**31))
        statistic = named(SETTINGS.statistic)
        return permutation_test(window, known, basis.layout, statistic, SETTINGS.permutations, seed).p_value

    passes = -(-options.quiet_windows * size // len(rest)) + 1
    quiet = (window for _ in range(passes) for window in _cut(generator.permutation(rest), size))
    found = {"quiet": [p_value(window) for window, _ in zip(quiet, range(options.quiet_windows), strict=False)]}
    for name, (domain, part) in SHIFTS.items():
        windows = (_mixed(rows, basis, rest, size, domain, part, generator) for _ in range(options.drifted_windows))
        found[name] = [p_value(window) for window in windows]
    return found


def _cut(rows: np.ndarray, size: int) -> list[np.ndarray]:
    """Disjoint windows; what is left over is left out."""
    return [rows[start : start + size] for start in range(0, len(rows) - size + 1, size)]


def _mixed(
    rows: Rows, basis: Basis, rest: np.ndarray, size: int, domain: str, part: float, generator: np.random.Generator
) -> np.ndarray:
    """A window with so large a part from a foreign domain."""
    foreign = rows.foreign[domain]
    others = generator.permutation(len(foreign.labels))[: round(part * size)]
    own = generator.permutation(len(rest))[: size - len(others)]
    return np.vstack([rest[own], basis.project(foreign.embeddings[others], foreign.logits[others])])


def _figures(references: list[dict[str, list[float]]], options: argparse.Namespace) -> dict[str, Any]:
    generator = np.random.default_rng(1)
    limit = bar(BUDGET, CHECKS_A_YEAR)
    years = -(-options.years // len(references))
    alarmed = [_years_alarmed(_bets(r["quiet"]), years, limit, generator) for r in references]
    delays = {
        name: np.concatenate([_delays(_bets(r[name]), years, limit, generator) for r in references]) for name in SHIFTS
    }
    quiet = np.concatenate([r["quiet"] for r in references])
    return {
        "kind": options.kind,
        "reference_rows": options.reference_rows,
        "window": options.window_rows,
        "bar": limit,
        "years": years * len(references),
        "years_with_an_alarm": int(sum(alarmed)),
        "by_reference": alarmed,
        "quiet_windows": len(quiet),
        "quiet_alarms": {str(level): int((quiet <= level).sum()) for level in (0.01, 0.05)},
        "delays": {name: [float(np.quantile(d, q)) for q in (0.5, 0.9)] for name, d in delays.items()},
        "never": {name: float(np.mean(d > LONGEST_DELAY)) for name, d in delays.items()},
    }


def _bets(p_values: list[float]) -> np.ndarray:
    return np.array([bet(p) for p in p_values])


def _years_alarmed(bets: np.ndarray, years: int, limit: float, generator: np.random.Generator) -> int:
    """How many of the years have any alarm."""
    evidence, alarmed = np.full(years, START), np.zeros(years, dtype=bool)
    for _ in range(CHECKS_A_YEAR):
        evidence = np.maximum(evidence, 1) * generator.choice(bets, years)
        alarmed |= evidence >= limit
    return int(alarmed.sum())


def _delays(bets: np.ndarray, tries: int, limit: float, generator: np.random.Generator) -> np.ndarray:
    """[tries] checks from the change to the alarm; LONGEST_DELAY + 1 where it does not come by then."""
    drawn = generator.choice(bets, (LONGEST_DELAY, tries))
    evidence, delays = np.full(tries, START), np.full(tries, LONGEST_DELAY + 1)
    for check, at_check in enumerate(drawn, start=1):
        evidence = np.maximum(evidence, 1) * at_check
        delays = np.where((evidence >= limit) & (delays > LONGEST_DELAY), check, delays)
    return delays


def _print(found: dict[str, Any]) -> None:
    print(f"\n{found['kind']} embeddings, one reference of {found['reference_rows']} rows a year, windows of "
          f"{found['window']}, bar {found['bar']:,.0f}.\n")  # fmt: skip
    rows = [
        ("years with a false retrain", share(found["years_with_an_alarm"], found["years"], 4), found["years"]),
        *(
            (f"quiet windows with p <= {level}", share(hits, found["quiet_windows"], 4), found["quiet_windows"])
            for level, hits in found["quiet_alarms"].items()
        ),
    ]
    print(table(("", "share", "of"), rows) + "\n")
    delays = [
        (name, f"{d[0]:.0f}", f"{d[1]:.0f}", f"{found['never'][name]:.3f}") for name, d in found["delays"].items()
    ]
    print(table(("drift", "median checks to the alarm", "90 % within", f"none within {LONGEST_DELAY}"), delays))


if __name__ == "__main__":
    main()
