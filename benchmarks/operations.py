"""Texts of mixed length, how many operations a BERT takes for them, and how many a processor can do."""

import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from drift_rows import SAMPLES

from components.classifier.products import multiplied, product

TOKENS = 2048  # in the matrix product whose speed is the peak


def mixed_texts(count: int, *, whole_reviews: bool = False) -> Iterator[tuple[str, int]]:
    """(text, label): two in five are single snippets of samples/, the rest several of one label, 100 to 250 tokens.

    With `whole_reviews` these are as long as reviews on the web are: log-normal, half of them over 200 tokens, some
    over 500.
    """
    generator = np.random.default_rng(13)
    rows = pd.read_csv(SAMPLES / "incoming" / "products.csv").merge(pd.read_csv(SAMPLES / "labels" / "products.csv"))
    by_label = [rows[rows["label"] == label]["text"] for label in (0, 1)]
    for number in range(count):
        joined = 1  # of about 20 tokens each
        if generator.random() >= 0.4:
            joined = round(generator.lognormal(np.log(10.5), 0.6)) if whole_reviews else int(generator.integers(5, 13))
        yield " ".join(by_label[number % 2].sample(max(1, joined), random_state=number)), number % 2


def operations(lengths: Sequence[int], config: Any, *, first_row_only: bool = False) -> float:
    """Floating point operations of a forward pass over texts of so many tokens, without padding.

    With `first_row_only` the last layer computes the [CLS] row alone, and of the other rows no keys and values.
    """
    hidden, inner, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    heads = config.num_attention_heads
    total = 0.0
    for length in lengths:
        whole = 2 * length * (4 * hidden**2 + 2 * hidden * inner) + 4 * length**2 * hidden
        last = 2 * (4 * hidden**2 + 2 * hidden * inner) + 4 * length * heads * hidden
        total += (layers - 1) * whole + (last if first_row_only else whole)
    return total


def peak(dtype: torch.dtype, hidden: int) -> float:
    """Operations a CPU second of a layer's largest matrix product: the best of many, by torch's kernel or by ours."""
    left, right = torch.randn(TOKENS, hidden).to(dtype), torch.randn(4 * hidden, hidden).to(dtype)
    bias = torch.zeros(4 * hidden, dtype=dtype)
    reached = []
    with torch.inference_mode():
        for by in (product(right, bias), product(right, bias, frozen=True)):
            for _ in range(20):
                started = time.process_time()
                for _ in range(5):
                    multiplied(left, by)
                reached.append(5 * 2 * TOKENS * 4 * hidden**2 / (time.process_time() - started))
    return max(reached)
