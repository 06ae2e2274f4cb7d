"""How often the drift check cries wolf, how much it finds, and how that compares with alibi-detect and evidently.

    python benchmarks/drift_power.py --output drift_power.json          everything, about two hours of one core
    python benchmarks/drift_power.py --quick                            a few windows of each kind, minutes

Prints Markdown tables with exact 95 % intervals. What it makes (the fine-tuned model, the embeddings, the other
libraries' environment) stays in the work folder.
"""

import argparse
import hashlib
import inspect
import json
import os
import subprocess
import sys
import time
import venv
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import drift_windows
import numpy as np
from drift_rows import Domain, Rows, rows_of
from drift_windows import POWER, QUIET_SIZES, REFERENCE_ROWS, Cell, draw
from intervals import clopper_pearson, share, table

from components.config import DriftSettings
from components.drift import basis, calibration, statistics
from components.drift.basis import Basis
from components.drift.calibration import permutation_test
from components.drift.statistics import REGISTRY, named
from components.progress import progress

KINDS = ("fine-tuned", "pre-trained")
LEVELS = (0.01, 0.05)
ANCHOR_PACKAGES = ("alibi-detect[torch]==0.13.0", "evidently==0.7.23", "numpy==1.26.4")
WORKER = Path(__file__).with_name("drift_anchors.py")
SETTINGS = DriftSettings()
CONSTANT_SLICE = 0.5  # deviation of a slice whose unit is 1 by the pool, if it varies at all


def main() -> None:
    """Measure, print, and write the figures if asked."""
    options = _options()
    options.work.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {"reference_rows": REFERENCE_ROWS, "false_alarms": [], "power": [], "anchors": []}
    for kind in options.kinds:
        if "false-alarms" in options.parts:
            found["false_alarms"] += _false_alarms(kind, options)
        if "power" in options.parts:
            found["power"] += _power(kind, options)
        if "anchors" in options.parts:
            found["anchors"] += _anchors(kind, options)
        if options.output:
            options.output.write_text(json.dumps(found, indent=1), encoding="utf-8")
    _print(found)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path(".everbert/bench/drift"), help="folder for what it makes")
    parser.add_argument("--output", type=Path, help="JSON file for the figures")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, help="whose embeddings")
    parts = ("false-alarms", "power", "anchors")
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts, help="what to measure")
    parser.add_argument("--sizes", nargs="+", type=int, default=QUIET_SIZES, help="windows whose false alarms to count")
    parser.add_argument("--quiet-windows", type=int, default=4000, help="windows for each rate of false alarms")
    parser.add_argument("--windows", type=int, default=200, help="windows for each power")
    parser.add_argument("--anchor-windows", type=int, default=200, help="the same for the other libraries")
    parser.add_argument("--anchor-seconds", type=float, default=60, help="CPU seconds for each of their figures")
    parser.add_argument("--statistics", nargs="+", default=["sliced_wasserstein"], choices=tuple(REGISTRY))
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--quick", action="store_true", help="few windows, no other libraries")
    options = parser.parse_args()
    if options.quick:
        options.quiet_windows, options.windows, options.parts = 40, 10, ("false-alarms", "power")
    return options


