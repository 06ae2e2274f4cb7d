"""What the manifests say of Everbert is so: its commands, settings, addresses, and what its code asks of Kubernetes."""

import argparse
import re
from pathlib import Path

import kfp_server_api
import pytest
from builds import MANIFESTS, Builder, Document, named
from pods import pods

from components import config
from components.deployment import inference_service
from components.errors import SettingsError
from components.setting import read_yaml
from pipelines.cluster_options import CONFIG_MAP, SECRET
from pipelines.flags import from_flags
from pipelines.parser import build_parser

ROOT = Path(__file__).parents[2]
SETTINGS = "/etc/everbert/everbert.yaml"


def commands(documents: list[Document]) -> dict[str, list[str]]:
    """What each container of the build runs `everbert` with, its variables and KServe's templates filled in."""
    data = {k: v for d in documents if d["kind"] == "ConfigMap" for k, v in d["data"].items()}
    found = {}
    for pod in pods(documents):
        for container in pod.containers:
            words = [*container.get("command", []), *container.get("args", [])]
            if "everbert" in words:
                words = words[words.index("everbert") + 1 :]
                given = data | {e["name"]: e.get("value", "given") for e in container.get("env", [])}
                found[f"{pod.name} {container['name']}"] = [filled(word, given) for word in words]
    return found


def filled(word: str, given: dict[str, str]) -> str:
    return re.sub(r"\$\((\w+)\)", lambda found: given[found[1]], word).replace("{{.Name}}", "sentiment")


def parsed(words: list[str], documents: list[Document], folder: Path) -> argparse.Namespace:
    """As the real parser reads them, with the build's own settings file where the container has it mounted."""
    settings = folder / "everbert.yaml"
    settings.write_text(named(documents, "ConfigMap", "everbert")["data"]["everbert.yaml"], encoding="utf-8")
    arguments = build_parser().parse_args([word.replace(SETTINGS, str(settings)) for word in words])
    from_flags(arguments)
    return arguments


def test_every_command_parses_and_so_do_its_settings(builds: dict[str, list[Document]], tmp_path: Path) -> None:
    called = set()
    for documents in builds.values():
        for words in commands(documents).values():
            assert f"--config={SETTINGS}" in words
            parsed(words, documents, tmp_path)
            called.add(words[0])
    assert called == {"check", "batch", "serve", "train"}


@pytest.mark.parametrize("wrong", [["--submit=argo"], ["--bukket=s3://b"], ["--chunk-rows=none"]])
def test_a_planted_flag_is_refused(builder: Builder, tmp_path: Path, wrong: list[str]) -> None:
    documents = builder.build("prod")
    words = commands(documents)["CronJob everbert-check check"]
    parsed(words, documents, tmp_path)
    with pytest.raises((SystemExit, SettingsError)):
        parsed([*words, *wrong], documents, tmp_path)


def test_the_settings_file_says_only_what_differs_from_the_defaults() -> None:
    path = MANIFESTS / "base/everbert.yaml"
    said = config.as_overrides(config.load(path))
    assert said == read_yaml(path)


def test_a_server_has_as_many_threads_as_its_container_has_cores(builds: dict[str, list[Document]]) -> None:
    threads = config.load(MANIFESTS / "base/everbert.yaml").serving.threads
    for documents in builds.values():
        container = named(documents, "ServingRuntime", "everbert")["spec"]["containers"][0]
        assert container["resources"]["limits"]["cpu"] == str(threads)


def test_the_names_that_the_code_uses_are_the_manifests(builds: dict[str, list[Document]]) -> None:
    account = config.ClusterSettings().service_account
    for documents in builds.values():
        known = {(d["kind"], d["metadata"]["name"]) for d in documents}
        assert {("ServiceAccount", account), ("ConfigMap", CONFIG_MAP)} <= known
        assert ("ServiceAccount", inference_service.SERVICE_ACCOUNT) in known
        service = named(documents, "InferenceService", "sentiment")["spec"]["predictor"]
        assert service["serviceAccountName"] == inference_service.SERVICE_ACCOUNT
        assert service["model"]["modelFormat"]["name"] == inference_service.MODEL_FORMAT
        runtime = named(documents, "ServingRuntime", "everbert")["spec"]
        assert runtime["supportedModelFormats"][0]["name"] == inference_service.MODEL_FORMAT
        assert named(documents, "ServiceAccount", "everbert-serving")["secrets"] == [{"name": SECRET}]


