"""Attention within texts, for the packed forward pass.

`attention` is of texts of one length, [texts, heads, length, hidden / heads] each. In bfloat16 on a CPU by products of
whole groups of heads: in a third to a half less time than torch's kernel forwards, and there and back 1.4 to 2.3 times
as fast as its float32 one, which is faster than its bfloat16 one (docs/log.md). Else by torch's.

`of_all_lengths` is what a GPU scores with: one kernel for a batch, whatever its texts' lengths.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import pad, scaled_dot_product_attention

# TorchScript, which compiles these functions, reads no globals but as the defaults of their parameters.
_SCORES = 1 << 20  # in one go: two megabytes of bfloat16; with gradients half as many
_STEP, _SHORT = 8, 64  # texts longer than the one get zeros below, up to a multiple of the other
# Of a row's sum of powers, and its inverse the least: the format ends at 2^128, and MiniLM's reach 2^113.
_LARGEST = 2.0**116


def of_all_lengths(projected: Tensor, bounds: Tensor, longest: int, heads: int) -> Tensor:
    """Of [tokens, 3 * hidden], query, key and value side by side: [tokens, hidden]. On a GPU, without gradients.

    `bounds` [texts + 1], int32: where each text begins, and where the last ends; `longest` is a text's length.
    """
    query, key, value = projected.view(len(projected), 3, heads, -1).unbind(1)
    found = varlen_attn(query, key, value, bounds, bounds, longest, longest)
    assert isinstance(found, Tensor)  # as nothing beside it is asked for
    return found.flatten(1)


def has_kernel_of_all_lengths(device: torch.device, dtype: torch.dtype, size: int) -> bool:
    """Whether `of_all_lengths` works there: found out by trying, since it depends on GPU, format and head's size."""
    if device.type != "cuda":
        return False
    try:
        bounds = torch.tensor([0, 1, 3], dtype=torch.int32, device=device)
        of_all_lengths(torch.zeros(3, 3 * size, dtype=dtype, device=device), bounds, 2, 1)
    except RuntimeError:
        return False
    return True


def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Softmax of the products of queries and keys, over the root of the head's size, times the values."""
    if query.dtype != torch.bfloat16 or query.device.type != "cpu":
        return scaled_dot_product_attention(query, key, value)
    texts, heads, length, size = query.shape
    trained = not torch.jit.is_scripting() and query.requires_grad  # compiled is what scores
    rows = length if trained else _padded(length)
    at_once = _heads_at_once(heads, rows, trained)
    queries = _by_row(query, rows).split(at_once)
    keys = _by_row(key, rows).split(at_once)
    values = _by_row(value, rows).split(at_once)
    found: list[Tensor] = []
    for of_query, of_key, of_value in zip(queries, keys, values):  # noqa: B905  TorchScript knows no `strict`
        found.append(_of_heads(of_query, of_key, of_value, length))
    return torch.cat(found).view(texts, heads, rows, size)[:, :, :length]


def _padded(length: int, step: int = _STEP, short: int = _SHORT) -> int:
    """The rows worth having kernels for: oneDNN makes two for each number it meets, a millisecond and a half."""
    return -(-length // step) * step if length > short else length


def _heads_at_once(heads: int, rows: int, trained: bool, scores: int = _SCORES) -> int:
    """Those of whole texts, or an even share of one's, so that most goes are alike."""
    most = max(1, scores // (2 * rows * rows if trained else rows * rows))
    if most >= heads:
        return most - most % heads
    while heads % most:
        most -= 1
    return most


def _by_row(values: Tensor, rows: int) -> Tensor:
    """[texts, heads, length, size] to [texts * heads, rows, size], the rows from `length` on zeros."""
    length = values.shape[2]
    if rows > length:
        values = pad(values, [0, 0, 0, rows - length])
    return values.reshape(-1, rows, values.shape[3])


def _of_heads(query: Tensor, key: Tensor, value: Tensor, length: int) -> Tensor:
    """`attention` of some heads [heads, rows, size] whose rows from `length` on are zeros."""
    if not torch.jit.is_scripting() and query.requires_grad:
        return _ByProducts.apply(query, key, value)
    return _by_powers(query, key, value, length)


def _by_powers(query: Tensor, key: Tensor, value: Tensor, length: int, largest: float = _LARGEST) -> Tensor:
    """`_of_heads` without gradients.

    The softmax by powers of two, and without each row's maximum subtracted, which changes nothing as long as the row's
    sum stays in the format's range. Where one does not, the usual softmax.
    """
    weights = _product(query, key.transpose(1, 2), query.shape[2] ** -0.5 / math.log(2)).exp2_()
    sums = weights[:, :, :length].sum(dim=-1, keepdim=True)
    least, most = torch.aminmax(sums)
    if bool(least > 1 / largest) and bool(most < largest):
        return torch.bmm(weights, value).div_(sums)
    return torch.bmm(_softmax(query, key[:, :length]), value[:, :length])


class _ByProducts(torch.autograd.Function):
    """`attention` of some heads [heads, length, size], with the gradients of the softmax written out."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        weights = _softmax(query, key)
        attended = torch.bmm(weights, value)
        ctx.save_for_backward(query, key, value, weights, attended)
        return attended

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        (gradient,) = gradients
        query, key, value, weights, attended = ctx.saved_tensors
        scale = query.shape[2] ** -0.5
        of_weights = torch.bmm(gradient, value.transpose(1, 2))
        mean = (gradient.float() * attended.float()).sum(dim=-1, keepdim=True).to(gradient.dtype)
        of_scores = of_weights.sub_(mean).mul_(weights)
        return (
            _product(of_scores, key, scale),
            _product(of_scores.transpose(1, 2), query, scale),
            torch.bmm(weights.transpose(1, 2), gradient),
        )


def _softmax(query: Tensor, key: Tensor) -> Tensor:
    scores = _product(query, key.transpose(1, 2), query.shape[2] ** -0.5)
    return scores.float().softmax(dim=-1).to(query.dtype)


def _product(left: Tensor, right: Tensor, scale: float) -> Tensor:
    """`left` times `right` times `scale`, rounded once."""
    return torch.baddbmm(left.new_empty(1), left, right, beta=0, alpha=scale)
