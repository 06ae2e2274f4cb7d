"""The forward pass of training: token ids in, logits out, without padding where the model is a BERT."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from components.classifier.engine import Engine
from components.classifier.packed_bert import PackedBert, supports


class TrainingForward(nn.Module):
    """The engine's model as a module that takes texts of any length, with its products in `dtype`."""

    def __init__(self, engine: Engine, dtype: torch.dtype) -> None:
        super().__init__()
        self.model = engine.model
        self._pad, self._dtype, self._device = engine.tokenizer.pad, dtype, engine.device

    def forward(self, texts: Sequence[Sequence[int]]) -> Tensor:
        """[n, classes] float32 logits of n lists of token ids."""
        if supports(self.model):
            logits: Tensor = PackedBert(self.model, self._dtype, frozen=False)(texts)[0]
            return logits
        padded = self._pad({"input_ids": texts}, return_tensors="pt").to(self._device)
        with torch.autocast(self._device.type, dtype=self._dtype, enabled=self._dtype != torch.float32):
            return self.model(**padded).logits.float()