def test_the_token_for_pipelines_is_where_kfp_looks_for_it(builder: Builder) -> None:
    job = named(builder.build("prod"), "CronJob", "everbert-check")["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    (container,) = job["containers"]
    (mount,) = [m for m in container["volumeMounts"] if m["name"] == "pipelines-token"]
    (volume,) = [v for v in job["volumes"] if v["name"] == "pipelines-token"]
    (source,) = volume["projected"]["sources"]
    (named_path,) = [e["value"] for e in container["env"] if e["name"] == "KF_PIPELINES_SA_TOKEN_PATH"]
    assert f"{mount['mountPath']}/{source['serviceAccountToken']['path']}" == named_path
    assert source["serviceAccountToken"]["audience"] == "pipelines.kubeflow.org"


# What each verb of a Role is for: where the code asks for it.
KUBERNETES, KFP = "components/deployment/kubernetes_api.py", "pipelines/kfp_api.py"
INFERENCE_SERVICES, PIPELINES = "serving.kserve.io inferenceservices", "pipelines.kubeflow.org"
USES = {
    f"{INFERENCE_SERVICES} get": (KUBERNETES, r"\.get_namespaced_custom_object\b"),
    f"{INFERENCE_SERVICES} watch": (KUBERNETES, r"watch\.Watch\(\)\.stream"),
    f"{INFERENCE_SERVICES} patch": (KUBERNETES, r'"PATCH"'),
    # An apply of what is not there creates it, for which the API server asks for `create` too.
    f"{INFERENCE_SERVICES} create": (KUBERNETES, r"application/apply-patch\+yaml"),
    f"{PIPELINES} pipelines list": (KFP, "pipeline_service_list_pipelines"),
    f"{PIPELINES} pipelines create": (KFP, "pipeline_service_create_pipeline"),
    f"{PIPELINES} pipelines/versions list": (KFP, "pipeline_service_list_pipeline_versions"),
    f"{PIPELINES} pipelines/versions create": (KFP, "upload_pipeline_version"),
    f"{PIPELINES} experiments list": (KFP, "experiment_service_list_experiments"),
    f"{PIPELINES} experiments create": (KFP, "experiment_service_create_experiment"),
    f"{PIPELINES} runs list": (KFP, "run_service_list_runs"),
    f"{PIPELINES} runs create": (KFP, "run_service_create_run"),
    f"{PIPELINES} runs get": (KFP, "run_service_get_run"),
    f"{PIPELINES} runs delete": (KFP, "run_service_delete_run"),
}
# What KFP's launcher and Argo's executor do in every step (kubeflow/pipelines, the role of its executor plug-in).
OF_KFP = {
    "argoproj.io workflowtaskresults create",
    "argoproj.io workflowtaskresults patch",
    " configmaps get",
    " secrets get",
}


def verbs(documents: list[Document]) -> set[str]:
    return {
        f"{group} {resource} {verb}"
        for document in documents if document["kind"] == "Role"
        for rule in document["rules"]
        for group in rule["apiGroups"] for resource in rule["resources"] for verb in rule["verbs"]
    }  # fmt: skip


def test_every_verb_of_a_role_is_one_that_the_code_uses(builds: dict[str, list[Document]]) -> None:
    for documents in builds.values():
        assert verbs(documents) == set(USES) | OF_KFP
    for file, where in USES.values():
        assert re.search(where, (ROOT / file).read_text(encoding="utf-8")), (file, where)


def test_what_the_check_calls_of_kfp_it_may(builder: Builder) -> None:
    """The converse: each call of the client is one of a verb's."""
    source = (ROOT / "pipelines/kfp_api.py").read_text(encoding="utf-8")
    services = (kfp_server_api.RunServiceApi, kfp_server_api.ExperimentServiceApi, kfp_server_api.PipelineServiceApi)
    calls = {
        name
        for service in services
        for name in dir(service)
        if "service_" in name and re.search(rf"\b{name}\b", source)
    }
    assert len(calls) >= 6
    assert calls <= {where for _, where in USES.values()}
