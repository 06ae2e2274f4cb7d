"""Which fields of an InferenceService a roll-out sets."""

from components.deployment.inference_service import alone, beside
from components.deployment.pointer import Pointer

OLD = Pointer("sentiment", "1", "aaaa", "s3://reviews/models/1")
NEW = Pointer("sentiment", "2", "bbbb", "s3://reviews/models/2")


def live(mode: str) -> dict[str, object]:
    limits = {"limits": {"memory": "4Gi"}}
    model = {"modelFormat": {"name": "everbert"}, "runtime": "everbert", "storageUri": OLD.uri, "resources": limits}
    predictor = {"serviceAccountName": "everbert-serving", "minReplicas": 2, "annotations": {"a": "1"}, "model": model}
    annotations = {"serving.kserve.io/deploymentMode": mode}
    return {"metadata": {"name": "sentiment", "annotations": annotations}, "spec": {"predictor": predictor}}


def test_a_version_beside_the_champion_has_all_that_its_pods_need() -> None:
    spec = beside(live("Standard"), OLD, NEW, 10)["spec"]
    (split,) = spec["canary"]
    assert (split["trafficPercent"], split["predictor"]["name"]) == (10, "v2")
    assert split["predictor"]["serviceAccountName"] == "everbert-serving"
    model = split["predictor"]["model"]
    assert (model["storageUri"], model["runtime"]) == (NEW.uri, "everbert")
    assert model["resources"] == {"limits": {"memory": "4Gi"}}
    assert "minReplicas" not in split["predictor"]  # KServe takes the version's share of the replicas
    assert "a" not in split["predictor"]["annotations"]
    assert spec["predictor"]["model"] == {"storageUri": OLD.uri}


def test_on_knative_the_split_is_a_percentage_of_the_predictor() -> None:
    predictor = beside(live("Knative"), OLD, NEW, 10)["spec"]["predictor"]
    assert (predictor["canaryTrafficPercent"], predictor["model"]["storageUri"]) == (10, NEW.uri)
    assert "canaryTrafficPercent" not in alone(live("Knative"), NEW)["spec"]["predictor"]
