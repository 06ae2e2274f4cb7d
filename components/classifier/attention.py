"""Attention within texts of one length, for the packed forward pass."""

import math

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

LOG2_E = 1 / math.log(2)
_SCORES = 1 << 19  # in one go: a megabyte of bfloat16, what a core's own cache holds
_LARGEST = 100.0  # of a score, as a power of two; far above what models have, far below what bfloat16 holds


def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """[texts, heads, length, hidden / heads]; where gradients will flow, in float32 on a CPU, whose bfloat16 kernel
    takes two to four times as long backwards (docs/log.md)."""
    if query.requires_grad and query.device.type == "cpu":
        return scaled_dot_product_attention(query.float(), key.float(), value.float()).to(query.dtype)
    return scaled_dot_product_attention(query, key, value)


def attention_by_powers(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """The same, faster in bfloat16 on a CPU, for queries that were multiplied by LOG2_E / sqrt(hidden / heads).

    Two products for many heads at once, with powers of two between them: a softmax that does not subtract each row's
    maximum, which changes nothing unless a power leaves the format's range. Scores so large get the usual softmax.
    """
    shape, length = query.shape, key.shape[2]
    query, key, value = (part.reshape(-1, *part.shape[2:]) for part in (query, key, value))
    attended = torch.empty_like(query)
    step = max(1, _SCORES // (shape[2] * length))
    for start in range(0, len(query), step):
        part = slice(start, start + step)
        scores = torch.bmm(query[part], key[part].transpose(1, 2))
        least, most = scores.aminmax()
        if least > -_LARGEST and most < _LARGEST:
            weights = scores.exp2_()
            torch.bmm(weights, value[part], out=attended[part])
            attended[part] /= weights.sum(dim=-1, keepdim=True)
        else:
            weights = (scores.float() / LOG2_E).softmax(dim=-1).to(scores.dtype)
            torch.bmm(weights, value[part], out=attended[part])
    return attended.view(shape)
