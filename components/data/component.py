"""The KFP adapter of prepare."""

from kfp import dsl
from kfp.dsl import Artifact, Dataset, Output

from components import images


@dsl.component(base_image=images.LIGHT, install_kfp_package=False)
def prepare(
    sources: list,
    sources_digest: str,
    replay: str,
    bucket: str,
    settings: dict,
    data: Output[Dataset],
    cost: Output[Artifact],
) -> str:
    """Clean, deduplicate and split labelled reviews; returns the s3:// address of the data set.

    `sources_digest` is an input so that KFP's cache knows changed content from the same.
    """
    from pathlib import Path

    from components import config
    from components.accounting.cost import measured
    from components.data import prepare as step
    from components.data.publish import publish

    with measured(cost.path):
        description = step.prepare(sources, Path(data.path), config.load(None, settings).data, replay=replay or None)
        address = publish(data.path, bucket)
    data.metadata.update(
        {"digest": description["digest"], "counts": description["counts"], "sources_digest": sources_digest}
    )
    return address
