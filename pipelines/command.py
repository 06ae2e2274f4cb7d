"""The command `everbert`: from the arguments to the step, what the step returns, and the exit code."""

import errno
import json
import os
import sys
from typing import Any

from components import logs
from components.errors import EverbertError, InputError
from pipelines import steps
from pipelines.parser import build_parser

# What a path or a disk that was named may be the reason of; any other OSError is a mistake of the program.
_OF_THE_USER = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.ENOTDIR, errno.EEXIST)
DRIFTED = 3  # exit code of `everbert drift` when it finds drift


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
        if error.errno not in _OF_THE_USER:
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


def _exit_code(step: Any, result: dict[str, Any]) -> int:
    if step is steps.drift and result["drifted"]:
        return DRIFTED
    differs = (step is steps.replay and not result["same"]) or (
        step is steps.evaluate and not result["parity"]["holds"]
    )
    return EverbertError.exit_code if differs else 0


def _fail(message: str, code: int) -> int:
    print("everbert: " + " ".join(message.split()), file=sys.stderr)
    return code


def _readable(result: dict[str, Any]) -> str:
    from pipelines.readable import readable

    return readable(result)
