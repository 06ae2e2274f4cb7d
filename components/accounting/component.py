"""The KFP adapter of record, the step that runs last whether the others succeeded or not."""

from kfp import dsl

from components import images


@dsl.component(base_image=images.LIGHT, install_kfp_package=False)
def record(
    status: dsl.PipelineTaskFinalStatus, bucket: str, model_name: str, cause: str, retrain_id: str, run_id: str
) -> None:
    """Leave a line in the ledger of a run that failed, or that ended before it came to a decision."""
    from components.accounting import outcomes

    outcomes.write_ended(
        bucket, retrain_id or run_id, model_name, cause, status.state or "", status.error_message or ""
    )
