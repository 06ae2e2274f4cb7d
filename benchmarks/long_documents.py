"""What reading all of a long document gains over cutting it off, and which rule to combine its windows by.

    python benchmarks/long_documents.py         five minutes of one core, most of it to fine-tune a model

The documents are real: the product reviews and newspaper editorials of samples/, put together again from the sentences
that were rated one by one, those longer than a window. A document is positive if most of its sentences are (ties are
left out), the sentences that were rated as neutral are missing. The model is MiniLM fine-tuned on movie snippets, with
windows of 128 tokens. Prints the share that each rule gets right with its exact 95 % interval, and in how many
documents only the rule, and only truncation is right.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from drift_rows import BASE, SAMPLES, data_set_of, split_settings
from intervals import share, table
from numpy.typing import NDArray
from scipy.special import softmax

from components.classifier.classifier import Classifier
from components.classifier.engine import Encoded
from components.evaluation.paired import mcnemar
from components.training.train import train

Chosen = NDArray[np.int64]


def main() -> None:
    """Score once, combine by each rule, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path(".everbert/bench/long"), help="folder for what it makes")
    classifier = Classifier.load(_model(parser.parse_args().work))
    lines = []
    for domain in ("products", "news"):
        texts, labels = documents(domain)
        encoded = classifier.engine.encode(texts)
        long = np.flatnonzero(encoded.counts > 1)
        logits = classifier.engine.forward(encoded.windows)[0]
        right = {rule: chosen[long] == labels[long] for rule, chosen in by_rule(encoded, logits).items()}
        for rule, found in right.items():
            won, lost = int((found & ~right["truncated"]).sum()), int((right["truncated"] & ~found).sum())
            figures = (share(int(found.sum()), len(long), 3), won, lost, f"{mcnemar(won, lost):.2g}")
            lines.append((domain, len(long), f"{encoded.counts[long].mean():.1f}", rule, *figures))
    columns = ("domain", "documents", "windows", "rule", "right", "only it", "only truncation", "p")
    print(table(columns, lines))


def documents(domain: str) -> tuple[list[str], NDArray[np.int64]]:
    """Texts, and 1 where more sentences are positive than negative; without those that have as many."""
    rows = pd.read_csv(SAMPLES / "incoming" / f"{domain}.csv").merge(pd.read_csv(SAMPLES / "labels" / f"{domain}.csv"))
    rows[["document", "place"]] = rows["id"].str.rsplit("_", n=1, expand=True)
    rows = rows.astype({"place": int}).sort_values(["document", "place"])
    whole = rows.groupby("document").agg(text=("text", " ".join), positive=("label", "mean"))
    whole = whole[whole["positive"] != 0.5]
    return list(whole["text"]), (whole["positive"] > 0.5).to_numpy().astype(np.int64)


def by_rule(encoded: Encoded, logits: NDArray[np.float32]) -> dict[str, Chosen]:
    """The label of each text, of the [windows, classes] logits."""
    starts = np.cumsum(encoded.counts) - encoded.counts
    probabilities = softmax(logits, axis=1)
    surest = [part[part.max(axis=1).argmax()].argmax() for part in np.split(probabilities, starts[1:])]
    return {
        "truncated": logits[starts].argmax(axis=1),
        "mean of the logits (Everbert)": np.add.reduceat(logits, starts).argmax(axis=1),
        "mean of the probabilities": np.add.reduceat(probabilities, starts).argmax(axis=1),
        "the surest window": np.array(surest),
    }


def _model(work: Path) -> Path:
    folder = work / "model"
    if not folder.is_dir():
        work.mkdir(parents=True, exist_ok=True)
        data_set_of(work)
        train(work / "movies", folder, split_settings(), base_model=BASE)
    return folder


if __name__ == "__main__":
    main()
