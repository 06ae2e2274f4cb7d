"""BERT's forward pass without padding: the tokens of all texts stand in one [tokens, hidden] matrix.

Linear layers and LayerNorm run over that matrix, attention runs within each text, and in the last layer only the [CLS]
row of each text is computed, because nothing after it reads the others. The work is that of the real tokens alone.

The matrix products of the encoder, nearly all of the work, are computed in one number format; the residual stream and
its norms stay in float32, which halves the rounding error of bfloat16 at no cost. In float32 the numbers are those of
the transformers model, up to rounding. The head is computed in float64: its few products are then as good as
independent of what else is in the batch, and in bfloat16 so are the others.

Training takes the same pass. It drops out hidden values as transformers does, but no attention weights: torch's kernel
for a CPU cannot, and what was trained should not depend on the number format.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import dropout, embedding, layer_norm, linear
from transformers import BertForSequenceClassification, PreTrainedModel
from transformers.activations import ACT2FN

from components.classifier.attention import attention
from components.classifier.products import Product, product, rounded

Affine = tuple[Tensor, Tensor]  # weight and bias


@dataclass(frozen=True)
class _Layer:
    attention_input: tuple[Product, ...]  # query, key and value in one; in the last layer query, and key with value
    attention_output: Product
    attention_norm: Affine
    intermediate: Product
    output: Product
    output_norm: Affine


@dataclass(frozen=True)
class _Group:
    """Texts of one length, next to each other: rows `tokens` of the matrix, `texts` of the batch."""

    tokens: slice
    texts: slice
    length: int

    @property
    def count(self) -> int:
        return self.texts.stop - self.texts.start


def middle_layer(layers: int) -> int:
    """The layer whose output is a text's embedding; 0 is the embedding layer's.

    Fine-tuning makes the last layers blind to what does not bear on the label, another topic for one; the token means
    half-way up still tell (docs/log.md).
    """
    return layers // 2


def supports(model: PreTrainedModel) -> bool:
    """Whether `PackedBert` can stand in for the model: a BERT encoder with absolute positions and a linear head."""
    config = model.config
    absolute = getattr(config, "position_embedding_type", "absolute") == "absolute"
    return type(model) is BertForSequenceClassification and not config.is_decoder and absolute


class PackedBert:
    """The weights of a BERT classifier as they are at the time, products in `dtype`, ready for packed batches.

    Of `frozen` weights the layout is the fastest, and no gradients flow. Else they flow back to the model's parameters,
    and a model in training mode drops out what it is set to.
    """

    def __init__(self, model: Any, dtype: torch.dtype, *, frozen: bool) -> None:
        self._frozen = frozen
        config = model.config
        self._dropout = config.hidden_dropout_prob if model.training else 0.0
        self._head_dropout = model.dropout.p if model.training else 0.0
        self._heads = model.config.num_attention_heads
        self._epsilon = model.config.layer_norm_eps
        self._activation = ACT2FN[model.config.hidden_act]
        self._dtype = dtype
        self._device = next(model.parameters()).device
        embeddings = model.bert.embeddings
        self._words = _float32(embeddings.word_embeddings.weight)
        self._positions = _float32(embeddings.position_embeddings.weight + embeddings.token_type_embeddings.weight[0])
        self._embedding_norm = _affine(embeddings.LayerNorm)
        layers = model.bert.encoder.layer
        self._layers = [self._layer(layer, last=layer is layers[-1]) for layer in layers]
        self._pooler = _affine(model.bert.pooler.dense, torch.float64)
        self._classifier = _affine(model.classifier, torch.float64)

    def __call__(self, texts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """([n, classes] logits, [n, hidden] token means after the middle layer), float32, of n lists of token ids."""
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        ordered = [texts[i] for i in order]
        groups = list(_groups([len(text) for text in ordered]))
        tokens = [token for text in ordered for token in text]
        spare = rounded(len(tokens)) - len(tokens)
        ids = torch.tensor(tokens + [0] * spare, device=self._device)
        by_group = [torch.arange(g.length, device=self._device).repeat(g.count) for g in groups]
        positions = torch.cat([*by_group, ids.new_zeros(spare)])
        hidden = self._norm(embedding(ids, self._words) + embedding(positions, self._positions), self._embedding_norm)
        hidden = self._drop(hidden)
        middle = middle_layer(len(self._layers))
        means = _means(hidden, groups) if middle == 0 else hidden
        for number, layer in enumerate(self._layers[:-1], start=1):
            hidden = self._feed_forward(self._attend(hidden, layer, groups), layer)
            means = _means(hidden, groups) if number == middle else means
        starts = [torch.arange(g.tokens.start, g.tokens.stop, g.length, device=self._device) for g in groups]
        first = torch.cat([*starts, ids.new_zeros(rounded(len(texts)) - len(texts))])
        cls = self._feed_forward(self._attend_first(hidden, first, self._layers[-1], groups), self._layers[-1])
        cls = cls[: len(texts)].double()
        pooled = dropout(torch.tanh(linear(cls, *self._pooler)), self._head_dropout, self._head_dropout > 0)
        logits = linear(pooled, *self._classifier).float()
        back = torch.empty(len(order), dtype=torch.long, device=self._device)
        back[torch.tensor(order, device=self._device)] = torch.arange(len(order), device=self._device)
        return logits[back], means[back]

    def _attend(self, hidden: Tensor, layer: _Layer, groups: list[_Group]) -> Tensor:
        """Attention of every token over its own text, with the residual and its norm: [tokens, hidden]."""
        projected = layer.attention_input[0](hidden.to(self._dtype))
        attended = []
        for group in groups:
            query, key, value = self._by_head(projected[group.tokens], group, 3)
            found = attention(query, key, value)
            attended.append(found.transpose(1, 2).reshape(-1, hidden.shape[1]))
        attended.append(projected[groups[-1].tokens.stop :, : hidden.shape[1]])  # the spare rows, which nobody reads
        mixed = self._drop(layer.attention_output(torch.cat(attended)))
        return self._norm(hidden + mixed, layer.attention_norm)

    def _attend_first(self, hidden: Tensor, first: Tensor, layer: _Layer, groups: list[_Group]) -> Tensor:
        """The same for the rows `first` alone, one for each text: [texts, hidden]."""
        cls, products = hidden.index_select(0, first), hidden.to(self._dtype)
        of_first, of_all = layer.attention_input
        queries, projected = of_first(products.index_select(0, first)), of_all(products)
        attended = []
        for group in groups:
            key, value = self._by_head(projected[group.tokens], group, 2)
            query = queries[group.texts].view(group.count, 1, self._heads, -1).transpose(1, 2)
            attended.append(attention(query, key, value).reshape(group.count, -1))
        attended.append(queries[groups[-1].texts.stop :])
        mixed = self._drop(layer.attention_output(torch.cat(attended)))
        return self._norm(cls + mixed, layer.attention_norm)

    def _by_head(self, projected: Tensor, group: _Group, parts: int) -> tuple[Tensor, ...]:
        """[count * length, parts * hidden] as `parts` views of [count, heads, length, hidden / heads]."""
        split = projected.view(group.count, group.length, parts, self._heads, -1)
        return split.permute(2, 0, 3, 1, 4).unbind(0)

    def _feed_forward(self, hidden: Tensor, layer: _Layer) -> Tensor:
        inner = layer.intermediate(hidden.to(self._dtype))
        return self._norm(hidden + self._drop(layer.output(inner)), layer.output_norm)

    def _drop(self, values: Tensor) -> Tensor:
        return dropout(values, self._dropout) if self._dropout else values

    def _norm(self, hidden: Tensor, affine: Affine) -> Tensor:
        return layer_norm(hidden, (hidden.shape[1],), *affine, self._epsilon)

    def _layer(self, layer: Any, *, last: bool) -> _Layer:
        inner, output = layer.attention.self, layer.attention.output
        query, key_value = [inner.query], [inner.key, inner.value]
        together = [query, key_value] if last else [query + key_value]
        return _Layer(
            attention_input=tuple(self._product(*modules) for modules in together),
            attention_output=self._product(output.dense),
            attention_norm=_affine(output.LayerNorm),
            intermediate=self._product(layer.intermediate.dense, activation=self._activation),
            output=self._product(layer.output.dense),
            output_norm=_affine(layer.output.LayerNorm),
        )

    def _product(self, *modules: Any, activation: Product | None = None) -> Product:
        """One product that gives the results of several linear layers side by side."""
        weights, biases = zip(*(_affine(module, self._dtype) for module in modules), strict=True)
        weight, bias = (parts[0] if len(parts) == 1 else torch.cat(parts) for parts in (weights, biases))
        return product(weight, bias, activation, frozen=self._frozen)


def _affine(module: Any, dtype: torch.dtype = torch.float32) -> Affine:
    return module.weight.to(dtype), module.bias.to(dtype)


def _float32(weight: Tensor) -> Tensor:
    return weight.float()


def _means(hidden: Tensor, groups: list[_Group]) -> Tensor:
    """[texts, hidden] means over each text's tokens."""
    return torch.cat([hidden[g.tokens].view(g.count, g.length, -1).mean(dim=1) for g in groups])


def _groups(lengths: list[int]) -> Iterator[_Group]:
    """Runs of equal numbers in the ascending `lengths`."""
    token = start = 0
    for end in range(1, len(lengths) + 1):
        if end == len(lengths) or lengths[end] != lengths[start]:
            tokens = (end - start) * lengths[start]
            yield _Group(slice(token, token + tokens), slice(start, end), lengths[start])
            token, start = token + tokens, end
