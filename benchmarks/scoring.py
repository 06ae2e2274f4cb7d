"""How fast the engine scores, beside what a user would take instead, on the same model and texts.

    python benchmarks/scoring.py                      MiniLM, 2,000 texts, 5 repeats: an hour of one core
    python benchmarks/scoring.py --texts 400 --repeats 3
    python benchmarks/scoring.py --short-reviews      of 100 to 250 tokens: padding loses less
    python benchmarks/scoring.py --shape base --texts 200 --engines Everbert

One thread, CPU seconds, tokenization included, in turns; medians count. The texts have the lengths of a mix of tweets
and whole reviews: two in five are single snippets of samples/, the others several snippets of one label joined to what
reviews on the web have, 200 tokens in the median and 512 at most, in random order; 140 tokens in the mean of all.
MiniLM is fine-tuned on movies first; BERT-base has its shape and random weights. ONNX Runtime and OpenVINO, which
Everbert does not need, go into a folder of their own; they and the padded torch pass get the texts sorted by length.
The peak is the speed of the model's own largest matrix product. Its share is given twice: by the operations of the
whole model, and by those that are done, which are fewer where the last layer computes [CLS] alone.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from drift_rows import BASE, data_set_of, split_settings
from intervals import table
from numpy.typing import NDArray
from operations import mixed_texts, operations, peak
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    pipeline,
)

from components.classifier.engine import Engine
from components.classifier.model_folder import base_model_path
from components.classifier.text import clean
from components.progress import progress
from components.training.train import train

LONGEST, SHORT = 512, 256  # tokens: what the models can read, and the longest text with --short-reviews
PADDED_TOKENS = 2048
OTHERS = ("onnxruntime", "openvino", "openvino-telemetry", "onnx", "onnxscript", "onnx_ir", "ml_dtypes")
BASELINES = ("transformers pipeline, batch 1", "transformers pipeline, batch 32, as they come")
Score = Callable[[Sequence[str]], NDArray[np.int64]]
"""Texts to the labels' numbers."""


