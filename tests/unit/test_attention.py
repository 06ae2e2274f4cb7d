"""Attention in bfloat16, forwards and backwards, against the softmax in float64."""

import math

import pytest
import torch

from components.classifier.attention import attention


def heads(texts: int, length: int, size: int = 32, seed: int = 0, count: int = 12) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(texts, count, length, size, generator=generator).bfloat16()


def expected(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    query, key, value = query.double(), key.double(), value.double()
    return (query @ key.transpose(2, 3) / math.sqrt(query.shape[3])).softmax(dim=-1) @ value


@pytest.mark.parametrize(
    ("texts", "length"), [(1, 3), (80, 24), (3, 130), (2, 301), (2, 512)]
)  # several goes, rows below
@pytest.mark.parametrize("count", [12, 5])  # of which even shares are taken, and of the second only one by one
def test_it_is_the_softmax(texts: int, length: int, count: int) -> None:
    query, key, value = (heads(texts, length, seed=seed, count=count) for seed in (1, 2, 3))
    found = attention(query, key, value)
    assert found.dtype == torch.bfloat16
    assert found.shape == query.shape
    torch.testing.assert_close(found.double(), expected(query, key, value), atol=0.03, rtol=0.02)


@pytest.mark.parametrize("size", [70, 85, 1000, 1e6])  # 2^116 is e^80: within the range of powers, and out of it
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("length", [40, 77])  # the second with rows of zeros, whose scores are larger than many here
def test_no_score_is_too_large(size: float, sign: int, length: int) -> None:
    query, value = torch.zeros(2, 12, length, 32).bfloat16(), heads(2, length)
    key = torch.zeros_like(query)
    query[..., 0] = math.sqrt(32)
    key[:, :, :20, 0] = sign * size
    key[:, :, 20:, 0] = sign * size * 0.5  # the lesser weights are nothing beside the others
    found = attention(query, key, value)
    torch.testing.assert_close(found.double(), expected(query, key, value), atol=0.02, rtol=0.02)


def test_a_row_may_hold_nothing_but_small_scores() -> None:
    query, key, value = torch.ones(1, 12, 8, 32).bfloat16(), torch.full((1, 12, 8, 32), -1000.0).bfloat16(), heads(1, 8)
    found = attention(query, key, value)
    torch.testing.assert_close(found.double(), expected(query, key, value), atol=0.02, rtol=0.02)


@pytest.mark.parametrize("size", [32, 64])
@pytest.mark.parametrize(("texts", "length"), [(1, 3), (80, 24), (3, 130), (2, 300)])
def test_gradients_are_those_of_the_softmax(texts: int, length: int, size: int) -> None:
    parts = [heads(texts, length, size, seed) for seed in (1, 2, 3)]
    weight = heads(texts, length, size, seed=4)
    found, exact = [], []
    for gradients, dtype in ((found, torch.bfloat16), (exact, torch.float64)):
        leaves = [part.to(dtype, copy=True).requires_grad_() for part in parts]
        (attention(*leaves) * weight.to(dtype)).sum().backward()
        gradients += [leaf.grad.double() for leaf in leaves]
    for ours, theirs in zip(found, exact, strict=True):
        assert (ours - theirs).norm() < 0.02 * theirs.norm()


def test_float32_stays_as_exact_as_it_is() -> None:
    parts = [heads(2, 40, seed=seed).float().requires_grad_() for seed in (1, 2, 3)]
    exact = expected(*parts)
    torch.testing.assert_close(attention(*parts).double(), exact, atol=1e-5, rtol=1e-5)
