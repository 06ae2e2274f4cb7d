"""Attention within texts of one length, for the packed forward pass: [texts, heads, length, hidden / heads] each.

In bfloat16 on a CPU by products of whole groups of heads, which takes a third to a half less time than torch's own
kernel forwards, and twice to four times less backwards (docs/log.md); else by torch's.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

LOG2_E = 1 / math.log(2)
_SCORES = 1 << 19  # in one go: a megabyte of bfloat16, what a core's own cache holds
_LARGEST = 100.0  # of a score, as a power of two; far above what models have, far below what bfloat16 holds


def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Softmax of the products of queries and keys, over the root of the head's size, times the values."""
    if query.requires_grad and query.dtype == torch.bfloat16 and query.device.type == "cpu":
        parts = (_ByProducts.apply(*part) for part in _in_cache(query, key, value))
        return torch.cat(list(parts)).view(query.shape)
    return scaled_dot_product_attention(query, key, value)


def attention_by_powers(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """The same without gradients, in bfloat16 on a CPU, for queries times LOG2_E over the root of the head's size.

    A softmax by powers of two that does not subtract each row's maximum, which changes nothing unless a power leaves
    the format's range. Scores so large get the usual softmax.
    """
    attended = query.new_empty(query.shape)
    heads = attended.view(-1, *query.shape[2:])
    done = 0
    for queries, keys, values in _in_cache(query, key, value):
        found = heads[done : (done := done + len(queries))]
        scores = torch.bmm(queries, keys.transpose(1, 2))
        least, most = scores.aminmax()
        if least > -_LARGEST and most < _LARGEST:
            weights = scores.exp2_()
            torch.bmm(weights, values, out=found)
            found /= weights.sum(dim=-1, keepdim=True)
        else:
            weights = (scores.float() / LOG2_E).softmax(dim=-1).to(scores.dtype)
            torch.bmm(weights, values, out=found)
    return attended


def _in_cache(query: Tensor, key: Tensor, value: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """As many heads at a time, of whatever text, as the cache holds the scores of: [heads, length, size] each."""
    heads = max(1, _SCORES // (query.shape[2] * key.shape[2]))
    parts = (part.reshape(-1, *part.shape[2:]).split(heads) for part in (query, key, value))
    return zip(*parts, strict=True)


class _ByProducts(torch.autograd.Function):
    """`attention` of some heads [heads, length, size], with the gradients of the softmax written out."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        ctx.scale = query.shape[2] ** -0.5
        weights = _product(query, key.transpose(1, 2), ctx.scale).float().softmax(dim=-1).to(query.dtype)
        attended = torch.bmm(weights, value)
        ctx.save_for_backward(query, key, value, weights, attended)
        return attended

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        (gradient,) = gradients
        query, key, value, weights, attended = ctx.saved_tensors
        of_weights = torch.bmm(gradient, value.transpose(1, 2))
        mean = (gradient.float() * attended.float()).sum(dim=-1, keepdim=True).to(gradient.dtype)
        of_scores = of_weights.sub_(mean).mul_(weights)
        return (
            _product(of_scores, key, ctx.scale),
            _product(of_scores.transpose(1, 2), query, ctx.scale),
            torch.bmm(weights.transpose(1, 2), gradient),
        )


def _product(left: Tensor, right: Tensor, scale: float) -> Tensor:
    return torch.baddbmm(left.new_empty(1), left, right, beta=0, alpha=scale)