def main() -> None:
    """Measure in turns, print."""
    options = _options()
    torch.set_num_threads(1)
    _require_others(options.work / "others")
    model, tokenizer = _model(options), AutoTokenizer.from_pretrained(base_model_path(BASE))
    texts, lengths = _texts(options.texts, tokenizer, short=options.short_reviews)
    ways = _ways(model, tokenizer, options.work, options.engines)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    labels: dict[str, NDArray[np.int64]] = {}
    for _ in progress(range(options.repeats), description=options.shape, unit="repeat"):
        for name, score in ways.items():
            started = time.process_time()
            labels[name] = score(texts)
            seconds[name].append(time.process_time() - started)
    print(f"{len(texts)} texts, mean {np.mean(lengths):.0f} tokens; medians of {options.repeats}\n")
    print(_table(seconds, labels, lengths, model.config))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path(".everbert/bench/scoring"), help="folder for what it makes")
    parser.add_argument("--shape", choices=("minilm", "base"), default="minilm")
    parser.add_argument("--short-reviews", action="store_true", help="of 100 to 250 tokens")
    parser.add_argument("--texts", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--engines", nargs="+", default=[""], help="only those whose names hold one of these")
    return parser.parse_args()


def _texts(count: int, tokenizer: Any, *, short: bool) -> tuple[list[str], list[int]]:
    """That many texts and their tokens, for all engines the same.

    Cleaned, as Everbert does with every text; and of those that fit, since it reads longer ones whole and the others
    cut them.
    """
    candidates = [clean(text) for text, _ in mixed_texts(2 * count, whole_reviews=not short)]
    tokens = [len(ids) for ids in tokenizer(candidates, verbose=False)["input_ids"]]
    longest = SHORT if short else LONGEST
    fitting = [(text, length) for text, length in zip(candidates, tokens, strict=True) if length <= longest][:count]
    texts, lengths = zip(*fitting, strict=True)
    return list(texts), list(lengths)


def _table(
    seconds: dict[str, list[float]], labels: dict[str, NDArray[np.int64]], lengths: list[int], config: Any
) -> str:
    typical = {name: median(found) for name, found in seconds.items()}
    lines = []
    for name, taken in typical.items():
        own = name.startswith("Everbert")
        whole, done = (operations(lengths, config, first_row_only=cut) for cut in (False, own))
        dtype = torch.bfloat16 if name.endswith("bfloat16") else torch.float32
        spread = f"{min(seconds[name]) / taken:.2f} to {max(seconds[name]) / taken:.2f}"
        ratios = (f"{typical[baseline] / taken:.2f}" if baseline in typical else "" for baseline in BASELINES)
        top = peak(dtype, config.hidden_size)
        reached = (f"{count / taken / top:.0%}" for count in (whole, done))
        same = f"{np.mean(labels[name] == next(iter(labels.values()))):.2%}"
        lines.append((name, f"{sum(lengths) / taken:.0f}", spread, *ratios, *reached, same))
    shares = ("share of the peak", "by what is done")
    return table(("engine", "tokens a CPU second", "spread", "x batch 1", "x batch 32", *shares, "same labels"), lines)


def _ways(model: Any, tokenizer: Any, work: Path, wanted: Sequence[str]) -> dict[str, Score]:
    """By name: those whose name holds one of `wanted`."""
    piped = pipeline("text-classification", model=model, tokenizer=tokenizer, device="cpu")

    def by_pipeline(batch_size: int) -> Score:
        def score(texts: Sequence[str]) -> NDArray[np.int64]:
            found = piped(list(texts), batch_size=batch_size, truncation=True, max_length=LONGEST)
            return np.array([model.config.label2id[one["label"]] for one in found])

        return score

    def by_engine(precision: str) -> Score:
        engine = Engine(model, tokenizer, LONGEST, precision)
        engine._frozen = engine._packed()  # as `Engine.load` leaves it
        return lambda texts: engine.score(texts).logits.argmax(axis=1)

    def by_torch(inputs: dict[str, Any]) -> NDArray[np.float32]:
        with torch.inference_mode():
            logits: NDArray[np.float32] = model(**{k: torch.from_numpy(v) for k, v in inputs.items()}).logits.numpy()
            return logits

    makers: dict[str, Callable[[], Score]] = {
        BASELINES[0]: lambda: by_pipeline(1),
        BASELINES[1]: lambda: by_pipeline(32),
        "torch, sorted, float32": lambda: _sorted(by_torch, tokenizer),
        "ONNX Runtime, sorted, float32": lambda: _sorted(_onnx(model, work), tokenizer),
        "OpenVINO, sorted, float32": lambda: _sorted(_openvino(model, "f32"), tokenizer),
        "OpenVINO, sorted, bfloat16": lambda: _sorted(_openvino(model, "bf16"), tokenizer),
        "Everbert, float32": lambda: by_engine("float32"),
        "Everbert, bfloat16": lambda: by_engine("bfloat16"),
    }
    return {name: make() for name, make in makers.items() if any(part in name for part in wanted)}


def _sorted(forward: Callable[[dict[str, Any]], NDArray[np.float32]], tokenizer: Any) -> Score:
    """In batches of similar length, padded."""

    def score(texts: Sequence[str]) -> NDArray[np.int64]:
        encoded = tokenizer(list(texts), truncation=True, max_length=LONGEST)["input_ids"]
        order = np.argsort([len(ids) for ids in encoded], kind="stable")
        labels, start = np.empty(len(texts), dtype=np.int64), 0
        for end in range(1, len(order) + 1):
            if end == len(order) or (end + 1 - start) * len(encoded[order[end]]) > PADDED_TOKENS:
                part = order[start:end]
                padded = tokenizer.pad({"input_ids": [encoded[i] for i in part]}, return_tensors="np")
                labels[part] = forward(
                    {"input_ids": padded["input_ids"], "attention_mask": padded["attention_mask"]}
                ).argmax(axis=1)
                start = end
        return labels

    return score


def _onnx(model: Any, work: Path) -> Callable[[dict[str, Any]], NDArray[np.float32]]:
    import onnxruntime

    path = work / "model.onnx"
    example = torch.ones(2, 8, dtype=torch.long)
    shape = {0: "texts", 1: "tokens"}
    torch.onnx.export(
        model, (example, torch.ones_like(example)), str(path), input_names=["input_ids", "attention_mask"],
        output_names=["logits"], dynamic_axes={"input_ids": shape, "attention_mask": shape}, dynamo=False,
    )  # fmt: skip
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda inputs: session.run(["logits"], inputs)[0]


def _openvino(model: Any, precision: str) -> Callable[[dict[str, Any]], NDArray[np.float32]]:
    import openvino

    example = torch.ones(2, 8, dtype=torch.long)
    converted = openvino.convert_model(model, example_input={"input_ids": example, "attention_mask": example})
    compiled = openvino.Core().compile_model(
        converted, "CPU", {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": precision}
    )
    return lambda inputs: compiled(inputs)["logits"]


def _model(options: argparse.Namespace) -> Any:
    if options.shape == "base":
        torch.manual_seed(13)
        return BertForSequenceClassification(BertConfig(num_labels=2)).eval()
    folder = options.work / "model"
    if not folder.is_dir():
        options.work.mkdir(parents=True, exist_ok=True)
        data_set_of(options.work)
        train(options.work / "movies", folder, split_settings(), base_model=BASE)
    return AutoModelForSequenceClassification.from_pretrained(folder).eval()


def _require_others(folder: Path) -> None:
    """Install the other engines into a folder, and start again with it."""
    if find_spec("openvino"):
        return
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder, *OTHERS]
    subprocess.run(command, check=True, stdout=sys.stderr)
    os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | {"PYTHONPATH": str(folder.resolve())})  # noqa: S606


if __name__ == "__main__":
    main()
