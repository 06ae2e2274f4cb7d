"""What the steps ask of a cluster, added to the pipeline when it is compiled for one.

On a laptop the same pipeline runs without: KFP's local runner would warn of limits that it ignores, and retry.
"""

import functools
import re
from typing import Any

from kfp import dsl, kubernetes
from kfp.dsl.graph_component import GraphComponent
from kfp.dsl.pipeline_context import Pipeline

from components.config import ClusterSettings
from components.errors import SettingsError

SECRET, CONFIG_MAP = "everbert-s3", "everbert"  # the objects' names, nothing secret
_CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
_NEEDED, _OPTIONAL = ("AWS_DEFAULT_REGION", "MLFLOW_TRACKING_URI"), ("AWS_ENDPOINT_URL",)  # S3 itself needs none
_WITH_MODEL = ("train", "evaluate")
_USER = 10001  # of the images
_QUANTITY = re.compile(r"[1-9][0-9]*([KMGTP]i?)?")


def for_cluster(pipeline: GraphComponent, settings: ClusterSettings) -> GraphComponent:
    """The same pipeline with every step placed. Raises SettingsError for what Kubernetes would not take."""
    _check(settings)

    @functools.wraps(pipeline.pipeline_func)
    def placed(*channels: Any, **named: Any) -> None:
        pipeline.pipeline_func(*channels, **named)
        for task in Pipeline.get_default_pipeline().tasks.values():
            _place(task, settings)

    return dsl.pipeline(name=pipeline.name, description=pipeline.description)(placed)


def _place(task: dsl.PipelineTask, settings: ClusterSettings) -> None:
    task.set_retry(settings.retries, backoff_duration=f"{settings.retry_seconds}s", backoff_factor=2)
    kubernetes.set_timeout(task, round(3600 * settings.timeout_hours))
    kubernetes.set_security_context(task, run_as_user=_USER, run_as_group=_USER, run_as_non_root=True)
    kubernetes.add_pod_label(task, "app.kubernetes.io/part-of", "everbert")
    kubernetes.add_pod_label(task, "app.kubernetes.io/component", task.name)
    kubernetes.use_secret_as_env(task, SECRET, {name: name for name in _CREDENTIALS})
    kubernetes.use_config_map_as_env(task, CONFIG_MAP, {name: name for name in _NEEDED})
    kubernetes.use_config_map_as_env(task, CONFIG_MAP, {name: name for name in _OPTIONAL}, optional=True)
    if task.name in _WITH_MODEL:
        _limit(task, settings.cpu, settings.memory)
        kubernetes.empty_dir_mount(task, "shared-memory", "/dev/shm", "Memory", settings.shared_memory)  # noqa: S108
        _choose_nodes(task, settings)
    else:
        _limit(task, settings.light_cpu, settings.light_memory)


def _limit(task: dsl.PipelineTask, cpu: float, memory: str) -> None:
    """What is requested is the limit too: no step takes what another was promised."""
    task.set_cpu_request(f"{cpu:g}").set_cpu_limit(f"{cpu:g}").set_memory_request(memory).set_memory_limit(memory)


def _choose_nodes(task: dsl.PipelineTask, settings: ClusterSettings) -> None:
    for pair in settings.node_selector:
        kubernetes.add_node_selector(task, *pair.split("="))
    tolerated = list(settings.tolerations)
    if settings.gpus:
        task.set_accelerator_type(settings.gpu_resource).set_accelerator_limit(settings.gpus)
        tolerated.append(settings.gpu_resource)
    for key in tolerated:
        kubernetes.add_toleration(task, key=key, operator="Exists")


def _check(settings: ClusterSettings) -> None:
    for name in ("memory", "shared_memory", "light_memory"):
        if not _QUANTITY.fullmatch(getattr(settings, name)):
            raise SettingsError(f"cluster.{name} must be an amount such as 8Gi, not {getattr(settings, name)!r}")
    for pair in settings.node_selector:
        if not re.fullmatch(r"[^\s=]+=[^\s=]*", pair):
            raise SettingsError(f"cluster.node_selector must be LABEL=VALUE, not {pair!r}")
