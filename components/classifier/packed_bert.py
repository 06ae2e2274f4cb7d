"""BERT's forward pass without padding: the tokens of all texts stand in one [tokens, hidden] matrix.

Linear layers and LayerNorm run over that matrix, attention runs within each text, and in the last layer only the [CLS]
row of each text is computed, because nothing after it reads the others. The work is that of the real tokens alone.

The matrix products, nearly all of the work, are computed in one number format; the residual stream and its norms stay
in float32, which halves the rounding error of bfloat16 at no cost. In float32 the numbers are those of the transformers
model, up to rounding. The few products of the last layer are in float32 whatever the others are in, and those of the
head in float64: so what else is in the batch changes no more than the seventh digit of an answer.

Training takes the same pass. It drops out hidden values as transformers does, but no attention weights: torch's kernel
for a CPU cannot, and what was trained should not depend on the number format.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import BertForSequenceClassification, PreTrainedModel

from components.classifier.attention import has_kernel_of_all_lengths
from components.classifier.packed_forward import Affine, Group, Layer, Weights, compiled, forward
from components.classifier.products import ACTIVATIONS, Product, product, rounded


def supports(model: PreTrainedModel) -> bool:
    """Whether `PackedBert` can stand in for the model: a BERT encoder with absolute positions and a linear head.

    And with one of the activations that are known here, which most have.
    """
    config = model.config
    if type(model) is not BertForSequenceClassification or config.is_decoder or config.hidden_act not in ACTIVATIONS:
        return False
    return getattr(config, "position_embedding_type", "absolute") == "absolute"


class PackedBert:
    """The weights of a BERT classifier as they are at the time, products in `dtype`, ready for packed batches.

    Of `frozen` weights the layout is the fastest, and no gradients flow. Else they flow back to the model's parameters,
    and a model in training mode drops out what it is set to.
    """

    def __init__(self, model: Any, dtype: torch.dtype, *, frozen: bool) -> None:
        self._frozen = frozen
        config, embeddings, layers = model.config, model.bert.embeddings, model.bert.encoder.layer
        words = embeddings.word_embeddings.weight.float()
        weights = Weights(
            words=words,
            positions=(embeddings.position_embeddings.weight + embeddings.token_type_embeddings.weight[0]).float(),
            embedding_norm=_affine(embeddings.LayerNorm),
            layers=[
                *(self._layer(layer, dtype, config.hidden_act) for layer in layers[:-1]),
                self._layer(layers[-1], torch.float32, config.hidden_act, last=True),
            ],
            last_key=_last_key(layers[-1].attention.self),
            last_value=_last_value(layers[-1].attention.self),
            pooler=_affine(model.bert.pooler.dense, torch.float64),
            classifier=_affine(model.classifier, torch.float64),
            heads=config.num_attention_heads,
            all_lengths=has_kernel_of_all_lengths(
                words.device, dtype, config.hidden_size // config.num_attention_heads
            ),
            epsilon=config.layer_norm_eps,
            dropout=config.hidden_dropout_prob if model.training else 0.0,
            head_dropout=model.dropout.p if model.training else 0.0,
        )
        fast = compiled(weights) if frozen and words.device.type == "cpu" else None
        self._forward = fast or partial(forward, weights=weights)
        self.kind = "packed, all lengths at once" if weights.all_lengths else "packed, compiled" if fast else "packed"

    def __call__(self, texts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """([n, classes] logits, [n, hidden] token means after the middle layer), float32, of n lists of token ids."""
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        tokens = [token for i in order for token in texts[i]]
        tokens += [0] * (rounded(len(tokens)) - len(tokens))
        groups = list(_groups([len(texts[i]) for i in order]))
        back = sorted(range(len(order)), key=order.__getitem__)
        return self._forward(tokens, groups, back, rounded(len(texts)))

    def _layer(self, layer: Any, dtype: torch.dtype, activation: str, *, last: bool = False) -> Layer:
        inner, output = layer.attention.self, layer.attention.output
        return Layer(
            attention_input=self._product([inner.query] if last else [inner.query, inner.key, inner.value], dtype),
            attention_output=self._product([output.dense], dtype),
            attention_norm=_affine(output.LayerNorm),
            intermediate=self._product([layer.intermediate.dense], dtype, activation),
            output=self._product([layer.output.dense], dtype),
            output_norm=_affine(layer.output.LayerNorm),
        )

    def _product(self, modules: list[Any], dtype: torch.dtype, activation: str = "none") -> Product:
        """One product that gives the results of several linear layers side by side."""
        weights, biases = zip(*(_affine(module, dtype) for module in modules), strict=True)
        weight, bias = (parts[0] if len(parts) == 1 else torch.cat(parts) for parts in (weights, biases))
        return product(weight, bias, activation, frozen=self._frozen)


def _affine(module: Any, dtype: torch.dtype = torch.float32) -> Affine:
    return module.weight.to(dtype), module.bias.to(dtype)


def _last_key(attention: Any) -> Affine:
    weight, bias = _affine(attention.key)
    heads, root = attention.num_attention_heads, attention.attention_head_size**0.5
    return weight.view(heads, -1, weight.shape[1]) / root, bias.view(heads, -1, 1) / root


def _last_value(attention: Any) -> Affine:
    weight, bias = _affine(attention.value)
    heads = attention.num_attention_heads
    return weight.view(heads, -1, weight.shape[1]).transpose(1, 2), bias.view(heads, 1, -1)


def _groups(lengths: list[int]) -> Iterator[Group]:
    """Runs of equal numbers in the ascending `lengths`."""
    token = start = 0
    for end in range(1, len(lengths) + 1):
        if end == len(lengths) or lengths[end] != lengths[start]:
            after = token + (end - start) * lengths[start]
            yield Group(token, after, start, end - start, lengths[start])
            token, start = after, end
