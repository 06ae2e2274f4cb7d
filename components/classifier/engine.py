"""The inference engine: texts in, logits and embeddings out, in one forward pass.

Used by evaluation, batch, serving and drift alike, so that they agree on every number. A BERT classifier runs without
padding (packed_bert.py); any other encoder runs as transformers has it, and gives the same fields.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel
from transformers.utils import logging as transformers_logging

from components.classifier.memory import keep_freed
from components.classifier.packed_bert import PackedBert, supports
from components.classifier.packed_forward import middle_layer
from components.classifier.precision import product_dtype
from components.classifier.text import clean
from components.errors import ModelFolderError
from components.progress import progress

_TOKENS_A_BATCH = 2048
_CHARACTERS_A_SLICE = 100_000  # what is tokenized at once: .05 s of a core, 10 MB
_OVERLAP = 0.25  # share of a window that the next one repeats, so that no sentence is seen only in halves

transformers_logging.set_verbosity_error()
transformers_logging.disable_progress_bar()


@dataclass(frozen=True)
class Scores:
    """What one forward pass gives for n texts."""

    logits: NDArray[np.float32]  # [n, classes]
    embeddings: NDArray[np.float32]  # [n, hidden]: the mean over the text's tokens after the middle layer
    windows: NDArray[np.int64]  # [n]: how many windows the text took

    @classmethod
    def concatenate(cls, parts: "Sequence[Scores]") -> "Scores":
        return cls(*(np.concatenate([getattr(p, f) for p in parts]) for f in ("logits", "embeddings", "windows")))


@dataclass(frozen=True)
class Encoded:
    """n texts as the model reads them."""

    windows: list[list[int]]  # token ids; a text's windows follow each other
    owner: NDArray[np.int64]  # [windows]: the text each is of
    counts: NDArray[np.int64]  # [n]: windows of each text, at least one

    @classmethod
    def concatenate(cls, parts: "Sequence[Encoded]") -> "Encoded":
        """Of all their texts, in this order."""
        counts = np.concatenate([part.counts for part in parts])
        windows = list(itertools.chain.from_iterable(part.windows for part in parts))
        return cls(windows, np.repeat(np.arange(len(counts)), counts), counts)

    def combine(self, logits: NDArray[np.float32], embeddings: NDArray[np.float32]) -> Scores:
        """The texts' scores from those of all windows [windows, ...]: the means over each text's own."""
        return Scores(self._means(logits), self._means(embeddings), self.counts)

    def _means(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        sums = np.zeros((len(self.counts), rows.shape[1]), dtype=np.float32)
        np.add.at(sums, self.owner, rows)
        return np.divide(sums, self.counts[:, None].astype(np.float32), out=sums)


class Engine:
    """A sequence classifier and its tokenizer, ready to score. Not tied to a model folder: training uses it too."""

    def __init__(self, model: PreTrainedModel, tokenizer: Any, max_length: int, precision: str = "auto") -> None:
        keep_freed()
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.max_length = min(max_length, getattr(model.config, "max_position_embeddings", max_length))
        self.device = next(model.parameters()).device
        self._dtype, self._reason = product_dtype(self.device, precision)
        self._frozen: PackedBert | None = None  # the weights of a model that will not be trained any more

    @classmethod
    def load(cls, folder: str | Path, max_length: int, precision: str = "auto") -> "Engine":
        """From a Hugging Face folder on disk. Never downloads, never unpickles."""
        try:
            tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
            model = AutoModelForSequenceClassification.from_pretrained(
                str(folder), local_files_only=True, use_safetensors=True, dtype=torch.float32
            )
        except (OSError, ValueError, KeyError) as error:
            raise ModelFolderError(f"{folder} cannot be loaded: {' '.join(str(error).split())[:300]}") from error
        engine = cls(model.to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer, max_length, precision)
        engine._frozen = engine._packed()
        return engine

    def score(self, texts: Sequence[str], *, description: str = "") -> Scores:
        """Logits, embeddings and windows of `texts`, which are cleaned first. A progress bar if `description` is given.

        A text longer than `max_length` tokens is cut into overlapping windows; its logits and its embedding are the
        means over them.
        """
        return self._score(texts, self._frozen or self._packed(), description)

    def reference(self, texts: Sequence[str]) -> Scores:
        """The same by transformers itself, padded and in float32: what `score` is held to."""
        return self._score(texts, None, "")

    def encode(self, texts: Sequence[str]) -> "Encoded":
        """`texts` cleaned and as the model reads them, in windows of at most `max_length` tokens.

        In slices: until a call has ended, the tokenizer holds each token's text and place, some 250 bytes of it.
        """
        parts: list[Encoded] = []
        start = 0
        while not parts or start < len(texts):
            end = end_of_slice(texts, start)
            parts.append(self._encode(texts[start:end]))
            start = end
        return Encoded.concatenate(parts) if len(parts) > 1 else parts[0]

    def _encode(self, texts: Sequence[str]) -> "Encoded":
        encoded = self.tokenizer(
            [clean(text) for text in texts], truncation=True, max_length=self.max_length,
            stride=int(self.max_length * _OVERLAP), return_overflowing_tokens=True,
            return_attention_mask=False, return_token_type_ids=False,  # nobody reads them, and they take time
        )  # fmt: skip
        owner = np.asarray(encoded["overflow_to_sample_mapping"], dtype=np.int64)
        return Encoded(encoded["input_ids"], owner, np.bincount(owner, minlength=len(texts)))

    def forward(self, windows: Sequence[list[int]]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """([windows, classes] logits, [windows, hidden] embeddings) of windows that `encode` made."""
        return self._forward_all(windows, self._frozen or self._packed())

    def _score(self, texts: Sequence[str], packed: PackedBert | None, description: str) -> Scores:
        encoded = self.encode(texts)
        with progress(description=description or "score", total=len(encoded.windows), unit="text") as bar:
            bar.disable = bar.disable or not description
            return encoded.combine(*self._forward_all(encoded.windows, packed, bar.update))

    def _forward_all(
        self, windows: Sequence[list[int]], packed: PackedBert | None, done: Callable[[int], Any] = lambda _: None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        logits = np.empty((len(windows), self.model.config.num_labels), dtype=np.float32)
        embeddings = np.empty((len(windows), self.model.config.hidden_size), dtype=np.float32)
        for batch in _batches([len(window) for window in windows]):
            logits[batch], embeddings[batch] = self._forward([windows[i] for i in batch], packed)
            done(len(batch))
        return logits, embeddings

    def _packed(self) -> PackedBert | None:
        """The model's weights as they are now, for packed batches; None if it is no BERT classifier."""
        with torch.inference_mode():
            return PackedBert(self.model, self._dtype, frozen=True) if supports(self.model) else None

    @property
    def description(self) -> dict[str, str]:
        """Which forward pass scores, where, in which number format, and why; for the logs of what runs for long."""
        if supports(self.model):
            kind = self._frozen.kind if self._frozen else "packed"
            dtype, reason = str(self._dtype).removeprefix("torch."), self._reason
        else:
            kind, dtype = "transformers", "float32"
            reason = f"there is no packed forward pass for this {type(self.model).__name__}"
        return {"kind": kind, "device": str(self.device), "dtype": dtype, "reason": reason}

    @torch.inference_mode()
    def _forward(
        self, windows: list[list[int]], packed: PackedBert | None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        if packed is not None:
            logits, embeddings = packed(windows)
            return logits.cpu().numpy(), embeddings.cpu().numpy()
        padded = self.tokenizer.pad({"input_ids": windows}, return_tensors="pt").to(self.device)
        output = self.model(**padded, output_hidden_states=True)
        hidden = output.hidden_states[middle_layer(len(output.hidden_states) - 1)].float()
        mask = padded["attention_mask"][:, :, None]
        means = (hidden * mask).sum(dim=1) / mask.sum(dim=1)
        return output.logits.float().cpu().numpy(), means.cpu().numpy()


def end_of_slice(texts: Sequence[str], start: int) -> int:
    """The end of the texts from `start` on that are tokenized at once: whole texts, at least one if there is any."""
    characters = 0
    for place in range(start, len(texts)):
        characters += len(texts[place])
        if characters > _CHARACTERS_A_SLICE and place > start:
            return place
    return len(texts)


def _batches(lengths: list[int]) -> list[NDArray[np.int64]]:
    """Indices grouped by length, so that little is padding, each group within the token budget."""
    order = np.argsort(lengths, kind="stable")
    batches, start = [], 0
    for end in range(1, len(order) + 1):
        if end == len(order) or (end + 1 - start) * lengths[order[end]] > _TOKENS_A_BATCH:
            batches.append(order[start:end])
            start = end
    return batches
