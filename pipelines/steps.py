"""What each command of `everbert` does: read its arguments, call the step, return what the step found.

Each imports what it needs itself: `--help`, and a command whose image has no torch, must not load it.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.errors import InputError
from pipelines.flags import from_flags

if TYPE_CHECKING:
    from components.storage import ObjectStore

Result = dict[str, Any]
_PASSED_ON = ("base_model", "warm_start", "replay", "server_url", "inference_service")


def prepare(arguments: argparse.Namespace) -> Result:
    from components.data.prepare import prepare

    settings = from_flags(arguments).data
    return prepare(arguments.source, Path(arguments.output), settings, replay=arguments.replay)


def train(arguments: argparse.Namespace) -> Result | None:
    from components.storage import local_folder
    from components.training.train import train

    with local_folder(arguments.data) as data:
        made = train(
            data, arguments.output, from_flags(arguments), base_model=arguments.base_model,
            warm_start=arguments.warm_start, checkpoints=arguments.checkpoints, resume=arguments.resume,
        )  # fmt: skip
    if made is None:  # another process, of those that torchrun started, has written it
        return None
    return {"model": arguments.output, "model_version": made.model_version, **made.metrics, "history": made.history}


def evaluate(arguments: argparse.Namespace) -> Result:
    from components.evaluation.decide import decide
    from components.evaluation.evaluate import evaluate

    settings = from_flags(arguments).promotion
    result = evaluate(arguments.model, arguments.data, arguments.champion, parity_on_all=arguments.parity)
    made = decide(result, settings, [])
    return {**result, "verdict": made.verdict, "reason": made.reason}


def drift(arguments: argparse.Namespace) -> Result:
    from pipelines.comparison import compare

    return compare(arguments.model, arguments.current, from_flags(arguments), arguments.report)


def check(arguments: argparse.Namespace) -> Result:
    from pipelines.drift_check import check
    from pipelines.retrain import runs_of
    from pipelines.watch import watch

    settings, store, served = from_flags(arguments), _store(arguments), _served(arguments)
    runs = runs_of(arguments.submit, Path(arguments.work_dir), settings.cluster)
    watched = watch(store, arguments.model_name, settings.promotion, settings=settings.deployment, **served)
    result = check(store, arguments.model_name, settings, runs, **served).as_result()
    return result | {"watch": watched.as_result() if watched else None}


def promote(arguments: argparse.Namespace) -> Result:
    from components import tracking
    from components.deployment.deploy import deploy

    store, version = _store(arguments), tracking.version(arguments.model_name, arguments.version)
    return asdict(deploy(store, version, settings=from_flags(arguments).deployment, **_served(arguments)))


def rollback(arguments: argparse.Namespace) -> Result:
    from components.deployment.rollback import rollback

    store, settings = _store(arguments), from_flags(arguments).deployment
    served = _served(arguments)
    return asdict(rollback(store, arguments.model_name, reason=arguments.reason, settings=settings, **served))


def status(arguments: argparse.Namespace) -> Result:
    from pipelines.status import status

    return status(_store(arguments), arguments.model_name, from_flags(arguments).retrain)


def replay(arguments: argparse.Namespace) -> Result:
    from components.storage import bucket_of
    from pipelines.replay import replay

    return replay(arguments.decision, bucket_of(arguments.bucket) if arguments.bucket else "")


def report(arguments: argparse.Namespace) -> None:
    from pipelines.ledger_report import as_text, report

    _say(report(_store(arguments), arguments.model_name, arguments.output), arguments, as_text)


def predict(arguments: argparse.Namespace) -> Result:
    if bool(arguments.text is not None) == bool(arguments.input) or bool(arguments.input) != bool(arguments.output):
        raise InputError("predict takes --text T, or --input FILE with --output FILE")
    from components.batch.score import score_file
    from components.classifier.classifier import Classifier

    settings, classifier = from_flags(arguments).batch, Classifier.load(arguments.model)
    if arguments.text is not None:
        return classifier.predict([arguments.text])[0]._asdict()
    return asdict(score_file(Path(arguments.input), Path(arguments.output), classifier, settings))


def batch(arguments: argparse.Namespace) -> Result:
    from components.batch.prefix import score_prefix, watch
    from components.batch.score import Share
    from components.batch.versions import INCOMING
    from serving.follower import Current

    store, share = _store(arguments), Share.parse(arguments.share)
    next(store.list(INCOMING), None)  # a store that is not there is told of before a model is loaded
    settings = from_flags(arguments).batch
    model = Current(arguments.model, settings.poll_seconds)
    if not arguments.once:
        return asdict(watch(store, model, settings, share))
    return {"objects": [asdict(result) for result in score_prefix(store, model, settings, share)]}


def serve(arguments: argparse.Namespace) -> Result:
    from serving.server import serve

    settings = from_flags(arguments).serving
    ports = arguments.http_port, arguments.grpc_port
    serve(arguments.model, arguments.name, *ports, settings, page=arguments.page)
    return {"served": arguments.model}


def run(arguments: argparse.Namespace) -> None:
    from pipelines import closed_loop
    from pipelines.loop_report import as_text

    settings = from_flags(arguments)
    work = Path(arguments.work_dir)
    with closed_loop.closed_loop(work, settings, arguments.base_model, arguments.domain) as loop:
        _say(closed_loop.summarize(loop), arguments, as_text)
        if arguments.keep:
            closed_loop.stay(loop)


def backtest(arguments: argparse.Namespace) -> None:
    from components.backtest.policies import named
    from pipelines.backtest import run
    from pipelines.backtest_report import as_text

    result = run(
        arguments.stream, named(arguments.policies.split(",")), from_flags(arguments), Path(arguments.output),
        Path(arguments.work_dir), base_model=arguments.base_model, window=arguments.window,
        held_out=arguments.held_out, every=arguments.every, hours=arguments.hours,
    )  # fmt: skip
    _say(result, arguments, as_text)


def compile(arguments: argparse.Namespace) -> Result:
    from pipelines.compilation import GOLDEN, compile_pipeline

    return {"pipeline": str(compile_pipeline(arguments.output or GOLDEN, from_flags(arguments).cluster))}


def submit(arguments: argparse.Namespace) -> Result:
    from pipelines.submission import submit, submit_local, wait

    settings, store = from_flags(arguments), _store(arguments)
    further = {name: getattr(arguments, name) for name in _PASSED_ON} | {"new_sources": arguments.new_source}
    asked = store, arguments.source, arguments.model_name, settings
    if arguments.runner == "local":
        return submit_local(*asked, Path(arguments.work_dir), **further)
    from pipelines.cluster_runner import ClusterRuns

    runs = ClusterRuns(settings=settings.cluster)
    submitted = submit(runs, *asked, **further)
    return submitted if arguments.no_wait else submitted | wait(runs, store, submitted["run"])


def services(arguments: argparse.Namespace) -> None:
    from pipelines.services import stay_up

    stay_up(Path(arguments.work_dir))


def _store(arguments: argparse.Namespace) -> "ObjectStore":
    from components.storage import ObjectStore, bucket_of

    return ObjectStore(bucket_of(arguments.bucket))


def _served(arguments: argparse.Namespace) -> dict[str, Any]:
    """What a deployment or a rollback must reach, as both take it."""
    return {"server_url": arguments.server_url, "inference_service": arguments.inference_service}


def _say(result: Result, arguments: argparse.Namespace, as_text: Callable[[Result], str]) -> None:
    """As JSON, or in the words of the step's own."""
    print(json.dumps(result, ensure_ascii=False) if arguments.json else as_text(result), flush=True)
