"""fit: the optimizer's loop over a data set's training rows, which can be stopped anywhere and taken up again."""

import math
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy

from components import logs
from components.classifier.calibration import fit_temperature
from components.classifier.engine import Engine
from components.classifier.precision import product_dtype
from components.config import TrainingSettings
from components.data.data_set import DataSet
from components.errors import SettingsError
from components.progress import progress
from components.training.batches import epoch_batches, micro_batches
from components.training.checkpoint import Checkpoint, CheckpointFolder, optimizer_tensors, restore_optimizer
from components.training.forward import TrainingForward
from components.training.objective import Objective, Teacher, class_weights
from components.training.processes import Processes

Indices = NDArray[np.int64]


@dataclass
class _Place:
    """How far training has come: `step` batches of `epoch` are done. The rest is what is known by then."""

    epoch: int = 1
    step: int = 0
    losses: list[float] = field(default_factory=list)
    history: list[dict[str, float]] = field(default_factory=list)

    @property
    def best(self) -> int:
        """The epoch with the least validation loss, from 1."""
        return int(np.argmin([entry["validation_loss"] for entry in self.history])) + 1


class _Fit:
    """One training run: model, optimizer, rows and place."""

    def __init__(
        self, engine: Engine, data_set: DataSet, settings: TrainingSettings, processes: Processes, distil: bool
    ):
        self.engine, self.settings, self.processes = engine, settings, processes
        rows = data_set.frame("train")
        texts, labels = list(rows["text"]), rows["label"].to_numpy()
        self.validation = data_set.frame("validation")
        self.tokens = _tokenize(engine, texts)
        self.lengths = [len(text) for text in self.tokens]
        on_device = torch.as_tensor(labels, device=engine.device)
        teacher = Teacher.of(engine, texts, on_device) if distil and settings.distillation else None
        weights = class_weights(labels, len(data_set.labels), settings.imbalance)
        self.objective = Objective(on_device, teacher, torch.as_tensor(weights, device=engine.device).float(), settings)
        self.dtype, reason = product_dtype(engine.device, settings.precision)
        self.model = processes.wrap(TrainingForward(engine, self.dtype), engine.device)
        self.optimizer = _optimizer(engine, settings)
        self.place = _Place()
        self.best: dict[str, Tensor] = {}
        self.steps_an_epoch = -(-len(self.tokens) // settings.batch_size)
        logs.event(
            "training", rows=len(texts), device=str(engine.device), dtype=str(self.dtype).removeprefix("torch."),
            reason=reason, class_weights=[round(w, 4) for w in weights.tolist()], processes=processes.count,
        )  # fmt: skip

    @property
    def step(self) -> int:
        """Batches done, over all epochs."""
        return (self.place.epoch - 1) * self.steps_an_epoch + self.place.step

    def train_batch(self, batch: Indices) -> float:
        """One optimizer step on this process's part of the batch; the mean loss over the whole of it."""
        # What dropout draws follows from the step and the process, so that no checkpoint need hold every one's state.
        drawn_from = np.random.SeedSequence([self.settings.seed, self.step, self.processes.rank])
        torch.manual_seed(int(drawn_from.generate_state(1)[0]))
        mine, total = self.processes.part(batch), 0.0
        # A process that is left without a row takes part in the exchange of gradients all the same, with zeros.
        parts = list(micro_batches(mine, self.lengths, self.settings.micro_batch_tokens)) or [batch[:1]]
        share = (1.0 if len(mine) else 0.0) / len(batch)
        for number, part in enumerate(parts, start=1):
            with self.processes.unsynchronised(self.model, last=number == len(parts)):
                loss = self.objective(self.model([self.tokens[i] for i in part]), part) * share
                (loss * self.processes.count).backward()  # the exchange takes the mean where the sum is meant
            total += float(loss.detach())
        torch.nn.utils.clip_grad_norm_(self.engine.model.parameters(), self.settings.gradient_clip)
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.learning_rate * self._rate()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return self.processes.sum(total)

    def end_epoch(self) -> bool:
        """Validate, remember the best weights, and say whether to go on.

        Raises SettingsError if the first epoch's loss is not finite. A later epoch of which that is true ends training:
        from weights that are not numbers there is no way back, and the best of the epochs before is good.
        """
        measured = {"train_loss": float(np.mean(self.place.losses))} | self._validate()
        measured = self.processes.as_the_leader(measured)
        if not all(math.isfinite(value) for value in measured.values()):
            told = {name: str(value) for name, value in measured.items()}  # NaN is not JSON
            lost = "its weights are lost: training ends"
            logs.warning("epoch_not_finite", epoch=self.place.epoch, reason=lost, **told)
            if self.place.history:
                return False
            raise SettingsError(_diverged(measured, self.settings))
        entry = {"epoch": self.place.epoch} | measured
        self.place.history.append(entry)
        logs.event("epoch", **entry)
        if self.place.best == len(self.place.history):
            self.best = {name: value.detach().clone() for name, value in self.engine.model.state_dict().items()}
        patience = self.settings.patience
        stop = bool(patience) and len(self.place.history) - self.place.best >= patience
        self.place.epoch, self.place.step, self.place.losses = self.place.epoch + 1, 0, []
        return not stop and self.place.epoch <= self.settings.epochs

    def checkpoint(self) -> Checkpoint:
        tensors = {
            "model": dict(self.engine.model.state_dict()),
            "best": self.best,
            "optimizer": optimizer_tensors(self.optimizer),
        }
        return Checkpoint(self.step, vars(self.place), {name: group for name, group in tensors.items() if group})

    def restore(self, checkpoint: Checkpoint) -> None:
        self.engine.model.load_state_dict(checkpoint.tensors["model"])
        self.best = checkpoint.tensors.get("best", {})
        restore_optimizer(self.optimizer, checkpoint.tensors.get("optimizer", {}))
        self.place = _Place(**checkpoint.values)

    def _rate(self) -> float:
        """The share of the peak learning rate: it rises over the warm-up, then falls to zero."""
        steps = self.steps_an_epoch * self.settings.epochs
        warmup = max(1, round(steps * self.settings.warmup_share))
        return min((self.step + 1) / warmup, max(0.0, (steps - self.step) / max(1, steps - warmup)))

    def _validate(self) -> dict[str, float]:
        """Loss and accuracy on the validation rows, without dropout; the loss as it is once calibrated.

        Later epochs err less and are surer of it. A temperature will be fitted anyway, so that does not count.
        """
        labels = self.validation["label"].to_numpy()
        self.engine.model.eval()
        logits = self.engine.score(list(self.validation["text"])).logits
        calibrated = torch.from_numpy(logits / fit_temperature(logits, labels))
        loss = cross_entropy(calibrated, torch.from_numpy(labels).long())
        accuracy = float(np.mean(logits.argmax(axis=1) == labels))
        return {"validation_loss": float(loss), "validation_accuracy": accuracy}


def fit(
    engine: Engine,
    data_set: DataSet,
    settings: TrainingSettings,
    *,
    distil: bool,
    checkpoints: CheckpointFolder | None = None,
    resume: bool = False,
    processes: Processes | None = None,
) -> list[dict[str, float]]:
    """Train in place, keep the best epoch's weights, return one entry an epoch. Raises SettingsError if it diverges.

    With `distil` the model starts as the champion, and is asked to keep the champion's answer on the rows where that
    is right: otherwise what it learns of the new rows costs it some of the old ones. With `resume` training goes on
    from the newest checkpoint, and on a CPU ends with the same weights as if it had never been interrupted; so do
    several processes, if as many take it up.
    """
    run = _Fit(engine, data_set, settings, processes or Processes(), distil)
    found = checkpoints.load() if checkpoints and resume else None
    if found:
        run.restore(found)
        logs.event("resumed", step=found.step, epoch=run.place.epoch)
    with progress(description="train", total=run.steps_an_epoch * settings.epochs, unit="step") as bar:
        bar.update(run.step)
        going = run.place.epoch <= settings.epochs
        while going:
            _train_epoch(run, checkpoints, bar)
            going = run.end_epoch()
            bar.set_postfix(validation_loss=f"{run.place.history[-1]['validation_loss']:.3f}")
    engine.model.load_state_dict(run.best)
    engine.model.eval()
    return run.place.history


def _train_epoch(run: _Fit, checkpoints: CheckpointFolder | None, bar: Any) -> None:
    """The batches of the epoch that are not done yet. Their order depends on the seed and the epoch alone.

    A loss that is not finite ends the epoch: no weight is a number any more, and no checkpoint is to say so.
    """
    saved = time.monotonic()
    generator = np.random.default_rng([run.settings.seed, run.place.epoch])
    run.engine.model.train()
    for batch in epoch_batches(run.lengths, run.settings.batch_size, generator)[run.place.step :]:
        if checkpoints and run.processes.leads and time.monotonic() - saved > run.settings.checkpoint_minutes * 60:
            checkpoints.save(run.checkpoint())
            saved = time.monotonic()
        loss = run.train_batch(batch)
        run.place.losses.append(loss)
        if not math.isfinite(loss):
            logs.warning("loss_not_finite", epoch=run.place.epoch, step=run.place.step)
            return
        run.place.step += 1
        bar.update()


def _diverged(measured: dict[str, float], settings: TrainingSettings) -> str:
    return (
        f"training diverged: in epoch 1 the training loss is {measured['train_loss']}, the validation loss "
        f"{measured['validation_loss']}; lower the learning rate (now {settings.learning_rate:g}), or, if that is low, "
        "see that all weights of the base model are finite"
    )


def _tokenize(engine: Engine, texts: list[str]) -> list[list[int]]:
    """Token ids, cut at the window; the texts of a data set are clean already."""
    engine.tokenizer.model_max_length = engine.max_length
    return list(engine.tokenizer(texts, truncation=True, max_length=engine.max_length)["input_ids"])


def _optimizer(engine: Engine, settings: TrainingSettings) -> torch.optim.Optimizer:
    """AdamW without decay on biases and LayerNorm."""
    decayed = [p for p in engine.model.parameters() if p.ndim > 1]
    plain = [p for p in engine.model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, fused=True)
