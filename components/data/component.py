"""The KFP adapter of prepare."""

from kfp import dsl
from kfp.dsl import Dataset, Output

from components import images


@dsl.component(base_image=images.LIGHT, install_kfp_package=False)
def prepare(sources: list, replay: str, bucket: str, settings: dict, data: Output[Dataset]) -> str:
    """Clean, deduplicate and split labelled reviews; returns the s3:// address of the data set."""
    from pathlib import Path

    from components import config
    from components.data import prepare as step
    from components.data.publish import publish

    description = step.prepare(sources, Path(data.path), config.load(None, settings).data, replay=replay or None)
    data.metadata.update({"digest": description["digest"], "counts": description["counts"]})
    return publish(data.path, bucket)
