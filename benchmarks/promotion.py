"""How often a challenger that is no better than the champion is promoted, and one that is no worse refused.

    python benchmarks/promotion.py              4,000 draws; minutes, nearly all of them to train two models

Champion and challenger are the same BERT, fine-tuned on the same rows from two seeds, so they differ as real models
do. Each draw takes rows that trained neither, a new domain and a golden set, and on each row lets chance say whose
answer is whose: so the two are exactly equally good, and the decision of the pipeline is made. Prints the share that
is promoted, with its exact 95 % interval, how often the paired test alone would have done it, and how often nothing was
said against the challenger on the golden set and its slices.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from drift_rows import BASE, data_set_of, split_settings
from intervals import share, table
from numpy.typing import NDArray

from components.classifier.calibration import expected_calibration_error
from components.classifier.classifier import Classifier
from components.classifier.labels import LabelSet
from components.config import PromotionSettings
from components.evaluation.decide import decide
from components.evaluation.paired import mcnemar
from components.evaluation.slices import CHALLENGER, CHAMPION, slices
from components.progress import progress
from components.training.train import train

SEEDS = (13, 14)
NEW_ROWS, GOLDEN_ROWS = 554, 2111  # held-out rows in the run that a user sees
Answers = list[NDArray[np.float64]]


def main() -> None:
    """Train, draw, decide, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path(".everbert/bench/promotion"), help="folder for what it makes")
    parser.add_argument("--draws", type=int, default=4000)
    parser.add_argument("--golden-rows", type=int, default=GOLDEN_ROWS)
    options = parser.parse_args()
    rows, answers = _held_out(options.work)
    settings = PromotionSettings()
    generator = np.random.default_rng(13)
    promoted = by_test = no_worse = 0
    for _ in progress(range(options.draws), description="draw", unit="draw"):
        evaluation = _equals(rows, answers, generator, options.golden_rows)
        (new,) = (part for part in evaluation["slices"] if (part["source"], part["by"]) == ("new", "source"))
        by_test += mcnemar(new["only_challenger_right"], new["only_champion_right"]) <= settings.level
        decision = decide(evaluation, settings, ["new"])
        promoted += decision.promoted
        no_worse += all(c["holds"] for c in decision.conditions if c["condition"].startswith("not worse on"))
    right = [(p.argmax(axis=1) == rows["label"]).mean() for p in answers]
    differ = (answers[0].argmax(axis=1) != answers[1].argmax(axis=1)).mean()
    print(
        f"Two models, right on {right[0]:.3f} and {right[1]:.3f} of {len(rows)} rows, unlike on {differ:.3f} of them."
    )
    columns = ("rule", "level", "draws", "holds")
    level = f"{settings.level:.0%}"
    print(table(columns, [
        ("better on the new domain (exact McNemar)", level, options.draws, share(by_test, options.draws)),
        (f"not worse on {options.golden_rows:,} golden rows", level, options.draws, share(no_worse, options.draws)),
        ("the whole decision", level, options.draws, share(promoted, options.draws)),
    ]))  # fmt: skip


def _held_out(work: Path) -> tuple[pd.DataFrame, Answers]:
    """Rows that trained neither model, and each model's calibrated probabilities for them [n, 2]."""
    work.mkdir(parents=True, exist_ok=True)
    data_set, settings = data_set_of(work), split_settings()
    rows = data_set.frame("test")
    answers = []
    for seed in SEEDS:
        folder = work / f"seed-{seed}"
        if not folder.is_dir():
            train(work / "movies", folder, replace(settings, training=replace(settings.training, seed=seed)),
                  base_model=BASE)  # fmt: skip
        classifier = Classifier.load(folder)
        answers.append(classifier.probabilities(classifier.score(list(rows["text"]), description=f"score seed {seed}")))
    return rows, answers


def _equals(rows: pd.DataFrame, answers: Answers, generator: np.random.Generator, golden: int) -> dict[str, Any]:
    """What `evaluate` would say of two models that are equally good by construction."""
    drawn = generator.permutation(len(rows))[: NEW_ROWS + golden]
    part = rows.iloc[drawn].assign(source=np.repeat(["new", "golden"], [NEW_ROWS, golden]))
    swapped = generator.random(len(drawn))[:, None] < 0.5
    first, second = (found[drawn] for found in answers)
    p = {CHALLENGER: np.where(swapped, second, first), CHAMPION: np.where(swapped, first, second)}
    correct = {role: found.argmax(axis=1) == part["label"].to_numpy() for role, found in p.items()}
    measured = {
        role: {"ece": expected_calibration_error(found.max(axis=1), correct[role])} for role, found in p.items()
    }
    return measured | {"slices": slices(part, correct, p[CHAMPION].max(axis=1), LabelSet(["Negative", "Positive"]))}


if __name__ == "__main__":
    main()
