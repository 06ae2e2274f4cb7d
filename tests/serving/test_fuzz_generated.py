"""Thousands of generated requests against the real server: from its OpenAPI document, and arbitrary JSON as V1 bodies.

Together with test_fuzz.py more than 10,000 requests: no 5xx, no crash, memory flat.
"""

import contextlib
import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from server_process import Server, megabytes, running

from serving.client import predict_v1

pytestmark = pytest.mark.slow

MOST_GROWTH = 100  # MB, over all of this file, after the first requests: what the engine's last kernels may take
V2_EXAMPLES, OTHER_EXAMPLES, V1_EXAMPLES = 1000, 40, 2500


@pytest.fixture(scope="module")
def server(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Warm; it must hold no more memory in the end."""
    with running(str(small_model), tmp_path_factory.mktemp("server") / "log") as started:
        for words in range(1, 301):
            predict_v1(started.url, "sentiment", ["word " * words])
        for texts in range(2, 60):
            predict_v1(started.url, "sentiment", ["word " * texts] * (1 + texts % 9))
        before = megabytes(started)
        yield started
        print(f"{before:.0f} MB before, {megabytes(started):.0f} MB after")
        assert megabytes(started) < before + MOST_GROWTH


def fuzz(requests_of: st.SearchStrategy[Any], examples: int, ask: Callable[[Any], int]) -> Counter[int]:
    """Ask with at most so many of the generated requests; the statuses. Fails on a 5xx."""
    statuses = Counter[int]()

    @settings(
        max_examples=examples, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    @given(requests_of)
    def each(request: Any) -> None:
        status = ask(request)
        statuses[status] += 1
        assert status < 500

    with contextlib.suppress(Unsatisfiable):  # an operation without parameters has nothing to be wrong in
        each()
    return statuses


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_whatever_the_openapi_document_allows_or_forbids(server: Server, mode: GenerationMode) -> None:
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    operations = [result.ok() for result in schema.get_all_operations()]
    assert len(operations) >= 10
    statuses = Counter[int]()
    with requests.Session() as session:

        def ask(case: schemathesis.Case) -> int:
            answer = case.call(session=session, timeout=30)
            if answer.status_code >= 400:
                assert "\n" not in json.loads(answer.content)["error"]
            return answer.status_code

        for operation in operations:
            infers = operation.path == "/v2/models/{model_name}/infer"
            known = {"model_name": "sentiment"} if "{model_name}" in operation.path else None
            generated = operation.as_strategy(mode)
            if known:
                generated |= operation.as_strategy(mode, path_parameters=known)
            statuses += fuzz(generated, V2_EXAMPLES if infers else OTHER_EXAMPLES, ask)
    print(mode, statuses)
    assert statuses.total() >= V2_EXAMPLES
    assert len(predict_v1(server.url, "sentiment", ["good"])) == 1


KEYS = st.sampled_from(["instances", "text", "parameters", "probabilities", "inputs", ""]) | st.text(max_size=5)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=20,
)
BODIES = (
    VALUES
    | st.builds(lambda instances, rest: {**rest, "instances": instances}, VALUES, st.dictionaries(KEYS, VALUES))
    | st.fixed_dictionaries({"instances": st.lists(st.text() | st.fixed_dictionaries({"text": VALUES}), max_size=9)})
    | st.fixed_dictionaries({"instances": st.lists(st.text(max_size=200), min_size=1, max_size=9)})
)


def test_any_json_as_a_v1_body(server: Server) -> None:
    address = f"{server.url}/v1/models/sentiment:predict"
    with requests.Session() as session:

        def ask(body: Any) -> int:
            answer = session.post(address, data=json.dumps(body).encode(), timeout=30)
            assert answer.status_code == 200 or answer.json()["error"]
            return answer.status_code

        statuses = fuzz(BODIES, V1_EXAMPLES, ask)
    print(statuses)
    assert set(statuses) == {200, 400}
    assert min(statuses.values()) > V1_EXAMPLES / 20
