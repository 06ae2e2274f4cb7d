"""The KFP adapter of train."""

from kfp import dsl
from kfp.dsl import Artifact, Dataset, Input, Metrics, Model, Output

from components import images


@dsl.component(base_image=images.TORCH, install_kfp_package=False)
def train(
    data: Input[Dataset],
    base_model: str,
    warm_start: str,
    settings: dict,
    model: Output[Model],
    metrics: Output[Metrics],
    cost: Output[Artifact],
) -> str:
    """Fine-tune and calibrate; returns the version of the new model."""
    from contextlib import ExitStack

    from components import config
    from components.accounting.cost import measured
    from components.storage import local_folder

    with ExitStack() as stack:
        stack.enter_context(measured(cost.path))
        from components.training import train as step  # loading torch takes time too

        start = stack.enter_context(local_folder(warm_start)) if warm_start else None
        description = step.train(
            data.path, model.path, config.load(None, settings), base_model=base_model, warm_start=start
        )
    assert description is not None, "a step is one process"
    for name, value in description.metrics.items():
        metrics.log_metric(name, value)
    model.metadata.update({"framework": "transformers", "model_version": description.model_version})
    return description.model_version
