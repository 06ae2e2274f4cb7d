"""A deployment to a cluster that is killed at each of its writes and done again; the pointer, the alias, a rollback."""

import copy
import json
import secrets
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kubernetes_server import KUBECONFIG, KubernetesServer, kubernetes_server, resolve_cluster_names
from line_process import line_process
from rollout_models import answering_model
from rollout_process import SETTINGS

from components import tracking
from components.config import PromotionSettings
from components.deployment import inference_service as fields
from components.deployment import pointer
from components.deployment.deploy import deploy
from components.deployment.pointer import Pointer
from components.deployment.rollback import rollback
from components.deployment.rollback_record import REASON
from components.errors import ConflictError, DeploymentError
from components.registry.register import register
from components.storage import ObjectStore
from pipelines.watch import watch

pytestmark = pytest.mark.slow
WHERE, NAME = "everbert/sentiment", "rolled-out"
Ask = Callable[..., dict[str, Any]]
Versions = list[tracking.ModelVersion]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubernetesServer]:
    with kubernetes_server() as server, pytest.MonkeyPatch.context() as patch:
        kubeconfig = tmp_path_factory.mktemp("kube") / "config"
        kubeconfig.write_text(KUBECONFIG.format(port=server.port))
        patch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
        patch.setenv("KUBECONFIG", str(kubeconfig))
        patch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(kubeconfig))
        patch.setattr(socket, "getaddrinfo", socket.getaddrinfo)
        resolve_cluster_names()
        yield server


