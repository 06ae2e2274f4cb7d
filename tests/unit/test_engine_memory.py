"""What the engine keeps of the batches it has seen, in a process of its own."""

import json
import subprocess
import sys

import pytest

_SCORE = """
import json, random, resource, torch
from transformers import BertConfig, BertForSequenceClassification
from components.classifier.packed_bert import PackedBert

torch.set_num_threads(1)
small = BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=64)
chance, memory = random.Random(13), []
with torch.inference_mode():
    packed = PackedBert(BertForSequenceClassification(small).eval(), torch.float32, frozen=True)
    for batch in range(1201):
        packed([[7] * chance.randint(3, 60) for _ in range(chance.randint(1, 60))])
        if batch % 600 == 0:
            memory.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
print(json.dumps(memory))
"""

_AGAIN = """
import itertools, json, resource, statistics, torch
from concurrent.futures import ThreadPoolExecutor
from transformers import BertConfig, BertForSequenceClassification
from components.classifier.engine import Engine

def pages():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def asked_for():
    for _ in range(3):
        scorer.forward(batch)
    before = [pages()]
    for _ in range(5):
        scorer.forward(batch)
        before.append(pages())
    return statistics.median(after - start for start, after in itertools.pairwise(before))

torch.set_num_threads(1)
small = BertConfig(vocab_size=10, hidden_size=384, num_hidden_layers=3, num_attention_heads=12, intermediate_size=1536)
scorer = Engine(BertForSequenceClassification(small), None, 128, "float32")
scorer._frozen = scorer._packed()
batch = [[7] * 128] * 16
print(json.dumps([asked_for(), ThreadPoolExecutor(1).submit(asked_for).result()]))
"""


def test_a_batch_takes_the_memory_that_the_last_one_freed() -> None:
    answer = subprocess.run([sys.executable, "-c", _AGAIN], check=True, capture_output=True, text=True).stdout
    assert max(json.loads(answer)) < 200  # pages in the main thread and in another; up to 7,648 without `keep_freed`


@pytest.mark.slow
def test_memory_is_flat_however_many_sizes_of_batch_there_are() -> None:
    answer = subprocess.run([sys.executable, "-c", _SCORE], check=True, capture_output=True, text=True).stdout
    first, middle, last = json.loads(answer)  # megabytes
    assert middle - first < 250  # 390 with a kernel for each number of rows, and 580 by the last
    assert last - middle < 10
