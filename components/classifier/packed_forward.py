"""The forward pass of packed_bert.py as functions of its weights, in the part of Python that TorchScript compiles.

Run as Python, they score and train. For scoring on a CPU they are compiled: the numbers are the same, a text is scored
in three quarters of the time and a batch in a twentieth less, and above all the interpreter's lock is given away once a
batch instead of once an operator, so that a server's other threads work while the model does (docs/log.md).
"""

import warnings
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import dropout, layer_norm, linear

from components.classifier.attention import attention, of_all_lengths
from components.classifier.products import Product, multiplied

Affine = tuple[Tensor, Tensor]  # weight and bias


class Layer(NamedTuple):
    """The weights of one."""

    attention_input: Product  # to query, key and value side by side; in the last layer to the query alone
    attention_output: Product
    attention_norm: Affine
    intermediate: Product
    output: Product
    output_norm: Affine


class Weights(NamedTuple):
    """A BERT classifier's, and what else its forward pass depends on."""

    words: Tensor  # [vocabulary, hidden]
    positions: Tensor  # [positions, hidden], the type of the tokens in them
    embedding_norm: Affine
    layers: list[Layer]
    last_key: Affine  # the last layer's, divided by the root of a head's size: [heads, size, hidden], [heads, size, 1]
    last_value: Affine  # [heads, hidden, size], [heads, 1, size]
    pooler: Affine
    classifier: Affine
    heads: int
    all_lengths: bool  # attention by one kernel for texts of all lengths, where no gradients flow
    epsilon: float
    dropout: float  # of hidden values; 0 but in training
    head_dropout: float


class Group(NamedTuple):
    """Texts of one length, next to each other."""

    start: int  # its first row in the matrix of tokens
    end: int  # the row after its last
    first: int  # the first text
    texts: int
    length: int  # tokens of each


def middle_layer(layers: int) -> int:
    """The layer whose output is a text's embedding; 0 is the embedding layer's.

    Fine-tuning makes the last layers blind to what does not bear on the label, another topic for one; the token means
    half-way up still tell (docs/log.md).
    """
    return layers // 2


def forward(
    tokens: list[int], groups: list[Group], back: list[int], rows: int, weights: Weights
) -> tuple[Tensor, Tensor]:
    """([texts, classes] logits, [texts, hidden] token means after the middle layer), float32.

    `tokens` are the ids of the groups' texts, one text after the other, and any number of spare ones at the end. `back`
    says of each text in the answer which one of the groups' it is. The last layer computes `rows` rows, at least as
    many as there are texts.
    """
    ids = torch.tensor(tokens, device=weights.words.device)
    positions: list[Tensor] = []
    starts: list[Tensor] = []
    for group in groups:
        positions.append(torch.arange(group.length, device=ids.device).repeat(group.texts))
        starts.append(torch.arange(group.texts, device=ids.device) * group.length + group.start)
    positions.append(ids.new_zeros(len(tokens) - groups[-1].end))
    starts.append(ids.new_zeros(rows - len(back)))
    embedded = torch.embedding(weights.words, ids) + torch.embedding(weights.positions, torch.cat(positions))
    hidden = _dropped(_normed(embedded, weights.embedding_norm, weights), weights)
    middle = middle_layer(len(weights.layers))
    means = _means(hidden, groups) if middle == 0 else hidden
    for number, layer in enumerate(weights.layers[:-1]):
        hidden = _fed_forward(_attended(hidden, layer, groups, weights), layer, weights)
        if number + 1 == middle:
            means = _means(hidden, groups)
    cls = _attended_first(hidden, torch.cat(starts), weights.layers[-1], groups, weights)
    cls = _fed_forward(cls, weights.layers[-1], weights)[: len(back)].double()
    pooled = torch.tanh(linear(cls, weights.pooler[0], weights.pooler[1]))
    pooled = dropout(pooled, weights.head_dropout, weights.head_dropout > 0)
    logits = linear(pooled, weights.classifier[0], weights.classifier[1]).float()
    order = torch.tensor(back, device=ids.device)
    return logits.index_select(0, order), means.index_select(0, order)


def _attended(hidden: Tensor, layer: Layer, groups: list[Group], weights: Weights) -> Tensor:
    """Attention of every token over its own text, with the residual and its norm: [tokens, hidden]."""
    projected = multiplied(hidden, layer.attention_input)
    if not torch.jit.is_scripting() and weights.all_lengths and not projected.requires_grad:
        attended = of_all_lengths(projected, *_bounds(groups, projected), weights.heads)
    else:
        attended = _attended_by_group(projected, groups, weights.heads)
    mixed = _dropped(multiplied(attended, layer.attention_output), weights)
    return _normed(hidden + mixed, layer.attention_norm, weights)