@pytest.fixture(scope="module")
def versions(
    mlflow_server: str, cluster: KubernetesServer, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Versions:
    """Three registered versions, which the cluster can serve."""
    made = []
    for temperature in (1.5, 0.8, 2.5):
        folder = tmp_path_factory.mktemp("version") / "model"
        model = answering_model(tiny_model, folder, temperature)
        made.append(register(folder, NAME, data_set="d", evaluation={}, decision={}))
        cluster.models[made[-1].uri] = model
    return made


@pytest.fixture(scope="module")
def ask(cluster: KubernetesServer, versions: Versions, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ask]:
    """Deploys the version, or for None rolls back, in a process of its own, killed at a write if asked to."""
    with line_process("rollout_process.py", temporary=tmp_path_factory.mktemp("killed")) as process:

        def ask(store: ObjectStore, version: tracking.ModelVersion | None, kill: int = 0) -> dict[str, Any]:
            number = version.version if version else None
            return process.ask({"bucket": store.bucket, "name": NAME, "version": number, "kill": kill})

        yield ask


def first_is_served(cluster: KubernetesServer, versions: Versions, mode: str) -> ObjectStore:
    """A bucket and a cluster in which version 1 is champion."""
    store = ObjectStore(f"test-{secrets.token_hex(6)}")
    store.create_bucket()
    one = versions[0]
    cluster.objects.clear()
    cluster.controller.states.clear()
    template = {"metadata": {"annotations": {"serving.kserve.io/deploymentMode": mode}},
                "spec": {"predictor": {"model": {"modelFormat": {"name": "everbert"}}}}}  # fmt: skip
    cluster.put("sentiment", "kustomize", copy.deepcopy(template))
    tracking.set_alias(NAME, tracking.CHAMPION, one.version)
    deploy(store, one, inference_service=WHERE, settings=SETTINGS)
    return store


def served(cluster: KubernetesServer) -> str | None:
    """The storageUri that has all of the traffic, None while two share it."""
    spec = cluster.objects["sentiment"]["spec"]
    shared = spec.get("canary") or "canaryTrafficPercent" in spec["predictor"]
    return None if shared else spec["predictor"]["model"]["storageUri"]


def champions(store: ObjectStore) -> tuple[str, str]:
    """(the pointer's version, the alias's)."""
    found, alias = pointer.read(store, NAME), tracking.champion(NAME)
    assert found is not None
    assert alias is not None
    return found[0].version, alias.version


@pytest.mark.timeout(900)
@pytest.mark.parametrize("mode", [fields.STANDARD, fields.KNATIVE])
def test_killed_at_any_write_and_done_again_it_ends_as_unbroken(
    cluster: KubernetesServer, versions: Versions, ask: Ask, mode: str
) -> None:
    _, two, _ = versions
    writes = ask(first_is_served(cluster, versions, mode), two)["writes"]
    assert writes >= 9  # 3 changes of the service, 4 of the record, the pointer, the alias
    for kill in range(1, writes + 1):
        store = first_is_served(cluster, versions, mode)
        assert ask(store, two, kill)["killed"]
        named, alias = champions(store)
        assert (named, alias) in {("1", "1"), ("2", "1")}  # one champion; the alias is the last write
        if named == "2":
            assert served(cluster) == two.uri
        assert not ask(store, two)["killed"]
        assert champions(store) == ("2", "2")
        assert served(cluster) == two.uri
        found = pointer.read(store, NAME)
        assert found is not None
        assert (found[0].previous or {})["version"] == "1"
        generation = cluster.objects["sentiment"]["metadata"]["generation"]
        deploy(store, two, inference_service=WHERE, settings=SETTINGS)
        assert cluster.objects["sentiment"]["metadata"]["generation"] == generation


@pytest.mark.parametrize("mode", [fields.STANDARD, fields.KNATIVE])
def test_what_was_killed_is_undone_by_promoting_the_champion_or_another(
    cluster: KubernetesServer, versions: Versions, ask: Ask, mode: str
) -> None:
    one, two, three = versions
    for kill in (4, 6):  # half of the traffic moved; all of it
        for instead in (one, three):
            store = first_is_served(cluster, versions, mode)
            assert ask(store, two, kill)["killed"]
            deploy(store, instead, inference_service=WHERE, settings=SETTINGS)
            assert served(cluster) == instead.uri
            assert champions(store) == (instead.version, instead.version)


@pytest.mark.parametrize("mode", [fields.STANDARD, fields.KNATIVE])
def test_a_rollback_reaches_the_cluster(cluster: KubernetesServer, versions: Versions, mode: str) -> None:
    one, two, _ = versions
    store = first_is_served(cluster, versions, mode)
    deploy(store, two, inference_service=WHERE, settings=SETTINGS)
    made = rollback(store, NAME, reason="worse", inference_service=WHERE, settings=SETTINGS)
    assert champions(store) == ("1", "1")
    assert served(cluster) == one.uri
    print(f"{mode}: rolled back in {made.seconds:.1f} s")


def second_is_served(cluster: KubernetesServer, versions: Versions) -> ObjectStore:
    """A bucket and a cluster in which version 2 is champion and version 1 was; version 2 has no tag of a rollback."""
    store = first_is_served(cluster, versions, fields.STANDARD)
    deploy(store, versions[1], inference_service=WHERE, settings=SETTINGS)
    tracking.set_tag(NAME, versions[1].version, REASON, "")
    return store


def rollbacks(store: ObjectStore) -> list[dict[str, Any]]:
    found = [store.get(item.key) for item in store.list("decisions/rollback-")]
    return [json.loads(content[0]) for content in found if content]


@pytest.mark.timeout(900)
def test_a_rollback_that_is_killed_at_any_write_is_finished_by_the_next_check_or_rollback(
    cluster: KubernetesServer, versions: Versions, ask: Ask
) -> None:
    one, two, _ = versions
    writes = ask(second_is_served(cluster, versions), None)["writes"]
    assert writes >= 8  # the pointer, the record twice, the alias, the tag, the service and 2 of its record
    for kill in range(2, writes + 1):  # 1 is the pointer: nothing is done without it
        store = second_is_served(cluster, versions)
        assert ask(store, None, kill)["killed"]
        assert champions(store)[0] == "1"
        if kill % 2:
            assert watch(store, NAME, PromotionSettings(), inference_service=WHERE, settings=SETTINGS) is None
        else:
            assert rollback(store, NAME, reason="again", settings=SETTINGS).reason == "worse"
        assert champions(store) == ("1", "1"), f"killed at write {kill}"
        assert served(cluster) == one.uri, f"killed at write {kill}"
        assert tracking.version(NAME, two.version).tags[REASON] == "worse"
        (record,) = rollbacks(store)
        assert (record["served"], record["reason"], record["from"]["version"]) == (True, "worse", "2")
        rollouts = len(list(store.list("decisions/")))
        watch(store, NAME, PromotionSettings(), inference_service=WHERE, settings=SETTINGS)
        assert len(list(store.list("decisions/"))) == rollouts  # nothing is left to do
        with pytest.raises(DeploymentError, match="to roll back to"):
            rollback(store, NAME, reason="twice", inference_service=WHERE, settings=SETTINGS)


def test_a_rollback_that_the_cluster_refuses_says_what_makes_it_follow(
    cluster: KubernetesServer, versions: Versions
) -> None:
    one, two, _ = versions
    store = first_is_served(cluster, versions, fields.STANDARD)
    deploy(store, two, inference_service=WHERE, settings=SETTINGS)
    cluster.forbidden = {"patch"}
    with pytest.raises(DeploymentError, match=r"give its Role the verb patch.*everbert promote --version 1 "):
        rollback(store, NAME, reason="worse", inference_service=WHERE, settings=SETTINGS)
    cluster.forbidden = set()
    assert champions(store) == ("1", "1")
    assert [record["served"] for record in rollbacks(store)] == [False]
    deploy(store, one, inference_service=WHERE, settings=SETTINGS)
    assert served(cluster) == one.uri


def test_a_pointer_that_moved_meanwhile_is_followed(cluster: KubernetesServer, versions: Versions) -> None:
    """Somebody else deployed version 3 by the pointer alone while version 2 was being rolled out."""
    _, two, three = versions
    store = first_is_served(cluster, versions, fields.STANDARD)
    other = Pointer(NAME, three.version, three.digest, three.uri)

    def overtake(applied: dict[str, Any]) -> None:
        cluster.before_apply = lambda applied: None
        pointer.write(store, other, pointer.state(store, NAME)[1])

    cluster.before_apply = overtake
    with pytest.raises(ConflictError):
        deploy(store, two, inference_service=WHERE, settings=SETTINGS)
    assert pointer.state(store, NAME)[0] == other
    assert served(cluster) == three.uri
