"""alibi-detect and evidently on the windows of drift_power.py, run by it in an environment of their own.

Reads a request as JSON on stdin (rows, cells, windows, seconds), writes one entry a method and cell as JSON. Each
method runs as its documentation shows it, on the raw embeddings, at the cell's level where it takes one.
"""

import contextlib
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from drift_windows import Cell, draw

Alarm = Callable[[np.ndarray, np.ndarray, float], bool]


def _alibi(name: str) -> Alarm:
    def alarm(known: np.ndarray, current: np.ndarray, level: float) -> bool:
        from alibi_detect.cd import ClassifierDrift, KSDrift, LSDDDrift, MMDDrift
        from sklearn.linear_model import LogisticRegression

        makers: dict[str, Callable[[], Any]] = {
            "MMD": lambda: MMDDrift(known, backend="pytorch", p_val=level),
            "LSDD": lambda: LSDDDrift(known, backend="pytorch", p_val=level),
            "KS": lambda: KSDrift(known, p_val=level),
            "classifier": lambda: ClassifierDrift(
                known, LogisticRegression(max_iter=200), backend="sklearn", p_val=level, preds_type="probs", n_folds=5
            ),
        }
        return bool(makers[name]().predict(current)["data"]["is_drift"])

    return alarm


def _evidently(name: str, **options: Any) -> Alarm:
    def alarm(known: np.ndarray, current: np.ndarray, level: float) -> bool:
        from evidently.legacy.metrics.data_drift import embedding_drift_methods as methods

        if options.get("bootstrap"):
            options["quantile_probability"] = 1 - level
        return bool(getattr(methods, name)(**options)(pd.DataFrame(current), pd.DataFrame(known))[1])

    return alarm


METHODS: dict[str, Alarm] = {
    "alibi-detect MMD": _alibi("MMD"),
    "alibi-detect LSDD": _alibi("LSDD"),
    "alibi-detect KS": _alibi("KS"),
    "alibi-detect classifier": _alibi("classifier"),
    "evidently model": _evidently("model"),
    "evidently model, bootstrap": _evidently("model", bootstrap=True),
    "evidently distance": _evidently("distance"),
    "evidently distance, bootstrap": _evidently("distance", bootstrap=True),
    "evidently mmd": _evidently("mmd"),
    "evidently ratio": _evidently("ratio"),
}


def main() -> None:
    """Answer one request."""
    request = json.load(sys.stdin)
    arrays = np.load(request["rows"], allow_pickle=False)
    answer = []
    for described in request["cells"]:
        cell = Cell(**described)
        for method, alarm in METHODS.items():
            with contextlib.redirect_stdout(sys.stderr):
                alarms, windows, seconds = _count(alarm, cell, arrays, request["windows"], request["seconds"])
            print(f"{method}, {cell.name}, n = {cell.n}: {alarms} of {windows}", file=sys.stderr, flush=True)
            entry = {"method": method, "cell": described, "alarms": alarms, "windows": windows}
            answer.append(entry | {"seconds": seconds / windows})
    json.dump(answer, sys.stdout)


def _count(alarm: Alarm, cell: Cell, arrays: Any, most: int, budget: float) -> tuple[int, int, float]:
    """(alarms, windows, CPU seconds) until `most` windows or `budget` seconds."""
    pool, labels = arrays["pool.embeddings"], arrays["pool.labels"]
    foreign = arrays[f"{cell.domain}.embeddings"] if cell.domain else pool[:0]
    alarms = windows = 0
    started = time.process_time()
    while windows < most and (windows == 0 or time.process_time() - started < budget):
        window = draw(cell, windows, labels, len(foreign))
        current = np.vstack([pool[window.own], foreign[window.foreign]])
        alarms += alarm(pool[window.reference], current, cell.level)
        windows += 1
    return alarms, windows, time.process_time() - started


if __name__ == "__main__":
    main()