def _false_alarms(kind: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """One entry a size: p-values of quiet windows, reference and window drawn together."""
    entries = []
    for n in options.sizes:
        tests = _test_all(kind, Cell("quiet", n, 0.01), options.quiet_windows, "sliced_wasserstein", options)
        hits = {str(level): int(sum(p <= level for p, _ in tests)) for level in LEVELS}
        entries.append({"kind": kind, "n": n, "windows": len(tests), "alarms": hits, "seconds": _mean_seconds(tests)})
    return entries


def _power(kind: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """One entry a cell and statistic."""
    entries = []
    for name in options.statistics:
        for cell in POWER:
            tests = _test_all(kind, cell, options.windows, name, options)
            alarms = int(sum(p <= cell.level for p, _ in tests))
            measured = {"kind": kind, "statistic": name, "windows": len(tests), "alarms": alarms}
            entries.append(measured | {"cell": asdict(cell), "seconds": _mean_seconds(tests)})
    return entries


def _mean_seconds(tests: list[tuple[float, float]]) -> float:
    return float(np.mean([seconds for _, seconds in tests]))


def _test_all(
    kind: str, cell: Cell, windows: int, statistic: str, options: argparse.Namespace
) -> list[tuple[float, float]]:
    """(p-value, CPU seconds) of each window. Written as they come, so that a run that was cut off goes on."""
    path = options.work / "p_values" / _code() / f"{kind}-{statistic}-{cell.name}-{cell.n}.csv".replace(" ", "-")
    path.parent.mkdir(parents=True, exist_ok=True)
    done = len(path.read_text(encoding="utf-8").splitlines()) if path.is_file() else 0
    test = partial(_test, options.work, kind, cell, statistic)
    with open(path, "a", encoding="utf-8") as file, ProcessPoolExecutor(options.processes) as pool:
        tests = pool.map(test, range(done, windows), chunksize=10)
        bar = progress(tests, description=f"{kind} {cell.name} n={cell.n}", total=windows - done, unit="window")
        for p_value, seconds in bar:
            file.write(f"{p_value},{seconds}\n")
            file.flush()
    lines = path.read_text(encoding="utf-8").splitlines()[:windows]
    return [(float(p_value), float(seconds)) for p_value, seconds in (line.split(",") for line in lines)]


def _code() -> str:
    """Digest of the code that tests, so that what another version measured is not taken over."""
    sources = (inspect.getsource(module) for module in (basis, calibration, statistics, drift_windows))
    return hashlib.sha256("".join(sources).encode()).hexdigest()[:12]


_loaded: dict[str, tuple[Rows, Basis, np.ndarray]] = {}  # by kind, one in each process


def _test(work: Path, kind: str, cell: Cell, statistic: str, number: int) -> tuple[float, float]:
    """The p-value of one window, as `detect` computes it."""
    if kind not in _loaded:
        rows = rows_of(work, kind)
        fitted = Basis.fit(rows.train.embeddings, rows.pool.embeddings, rows.pool.logits, SETTINGS.components)
        _loaded[kind] = rows, fitted, _projected(fitted, rows.pool)
    rows, fitted, pool = _loaded[kind]
    foreign = rows.foreign.get(cell.domain)
    window = draw(cell, number, rows.pool.labels, len(foreign.labels) if foreign else 0)
    own, known = pool[window.own], pool[window.reference]
    current = own if foreign is None else np.vstack([own, _projected(fitted, foreign, window.foreign)])
    # The unit of each slice comes from this reference alone, as in a model folder, not from the whole pool.
    unit = known.std(axis=0)
    unit[unit < CONSTANT_SLICE] = 1
    started = time.process_time()
    settings = fitted.layout, named(statistic), SETTINGS.permutations, number
    return permutation_test(current / unit, known / unit, *settings).p_value, time.process_time() - started


def _projected(fitted: Basis, domain: Domain, rows: Any = slice(None)) -> np.ndarray:
    return fitted.project(domain.embeddings[rows], domain.logits[rows])


def _anchors(kind: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """The other libraries on the same windows, by a worker in their own environment."""
    rows_of(options.work, kind)
    python = _environment(options.work / "anchors")
    cells = [*POWER, Cell("quiet", 500, 0.01), Cell("quiet", 100, 0.05)]
    request = {
        "rows": str(options.work / f"{kind}.npz"),
        "cells": [asdict(cell) for cell in cells],
        "windows": options.anchor_windows,
        "seconds": options.anchor_seconds,
    }
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    answer = subprocess.run(
        [python, WORKER], input=json.dumps(request), stdout=subprocess.PIPE, text=True, check=True, env=environment
    )
    return [{"kind": kind, **entry} for entry in json.loads(answer.stdout)]


def _environment(folder: Path) -> Path:
    """The Python of an environment with the pinned packages, made at the first use."""
    python = folder / "bin" / "python"
    if not (folder / ".ready").exists():
        venv.create(folder, with_pip=True, clear=True)
        # torch first and by itself: with a range, pip would take a CUDA build of several gigabytes.
        for packages in (("torch==2.13.0",), ANCHOR_PACKAGES):
            subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True, stdout=sys.stderr)
        (folder / ".ready").touch()
    return python


def _print(found: dict[str, Any]) -> None:
    sections: Iterable[tuple[str, Callable[[dict[str, Any]], str]]] = (
        ("false_alarms", _false_alarm_table),
        ("power", _power_table),
        ("anchors", _anchor_table),
    )
    for name, make in sections:
        if found[name]:
            print(f"\n{make(found)}")


def _false_alarm_table(found: dict[str, Any]) -> str:
    columns = ("embeddings", "n", "windows", *(f"alarms at {level:.0%}" for level in LEVELS), "CPU seconds a check")
    rows = [
        (e["kind"], e["n"], e["windows"], *(share(e["alarms"][str(level)], e["windows"], 4) for level in LEVELS),
         f"{e['seconds']:.2f}")
        for e in found["false_alarms"]
    ]  # fmt: skip
    return table(columns, rows)


def _power_table(found: dict[str, Any]) -> str:
    columns = ("embeddings", "statistic", "drift", "n", "level", "windows", "power", "aim", "CPU seconds a check")
    rows = [
        (e["kind"], e["statistic"], c["name"], c["n"], f"{c['level']:.0%}", e["windows"],
         share(e["alarms"], e["windows"]), c["target"], f"{e['seconds']:.2f}")
        for e in found["power"] for c in [e["cell"]]
    ]  # fmt: skip
    return table(columns, rows)


def _anchor_table(found: dict[str, Any]) -> str:
    """A method is marked where its rate on quiet windows is above the level beyond chance."""
    dishonest = {
        (e["kind"], e["method"], e["cell"]["n"])
        for e in found["anchors"]
        if e["cell"]["name"] == "quiet" and e["windows"] and _above(e)
    }
    columns = ("embeddings", "method", "drift", "n", "level", "windows", "alarms", "CPU seconds a check")
    rows = [
        (e["kind"], e["method"] + (" (false alarms above the level)" if key in dishonest else ""), c["name"], c["n"],
         f"{c['level']:.0%}", e["windows"], share(e["alarms"], e["windows"]), f"{e['seconds']:.2f}")
        for e in found["anchors"] for c in [e["cell"]] for key in [(e["kind"], e["method"], c["n"])]
    ]  # fmt: skip
    return table(columns, rows)


def _above(entry: dict[str, Any]) -> bool:
    return clopper_pearson(entry["alarms"], entry["windows"])[0] > entry["cell"]["level"]


if __name__ == "__main__":
    main()
