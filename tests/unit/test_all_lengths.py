"""Attention over texts of all lengths at once, as a GPU scores. None was at hand: the flash kernel itself, which torch
has for CUDA alone, is stood in for by its contract, a softmax within the bounds; all around it is torch's and ours.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import scaled_dot_product_attention
from transformers import BertConfig, BertForSequenceClassification

from components.classifier import packed_bert
from components.classifier.attention import has_kernel_of_all_lengths, of_all_lengths
from components.classifier.packed_bert import PackedBert

CALLS: list[list[int]] = []  # the bounds of each
TEXTS = [[2, 7, 9, 4, 3], [5], [6, 6, 1], [8] * 40, [2, 7, 9], [3] * 23]


def flash(
    query: Tensor, key: Tensor, value: Tensor, bounds: Tensor, of_keys: Tensor, longest: int, *_: Any, **__: Any
) -> tuple[Tensor, ...]:
    """aten::_flash_attention_forward for texts of several lengths, [tokens, heads, size]."""
    assert query.dtype in (torch.bfloat16, torch.float16)
    assert bounds.dtype == of_keys.dtype == torch.int32
    edges = bounds.tolist()
    assert edges == of_keys.tolist() == sorted(edges)
    assert (edges[0], edges[-1]) == (0, len(query)), "what no text has is not written by the kernel"
    assert max(bounds.diff()) <= longest
    CALLS.append(edges)
    found = [
        scaled_dot_product_attention(*(part[start:end].transpose(0, 1).float() for part in (query, key, value)))
        for start, end in pairwise(edges)
    ]
    nothing = query.new_empty(0)
    return torch.cat(found, dim=1).transpose(0, 1).to(query.dtype), nothing, nothing, nothing, nothing


@pytest.fixture(scope="module", autouse=True)
def kernel() -> Iterator[None]:
    library = torch.library.Library("aten", "IMPL")
    library.impl("_flash_attention_forward", flash, "CPU")
    yield
    library._destroy()


@pytest.fixture
def model() -> BertForSequenceClassification:
    torch.manual_seed(3)
    config = BertConfig(vocab_size=10, hidden_size=64, num_hidden_layers=4, num_attention_heads=4, intermediate_size=96)
    return BertForSequenceClassification(config).eval()


def test_a_batch_is_scored_as_length_by_length(
    model: BertForSequenceClassification, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_length = PackedBert(model, torch.bfloat16, frozen=True)
    monkeypatch.setattr(packed_bert, "has_kernel_of_all_lengths", lambda *_: True)
    at_once = PackedBert(model, torch.bfloat16, frozen=False)
    CALLS.clear()
    with torch.no_grad():
        found, expected = at_once(TEXTS), by_length(TEXTS)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=0.01, rtol=0)
    assert at_once.kind == "packed, all lengths at once"
    assert len(CALLS) == 3, "once a layer, but for the last, which asks for one row a text"
    assert CALLS[0] == [0, 1, 4, 7, 12, 35, 75, 76], "the shortest text first; the row at the end is spare"


def test_where_gradients_flow_it_is_length_by_length(
    model: BertForSequenceClassification, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed_bert, "has_kernel_of_all_lengths", lambda *_: True)
    CALLS.clear()
    PackedBert(model, torch.bfloat16, frozen=False)(TEXTS)[0].sum().backward()
    assert not CALLS
    assert model.bert.encoder.layer[0].attention.self.key.weight.grad is not None


def test_torch_takes_what_it_is_given_on_a_gpu() -> None:
    with FakeTensorMode():
        projected = torch.empty(76, 3 * 64, device="cuda", dtype=torch.bfloat16)
        found = of_all_lengths(projected, torch.empty(8, device="cuda", dtype=torch.int32), 40, 4)
    assert (tuple(found.shape), found.dtype, found.device.type) == ((76, 64), torch.bfloat16, "cuda")


def test_a_cpu_has_no_such_kernel() -> None:
    assert not has_kernel_of_all_lengths(torch.device("cpu"), torch.bfloat16, 32)
