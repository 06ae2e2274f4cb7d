"""The compiled pipeline beside its source is what the source compiles to; and what every step asks of a cluster."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf import json_format
from kfp.kubernetes.kubernetes_executor_config_pb2 import KubernetesExecutorConfig
from kfp.pipeline_spec.pipeline_spec_pb2 import PipelineSpec

from components import images
from components.config import ClusterSettings
from components.errors import SettingsError
from pipelines.compilation import GOLDEN, compile_pipeline, steps

STEPS = {"prepare", "train", "evaluate", "decide", "register", "deploy", "record"}
WITH_MODEL = {"train", "evaluate"}
GPUS = ClusterSettings(
    gpus=2, node_selector=("gpu-kind=nvidia-l4",), tolerations=("reserved",), cpu=8, memory="32Gi"
)  # fmt: skip


def read(path: Path) -> tuple[PipelineSpec, dict[str, KubernetesExecutorConfig]]:
    """By the strict parser: an unknown field or a value of the wrong type raises."""
    specification, platform = yaml.safe_load_all(path.read_text(encoding="utf-8"))
    assert list(platform["platforms"]) == ["kubernetes"]
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    parsed = {
        n.removeprefix("exec-"): json_format.ParseDict(e, KubernetesExecutorConfig()) for n, e in executors.items()
    }
    return json_format.ParseDict(specification, PipelineSpec()), parsed


def containers(specification: PipelineSpec) -> dict[str, Any]:
    executors = json_format.MessageToDict(specification.deployment_spec)["executors"]
    return {name.removeprefix("exec-"): executor["container"] for name, executor in executors.items()}


def tasks(specification: PipelineSpec) -> dict[str, Any]:
    """Every task that runs a step, at any depth."""
    dags = [specification.root.dag, *(c.dag for c in specification.components.values() if c.HasField("dag"))]
    return {name: task for dag in dags for name, task in dag.tasks.items() if name in STEPS}


@pytest.fixture(scope="module", params=[ClusterSettings(), GPUS], ids=["cpu", "gpu"])
def compiled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = compile_pipeline(tmp_path_factory.mktemp("compiled") / "pipeline.yaml", request.param)
    return request.param, *read(path)


def test_the_golden_pipeline_is_up_to_date(tmp_path: Path) -> None:
    compiled = compile_pipeline(tmp_path / "pipeline.yaml").read_text(encoding="utf-8")
    assert compiled == GOLDEN.read_text(encoding="utf-8"), "run `everbert compile` and look at the difference"


def test_the_graph_is_the_one_of_the_design() -> None:
    specification, _ = read(GOLDEN)
    assert set(specification.root.dag.tasks) == {"exit-handler-1", "record"}
    proven = specification.components["comp-exit-handler-1"].dag.tasks
    assert set(proven) == {"prepare", "train", "evaluate", "decide", "register", "condition-2"}
    assert list(proven["evaluate"].dependent_tasks) == ["prepare", "train"]
    assert set(tasks(specification)) == steps() == STEPS
    outputs = specification.components["comp-evaluate"].output_definitions.artifacts
    kinds = {name: artifact.artifact_type.schema_title for name, artifact in outputs.items()}
    assert kinds["metrics"] == "system.Metrics"
    assert kinds["classification"] == "system.ClassificationMetrics"
    assert kinds["report"] == "system.HTML"


def test_the_last_step_runs_whatever_came_before_and_is_told_of_it() -> None:
    specification, _ = read(GOLDEN)
    record = specification.root.dag.tasks["record"]
    assert record.trigger_policy.strategy == record.trigger_policy.ALL_UPSTREAM_TASKS_COMPLETED
    assert record.inputs.parameters["status"].task_final_status.producer_task == "exit-handler-1"


def test_what_changes_nothing_is_cached_and_changed_data_are_not_taken_for_the_same() -> None:
    specification, _ = read(GOLDEN)
    cached = {name for name, task in tasks(specification).items() if task.caching_options.enable_cache}
    assert cached == {"prepare", "train", "evaluate"}
    assert "sources_digest" in tasks(specification)["prepare"].inputs.parameters


def test_every_step_has_limits_and_is_promised_what_it_may_use(compiled: Any) -> None:
    settings, specification, _ = compiled
    for name, container in containers(specification).items():
        wanted = (settings.cpu, settings.memory) if name in WITH_MODEL else (settings.light_cpu, settings.light_memory)
        resources = container["resources"]
        assert container["image"] == (images.TORCH if name in WITH_MODEL else images.LIGHT)
        for kind in ("Request", "Limit"):
            assert float(resources[f"resourceCpu{kind}"]) == wanted[0], name
            assert resources[f"resourceMemory{kind}"] == wanted[1], name
    assert set(containers(specification)) == STEPS


def test_only_the_steps_with_a_model_ask_for_gpus_their_nodes_and_shared_memory(compiled: Any) -> None:
    settings, specification, executors = compiled
    for name, container in containers(specification).items():
        gpus = settings.gpus if name in WITH_MODEL else 0
        accelerator = container["resources"].get("accelerator", {})
        assert (accelerator.get("resourceType"), accelerator.get("resourceCount")) == (
            ("nvidia.com/gpu", str(gpus)) if gpus else (None, None)
        )
        executor = executors[name]
        assert dict(executor.node_selector.labels) == ({"gpu-kind": "nvidia-l4"} if gpus else {})
        tolerated = {(t.key, t.operator) for t in executor.tolerations}
        assert tolerated == ({("reserved", "Exists"), ("nvidia.com/gpu", "Exists")} if gpus else set())
        mounts = [(m.mount_path, m.medium, m.size_limit) for m in executor.empty_dir_mounts]
        assert mounts == ([("/dev/shm", "Memory", "1Gi")] if name in WITH_MODEL else [])  # noqa: S108


def test_every_step_gets_credentials_and_addresses_and_runs_as_the_images_user(compiled: Any) -> None:
    _, _, executors = compiled
    assert set(executors) == STEPS
    for executor in executors.values():
        (secret,) = executor.secret_as_env
        assert secret.secret_name == "everbert-s3"  # noqa: S105
        assert {m.env_var for m in secret.key_to_env} == {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
        addresses = {m.env_var: c.optional for c in executor.config_map_as_env for m in c.key_to_env}
        assert addresses == {"AWS_DEFAULT_REGION": False, "MLFLOW_TRACKING_URI": False, "AWS_ENDPOINT_URL": True}
        assert {c.config_map_name for c in executor.config_map_as_env} == {"everbert"}
        assert executor.security_context.run_as_non_root
        assert executor.security_context.run_as_user == 10001


def test_every_step_is_tried_again_and_ended_in_time(compiled: Any) -> None:
    settings, specification, executors = compiled
    for name, task in tasks(specification).items():
        policy = task.retry_policy
        assert (policy.max_retry_count, policy.backoff_duration.seconds, policy.backoff_factor) == (2, 30, 2.0), name
        assert executors[name].active_deadline_seconds == settings.timeout_hours * 3600


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (ClusterSettings(memory="8 GB"), "cluster.memory must be an amount such as 8Gi, not '8 GB'"),
        (ClusterSettings(node_selector=("gpu",)), "cluster.node_selector must be LABEL=VALUE, not 'gpu'"),
    ],
)
def test_what_kubernetes_would_not_take_is_one_line(settings: ClusterSettings, said: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as refused:
        compile_pipeline(tmp_path / "pipeline.yaml", settings)
    assert str(refused.value) == said
    assert not list(tmp_path.iterdir())
