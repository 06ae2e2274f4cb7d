"""Strict schemas: of built-in kinds from Kubernetes itself, of custom kinds from the packages of their projects.

The CRDs are not copied here. kserve 0.21 ships its types as classes with the name and type of each field; those of
Kubeflow's Trainer 2.3 (kubeflow-trainer-api) and of the Prometheus operator 0.80 (cloudcoil-models-prometheus-operator)
come as pydantic models. All are Apache-2.0. A JSON schema that refuses unknown fields is made of each.
"""

import functools
import importlib
import inspect
import json
import re
from collections.abc import Iterator
from typing import Any

import kubernetes.client
import kubernetes_validate
from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

import serving.kserve_import  # noqa: F401  kserve reads sys.argv when it is imported

import kserve.models  # isort: skip

KUBERNETES = "1.32"
Document = dict[str, Any]
_PYDANTIC = {
    ("monitoring.coreos.com/v1", "ServiceMonitor"): ("cloudcoil.models.prometheus_operator.v1", "ServiceMonitor"),
    ("monitoring.coreos.com/v1", "PrometheusRule"): ("cloudcoil.models.prometheus_operator.v1", "PrometheusRule"),
    ("trainer.kubeflow.org/v1alpha1", "TrainJob"): ("kubeflow_trainer_api.models", "TrainerV1alpha1TrainJob"),
    ("trainer.kubeflow.org/v1alpha1", "TrainingRuntime"): (
        "kubeflow_trainer_api.models", "TrainerV1alpha1TrainingRuntime",
    ),
}  # fmt: skip
_KSERVE = {
    ("serving.kserve.io/v1beta1", "InferenceService"): "V1beta1InferenceService",
    ("serving.kserve.io/v1alpha1", "ServingRuntime"): "V1alpha1ServingRuntime",
}
_PRIMITIVES: dict[str, Document] = {
    "str": {"type": "string"}, "int": {"type": "integer"}, "bool": {"type": "boolean"}, "float": {"type": "number"},
    "datetime": {"type": "string"}, "object": {"type": ["string", "integer", "object"]},
    "ResourceQuantity": {"type": ["string", "number"]},
    "IntstrIntOrString": {"type": ["string", "integer"]},
}  # fmt: skip


def problems(document: Document) -> list[str]:
    """What the schema of the document's kind refuses, each as "path: why"."""
    key = (document["apiVersion"], document["kind"])
    if "." in key[0].split("/")[0] and not key[0].split("/")[0].endswith(".k8s.io"):
        errors = [best_match([error]) for error in custom_schema(key).iter_errors(document)]
        return [f"{error.json_path}: {error.message[:300]}" for error in errors]
    try:
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [f"{'.'.join(map(str, error.path))}: {error.message[:300]}"]
    return []


@functools.cache
def custom_schema(key: tuple[str, str]) -> Draft202012Validator:
    if key in _KSERVE:
        definitions: dict[str, Document] = {}
        _define(_KSERVE[key], definitions)
        return Draft202012Validator({"$ref": f"#/$defs/{_KSERVE[key]}", "$defs": definitions})
    module, name = _PYDANTIC[key]
    schema = getattr(importlib.import_module(module), name).model_json_schema(by_alias=True)
    for part in _objects(schema):
        part.setdefault("additionalProperties", False)
    for name in schema.get("$defs", {}):  # the Trainer's models say object of what is written as a string or a number
        if name.endswith(("ResourceQuantity", "IntOrString")):
            schema["$defs"][name] = {"type": ["string", "number"]}
    return Draft202012Validator(schema)


def _objects(schema: Any) -> Iterator[Document]:
    """Each part of a schema that lists properties."""
    if isinstance(schema, dict):
        if isinstance(schema.get("properties"), dict):
            yield schema
        for part in schema.values():
            yield from _objects(part)
    elif isinstance(schema, list):
        for part in schema:
            yield from _objects(part)


def _define(name: str, definitions: dict[str, Document]) -> None:
    """The class's schema, and those that it refers to. A field is required if its setter refuses None."""
    model = getattr(kserve.models, name, None) or getattr(kubernetes.client, name.removeprefix("K8sIoApiApps"), None)
    if model is None:  # neither package knows it: what cannot be checked is refused
        definitions[name] = {"not": {}}
        return
    required = re.findall(r"Invalid value for `(\w+)`, must not be `None`", inspect.getsource(model))
    definitions[name] = {
        "type": "object",
        "additionalProperties": False,
        "required": sorted({model.attribute_map[one] for one in required}),
        "properties": {},
    }
    for attribute, kind in model.openapi_types.items():
        definitions[name]["properties"][model.attribute_map[attribute]] = _schema_of(kind, definitions)


def _schema_of(kind: str, definitions: dict[str, Document]) -> Document:
    if kind.startswith("list["):
        return {"type": "array", "items": _schema_of(kind[5:-1], definitions)}
    if kind.startswith("dict("):
        return {"type": "object", "additionalProperties": _schema_of(kind[5:-1].split(", ", 1)[1], definitions)}
    if kind in _PRIMITIVES:
        return _PRIMITIVES[kind]
    if kind not in definitions:
        _define(kind, definitions)
    return {"$ref": f"#/$defs/{kind}"}


def distinct(builds: dict[str, list[Document]]) -> dict[str, tuple[str, Document]]:
    """Documents of all builds that differ, each with the first build that has it."""
    found: dict[str, tuple[str, Document]] = {}
    for name, documents in builds.items():
        for document in documents:
            found.setdefault(json.dumps(document, sort_keys=True), (name, document))
    return found
