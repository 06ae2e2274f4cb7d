"""How fast Everbert trains, beside the Hugging Face Trainer on the same texts.

    python benchmarks/training.py                   MiniLM, and a BERT of the base shape with random weights
    python benchmarks/training.py --shapes minilm   MiniLM alone, minutes

One thread. Real tokens (those of the texts, not of the padding) a CPU second of one epoch; Everbert, the Trainer at its
defaults (texts padded to the maximum length, float32) and at its best (padded by batch, grouped by length, bfloat16)
take turns, and the medians count. The texts have the lengths of a mix of tweets and reviews: two in five are single
snippets of samples/, the others several snippets of one label joined to 100 to 250 tokens. The share of the peak is
against what a matrix product of the model's own shape reaches in the same number format.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd
import torch
from drift_rows import BASE
from intervals import table
from operations import mixed_texts, operations, peak
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertConfig, BertForSequenceClassification

from components.classifier.engine import Engine
from components.classifier.model_folder import base_model_path
from components.classifier.precision import product_dtype
from components.config import TrainingSettings, load
from components.data.data_set import DataSet
from components.data.prepare import prepare
from components.progress import progress
from components.training.fit import fit

SHAPES = {"minilm": 640, "base": 96}  # texts an epoch
MAX_LENGTH, BATCH = 256, 32
ACCELERATE = "accelerate==1.15.0"
SETTINGS = TrainingSettings(epochs=1, max_length=MAX_LENGTH, batch_size=BATCH, patience=0)
Training = Callable[[DataSet, Any], float]


def main() -> None:
    """Measure in turns, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path(".everbert/bench/training"), help="folder for what it makes")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    _require_accelerate(options.work / "accelerate")
    lines = []
    for shape in options.shapes:
        lines += _compare(shape, options)
    columns = ("model", "training", "tokens a CPU second", "spread", "x defaults", "x best", "share of the peak")
    print(table(columns, lines))


def _compare(shape: str, options: argparse.Namespace) -> list[tuple[object, ...]]:
    """One line for each way to train a model of that shape."""
    data_set = _texts(options.work, SHAPES[shape])
    dtype, _ = product_dtype(torch.device("cpu"), "auto")
    best = {"bf16": dtype == torch.bfloat16, "train_sampling_strategy": "group_by_length"}
    ways: dict[str, tuple[torch.dtype, Training]] = {
        "Trainer, defaults": (torch.float32, lambda data, model: _trainer(data, model, "max_length", {})),
        "Trainer, best": (dtype, lambda data, model: _trainer(data, model, "longest", best)),
        "Everbert": (dtype, _everbert),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in progress(range(options.repeats), description=shape, unit="repeat"):
        for name, (_, train) in ways.items():
            seconds[name].append(train(data_set, _model(shape)))
    config = _model(shape).config
    lengths = _lengths(data_set)
    work = 3 * operations(lengths, config)  # forward once, and backward twice as much
    typical = {name: median(found) for name, found in seconds.items()}
    return [
        (shape, f"{name}, {str(kind).removeprefix('torch.')}", f"{sum(lengths) / typical[name]:.0f}",
         f"{min(seconds[name]) / typical[name]:.2f} to {max(seconds[name]) / typical[name]:.2f}",
         f"{typical['Trainer, defaults'] / typical[name]:.2f}", f"{typical['Trainer, best'] / typical[name]:.2f}",
         f"{work / typical[name] / peak(kind, config.hidden_size):.0%}")
        for name, (kind, _) in ways.items()
    ]  # fmt: skip


def _everbert(data_set: DataSet, model: Any) -> float:
    """CPU seconds of one epoch, with the scoring of a handful of validation rows."""
    engine = Engine(model, _tokenizer(), MAX_LENGTH)
    started = time.process_time()
    fit(engine, data_set, SETTINGS, distil=False)
    return time.process_time() - started


def _trainer(data_set: DataSet, model: Any, padding: str, further: dict[str, Any]) -> float:
    """CPU seconds of one epoch of the Hugging Face Trainer, tokenization included."""
    from transformers import DataCollatorWithPadding, Trainer, TrainingArguments
    from transformers.trainer_callback import PrinterCallback

    tokenizer = _tokenizer()
    rows = data_set.frame("train")
    started = time.process_time()
    encoded = tokenizer(
        list(rows["text"]), truncation=True, max_length=MAX_LENGTH, padding=padding == "max_length" and padding
    )
    examples = [
        {"input_ids": ids, "attention_mask": mask, "labels": int(label), "length": len(ids)}
        for ids, mask, label in zip(encoded["input_ids"], encoded["attention_mask"], rows["label"], strict=True)
    ]
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, num_train_epochs=1, per_device_train_batch_size=BATCH, learning_rate=SETTINGS.learning_rate,
            save_strategy="no", logging_strategy="no", disable_tqdm=True, use_cpu=True, **further,
        )  # fmt: skip
        trainer = Trainer(model, arguments, train_dataset=examples, data_collator=DataCollatorWithPadding(tokenizer))
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return time.process_time() - started


def _model(shape: str) -> Any:
    torch.manual_seed(13)
    if shape == "base":
        return BertForSequenceClassification(BertConfig(num_labels=2))
    return AutoModelForSequenceClassification.from_pretrained(base_model_path(BASE), num_labels=2)


def _tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(base_model_path(BASE))


def _lengths(data_set: DataSet) -> list[int]:
    texts = list(data_set.frame("train")["text"])
    return [len(ids) for ids in _tokenizer()(texts, truncation=True, max_length=MAX_LENGTH)["input_ids"]]


def _texts(work: Path, count: int) -> DataSet:
    """A data set of `count` texts, nearly all of them to train on."""
    folder, source = work / f"texts-{count}", work / f"texts-{count}.csv"
    if not folder.is_dir():
        work.mkdir(parents=True, exist_ok=True)
        pd.DataFrame(mixed_texts(count), columns=["text", "label"]).to_csv(source, index=False)
        shares = {"test_share": 0, "validation_share": 0.02, "minimum_rows": 1, "near_duplicate_similarity": 1}
        prepare([str(source)], folder, load(None, {"data": shares}).data)
    return DataSet.load(folder)


def _require_accelerate(folder: Path) -> None:
    """The Trainer needs accelerate, which Everbert does not: it goes into a folder of its own. Starts this again."""
    if find_spec("accelerate"):
        return
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder, ACCELERATE]
    subprocess.run(command, check=True, stdout=sys.stderr)
    os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | {"PYTHONPATH": str(folder.resolve())})  # noqa: S606


if __name__ == "__main__":
    main()
