"""What a roll-out applies fits KServe's own types: unknown fields are refused."""

import copy
from typing import Any

import pytest
from schemas import problems

from components.deployment import inference_service as fields
from components.deployment.pointer import Pointer

ONE = Pointer("sentiment", "1", "aa", "s3://b/models/1")
TWO = Pointer("sentiment", "2", "bb", "s3://b/models/2")


def live(mode: str) -> dict[str, Any]:
    """As Everbert has created it; of another's object only the fields that a step sets are applied."""
    made = copy.deepcopy(fields.new_service(ONE, mode))
    owned = {"f:spec": {"f:predictor": {"f:serviceAccountName": {}}}}
    ours = {"manager": "everbert", "operation": "Apply", "fieldsV1": owned}
    made["metadata"] |= {"name": "sentiment", "managedFields": [ours]}
    return made


def applied(body: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService", **body}


@pytest.mark.parametrize("mode", [fields.STANDARD, fields.KNATIVE])
def test_every_step_fits_the_types_of_kserve(mode: str) -> None:
    now = live(mode)
    bodies = [fields.new_service(ONE, mode), fields.alone(now, TWO)]
    bodies += [fields.beside(now, ONE, TWO, share) for share in (0, 10, 50)]
    assert [problems(applied(body)) for body in bodies] == [[]] * len(bodies)


def test_a_field_that_kserve_does_not_know_is_found() -> None:
    body = fields.beside(live(fields.STANDARD), ONE, TWO, 10)
    body["spec"]["canary"][0]["percent"] = 10
    assert problems(applied(body))
