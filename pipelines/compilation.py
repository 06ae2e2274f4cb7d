"""everbert compile: the pipeline as KFP's intermediate representation, in YAML."""

from pathlib import Path

from components.files import new_file

GOLDEN = Path(__file__).with_name("continuous_training.yaml")


def compile_pipeline(output: str | Path = GOLDEN) -> Path:
    """Write the compiled pipeline to `output`, atomically; a fixed program gives fixed bytes."""
    from kfp import compiler

    from pipelines.continuous_training import continuous_training

    with new_file(output) as temporary:
        yaml = temporary.with_suffix(".yaml")  # KFP goes by the suffix
        try:
            compiler.Compiler().compile(continuous_training, str(yaml))
            yaml.replace(temporary)
        finally:
            yaml.unlink(missing_ok=True)
    return Path(output)