def _bounds(groups: list[Group], rows: Tensor) -> tuple[Tensor, int]:
    """Where each text begins and the last ends, the spare rows being one more; and the largest length."""
    starts = [start for group in groups for start in range(group.start, group.end, group.length)]
    end, spare = groups[-1].end, len(rows) - groups[-1].end
    starts += [end, end + spare] if spare else [end]
    return torch.tensor(starts, dtype=torch.int32, device=rows.device), max(groups[-1].length, spare)


def _attended_by_group(projected: Tensor, groups: list[Group], heads: int) -> Tensor:
    hidden = projected.shape[1] // 3
    attended: list[Tensor] = []
    for group in groups:
        query, key, value = _by_head(projected, group, heads)
        attended.append(attention(query, key, value).transpose(1, 2).reshape(-1, hidden))
    attended.append(projected[groups[-1].end :, :hidden])  # the spare rows, which nobody reads
    return torch.cat(attended)


def _attended_first(hidden: Tensor, first: Tensor, layer: Layer, groups: list[Group], weights: Weights) -> Tensor:
    """The same for the rows `first` alone, one for each text: [texts, hidden].

    By the products in the other order: a query times (the key weights times the tokens) is the query times the key
    weights, which are few rows, times the tokens, and so with the values. That is nearly all of this layer's work less.
    The keys' bias changes no weight of a softmax, but where several processes train, each parameter has to have a
    gradient.
    """
    cls = hidden.index_select(0, first)
    query = multiplied(cls, layer.attention_input)
    query = query.view(len(first), weights.heads, -1).transpose(0, 1)
    asked = torch.bmm(query, weights.last_key[0]).transpose(0, 1)  # [texts, heads, hidden]
    offsets = torch.bmm(query, weights.last_key[1]).transpose(0, 1)  # [texts, heads, 1]
    means: list[Tensor] = []
    for group in groups:
        tokens = hidden[group.start : group.end].view(group.texts, group.length, -1)
        after = group.first + group.texts
        scores = torch.baddbmm(offsets[group.first : after], asked[group.first : after], tokens.transpose(1, 2))
        means.append(torch.bmm(scores.softmax(dim=-1), tokens))
    means.append(asked[groups[-1].first + groups[-1].texts :])
    attended = torch.baddbmm(weights.last_value[1], torch.cat(means).transpose(0, 1), weights.last_value[0])
    attended = attended.transpose(0, 1).reshape(cls.shape)
    mixed = _dropped(multiplied(attended, layer.attention_output), weights)
    return _normed(cls + mixed, layer.attention_norm, weights)


def _by_head(projected: Tensor, group: Group, heads: int) -> list[Tensor]:
    """[tokens, 3 * hidden] as three views of the group's [texts, heads, length, hidden / heads]."""
    of_group = projected[group.start : group.end]
    return list(of_group.view(group.texts, group.length, 3, heads, -1).permute(2, 0, 3, 1, 4).unbind(0))


def _fed_forward(hidden: Tensor, layer: Layer, weights: Weights) -> Tensor:
    inner = multiplied(hidden, layer.intermediate)
    return _normed(hidden + _dropped(multiplied(inner, layer.output), weights), layer.output_norm, weights)


def _dropped(values: Tensor, weights: Weights) -> Tensor:
    return dropout(values, weights.dropout) if weights.dropout > 0 else values


def _normed(hidden: Tensor, affine: Affine, weights: Weights) -> Tensor:
    return layer_norm(hidden, [hidden.shape[1]], affine[0], affine[1], weights.epsilon)


def _means(hidden: Tensor, groups: list[Group]) -> Tensor:
    """[texts, hidden] means over each text's tokens."""
    means: list[Tensor] = []
    for group in groups:
        means.append(hidden[group.start : group.end].view(group.texts, group.length, -1).mean(dim=1))
    return torch.cat(means)


Forward = Callable[[list[int], list[Group], list[int], int], tuple[Tensor, Tensor]]


class _Compiled(torch.nn.Module):
    """`forward` with its weights where TorchScript reads them without Python, whose lock that would take each time."""

    weights: Weights

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        self.weights = weights

    def forward(self, tokens: list[int], groups: list[Group], back: list[int], rows: int) -> tuple[Tensor, Tensor]:
        return forward(tokens, groups, back, rows, self.weights)


def compiled(weights: Weights) -> Forward | None:
    """`forward` with these weights, by TorchScript; None where there is none, or no source for it to read."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            return torch.jit.script(_Compiled(weights)).forward
        except (AttributeError, OSError, RuntimeError):
            return None
