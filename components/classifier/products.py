"""The matrix products of the packed forward pass: x to x W' + b, and GELU of it, by the fastest kernel there is.

oneDNN, which torch ships, multiplies faster if the weights are laid out for it once, and applies the activation while
the result is still in the cache. torch has that under a private name, so it is used only where it works (torch is
pinned, and parity with transformers is measured before a model serves); elsewhere the products are torch's own.

It also makes a kernel for each number of rows it meets, and torch and oneDNN each keep the last 1,024 of them: half a
megabyte apiece, 500 MB in a day of serving. They are told to keep fewer, and `rounded` lets them meet fewer.
"""

import os
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import linear

Product = Callable[[Tensor], Tensor]
_KERNELS = "256"  # kept, in a process that has not said otherwise
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", _KERNELS)
os.environ.setdefault("LRU_CACHE_CAPACITY", _KERNELS)  # torch's own; both are read at the first product

_ROWS = 2048  # for so many the layout is chosen; others work as well
# What oneDNN calls an activation that it has with the same formula; any other is torch's to apply.
_POSTS = {"NoneType": "none", "GELUActivation": "gelu"}


def rounded(rows: int) -> int:
    """`rows`, or up to a 32nd more: the numbers of rows worth having a kernel for."""
    step = 1 << max(rows.bit_length() - 6, 0)
    return -(-rows // step) * step


def product(weight: Tensor, bias: Tensor, activation: Product | None = None, *, frozen: bool = False) -> Product:
    """The function of [rows, in] that gives [rows, out] for a [out, in] weight; `frozen` if that will never change."""
    if frozen and weight.device.type == "cpu":
        made = _laid_out(weight, bias, _POSTS.get(type(activation).__name__, ""))
        if made is not None:
            return made
    if activation is None:
        return lambda x: linear(x, weight, bias)
    return lambda x: activation(linear(x, weight, bias))


def _laid_out(weight: Tensor, bias: Tensor, post: str) -> Product | None:
    """By the prepacked kernel, or None if there is none for this."""
    if not post or not torch.backends.mkldnn.is_available():
        return None
    try:
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS)
        run = torch.ops.mkldnn._linear_pointwise
        run(torch.zeros(1, weight.shape[1], dtype=weight.dtype), packed, bias, post, [], "none")
    except (AttributeError, RuntimeError, NotImplementedError):
        return None
    return lambda x: run(x, packed, bias, post, [], "none")
