"""The matrix products of the packed forward pass: x to x W' + b, and an activation of it, by the fastest kernel.

oneDNN, which torch ships, multiplies faster if the weights are laid out for it once, and applies the activation while
the result is still in the cache. torch has that under a private name, so it is used only where it works (torch is
pinned, and parity with transformers is measured before a model serves); elsewhere the products are torch's own.

It also makes a kernel for each number of rows it meets, and torch and oneDNN each keep the last 1,024 of them: half a
megabyte apiece, 500 MB in a day of serving. They are told to keep fewer, and `rounded` lets them meet fewer.
"""

import os
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import gelu, linear

_KERNELS = "256"  # kept, in a process that has not said otherwise
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", _KERNELS)
os.environ.setdefault("LRU_CACHE_CAPACITY", _KERNELS)  # torch's own; both are read at the first product

_ROWS = 2048  # for so many the layout is chosen; others work as well
ACTIVATIONS = ("gelu", "relu", "gelu_new", "gelu_pytorch_tanh")  # by transformers' names, those that are applied here


class Product(NamedTuple):
    """[rows, in] to [rows, out]."""

    weight: Tensor  # [out, in]
    bias: Tensor  # [out]
    activation: str  # one of ACTIVATIONS, or none
    laid_out: bool  # the weight, for oneDNN


def rounded(rows: int) -> int:
    """`rows`, or up to a 32nd more: the numbers of rows worth having a kernel for."""
    step = 1 << max(rows.bit_length() - 6, 0)
    return -(-rows // step) * step


def product(weight: Tensor, bias: Tensor, activation: str = "none", *, frozen: bool = False) -> Product:
    """By a [out, in] weight; `frozen` if that will never change."""
    if frozen and weight.device.type == "cpu" and torch.backends.mkldnn.is_available():
        try:
            packed = torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS)
            made = Product(packed, bias, activation, laid_out=True)
            multiplied(torch.zeros(1, weight.shape[1], dtype=weight.dtype), made)
        except (AttributeError, RuntimeError, NotImplementedError):
            pass
        else:
            return made
    return Product(weight, bias, activation, laid_out=False)


def multiplied(x: Tensor, by: Product) -> Tensor:
    """[rows, in] `x` to [rows, out] in the weights' number format, which `x` is put into."""
    x = x.to(by.bias.dtype)
    fused = by.activation == "none" or by.activation == "gelu"  # oneDNN has these with the same formula
    if by.laid_out:
        post = by.activation if fused else "none"
        x = torch.ops.mkldnn._linear_pointwise(x, by.weight, by.bias, post, [], "none")
        return x if fused else _activated(x, by.activation)
    return _activated(linear(x, by.weight, by.bias), by.activation)


def _activated(x: Tensor, activation: str) -> Tensor:
    if activation == "none":
        return x
    if activation == "relu":
        return torch.relu(x)
    return gelu(x, approximate="none" if activation == "gelu" else "tanh")
