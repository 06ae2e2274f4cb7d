"""The KFP adapter of register."""

from kfp import dsl
from kfp.dsl import Artifact, Input, Model

from components import images


@dsl.component(base_image=images.LIGHT, install_kfp_package=False)
def register(
    model: Input[Model], evaluation: Input[Artifact], decision: Input[Artifact], data_set: str, model_name: str
) -> str:
    """Track the run and register the model as a version, alias challenger; returns the version's number."""
    import json
    from pathlib import Path

    from components.registry import register as step

    seen, made = (json.loads(Path(a.path).read_text(encoding="utf-8")) for a in (evaluation, decision))
    version = step.register(model.path, model_name, data_set=data_set, evaluation=seen, decision=made)
    return str(version.version)
