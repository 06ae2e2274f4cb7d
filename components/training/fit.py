"""fit: the optimizer's loop over a data set's training rows."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, log_softmax
from transformers import PreTrainedModel

from components import logs
from components.classifier.engine import Engine
from components.config import TrainingSettings
from components.data.data_set import DataSet
from components.progress import progress
from components.training.batches import epoch_batches

_SOFTENING = 2.0  # temperature of the distillation: what the champion is less sure of counts too


@dataclass(frozen=True)
class Teacher:
    """What the model that the weights come from says of the training rows: [n, classes] logits, [n] 1 where right."""

    logits: Tensor
    right: Tensor

    @classmethod
    def of(cls, engine: Engine, texts: Sequence[str], labels: Tensor) -> "Teacher":
        logits = torch.as_tensor(engine.score(texts, description="distil").logits, device=engine.device)
        return cls(logits, (logits.argmax(dim=1) == labels).float())


def fit(engine: Engine, data_set: DataSet, settings: TrainingSettings, *, distil: bool) -> list[dict[str, float]]:
    """Train in place, keep the best epoch's weights, return one entry an epoch.

    With `distil` the model starts as the champion, and is asked to keep the champion's answer on the rows where that
    is right: otherwise what it learns of the new rows costs it some of the old ones.
    """
    rows, validation = data_set.frame("train"), data_set.frame("validation")
    tokens = _tokenize(engine, list(rows["text"]))
    labels = torch.as_tensor(rows["label"].to_numpy(), device=engine.device)
    teacher = Teacher.of(engine, list(rows["text"]), labels) if distil and settings.distillation else None
    generator = np.random.default_rng(settings.seed)
    steps_an_epoch = -(-len(tokens) // settings.batch_size)
    optimizer, schedule = _optimizer(engine.model, settings, steps_an_epoch * settings.epochs)
    history: list[dict[str, float]] = []
    best: dict[str, Tensor] = {}
    with progress(description="train", total=len(tokens) * settings.epochs, unit="text") as bar:
        for epoch in range(1, settings.epochs + 1):
            losses = []
            engine.model.train()
            for batch in epoch_batches([len(t) for t in tokens], settings.batch_size, generator):
                logits = _logits(engine, [tokens[i] for i in batch])
                loss = objective(logits, labels[batch], teacher, batch, settings.distillation)
                loss.backward()
                losses.append(float(loss.detach()))
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


def objective(
    logits: Tensor, labels: Tensor, teacher: Teacher | None, batch: NDArray[np.int64], weight: float
) -> Tensor:
    """Mean cross entropy, plus `weight` times the divergence from the teacher's answer on the rows where it is right.

    Focal distillation with the weight 0 where the old model is wrong: Yan et al. 2021, "Positive-Congruent Training:
    Towards Regression-Free Model Updates". logits [b, classes], labels [b]; `batch` says which of the teacher's rows.
    """
    loss = cross_entropy(logits, labels)
    if teacher is None:
        return loss
    taught = log_softmax(teacher.logits[batch] / _SOFTENING, dim=1)
    learnt = log_softmax(logits / _SOFTENING, dim=1)
    divergence = kl_div(learnt, taught, reduction="none", log_target=True).sum(dim=1)
    return loss + weight * _SOFTENING**2 * (divergence * teacher.right[batch]).mean()


def _logits(engine: Engine, batch: Sequence[list[int]]) -> Tensor:
    padded = engine.tokenizer.pad({"input_ids": list(batch)}, return_tensors="pt").to(engine.device)
    with torch.autocast(engine.device.type, dtype=torch.bfloat16, enabled=_has_bfloat16(engine.device)):
        return engine.model(**padded).logits.float()


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
