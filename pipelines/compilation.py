"""everbert compile: the pipeline as KFP's intermediate representation, in YAML, as a cluster runs it."""

import threading
from pathlib import Path

from components.config import ClusterSettings
from components.files import new_file

GOLDEN = Path(__file__).with_name("continuous_training.yaml")
_COMPILING = threading.Lock()  # KFP traces one pipeline at a time


def compile_pipeline(output: str | Path = GOLDEN, settings: ClusterSettings = ClusterSettings()) -> Path:  # noqa: B008
    """Write the compiled pipeline to `output`, atomically; a fixed program and fixed settings give fixed bytes.

    Raises SettingsError for settings that Kubernetes would not take.
    """
    from kfp import compiler

    from pipelines.cluster_options import for_cluster
    from pipelines.continuous_training import continuous_training

    with _COMPILING, new_file(output) as temporary:
        placed = for_cluster(continuous_training, settings)
        yaml = temporary.with_suffix(".yaml")  # KFP goes by the suffix
        try:
            compiler.Compiler().compile(placed, str(yaml))
            yaml.replace(temporary)
        finally:
            yaml.unlink(missing_ok=True)
    return Path(output)


def steps() -> set[str]:
    """The names of the pipeline's steps."""
    from pipelines.continuous_training import continuous_training

    return {name.removeprefix("exec-") for name in continuous_training.pipeline_spec.deployment_spec["executors"]}
