"""The command line: run, list, options, show, report, export, merge, weights, data, scores.

Exit codes: 0 done, 1 some stage failed, 2 nothing could be done (bad input or usage), 130 interrupted.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
from collections.abc import Sequence

from cyclopts import CycloptsError

from ostiary.cli.answers import Warnings, refuse, usage
from ostiary.cli.commands import app
from ostiary.console import log
from ostiary.errors import OstiaryError

__all__ = ["app", "main"]


def main(tokens: Sequence[str] | None = None) -> int:
    """Run the command given by `tokens` (or the program's arguments) and return its exit code."""
    words = list(sys.argv[1:] if tokens is None else tokens)
    _open_streams()
    warnings = Warnings(logging.WARNING)
    log.addHandler(warnings)
    try:
        code = _answer(words)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # whoever read our output has seen enough
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    finally:
        log.removeHandler(warnings)


def _open_streams() -> None:
    """What was closed by whoever started us leads nowhere; stdout escapes what its encoding lacks."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):  # in this order each gets its own number again
        if getattr(sys, name) is None:
            stream = open(os.devnull, mode, encoding="utf-8")  # noqa: SIM115
            os.set_inheritable(stream.fileno(), True)  # else a worker's first file could get the number of stderr
            setattr(sys, name, stream)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _answer(words: list[str]) -> int:
    try:
        return int(app(words, exit_on_error=False, print_error=False, result_action="return_value") or 0)
    except BrokenPipeError:
        raise
    except KeyboardInterrupt as error:
        return refuse(words, str(error) or "interrupted", 130)
    except CycloptsError as error:
        return refuse(words, usage(error))
    except OstiaryError as error:
        return refuse(words, str(error))
    except OSError as error:
        return refuse(words, f"{error.filename} cannot be used: {error.strerror}" if error.filename else str(error))
    except Exception as error:  # noqa: BLE001 - whatever went wrong, the user gets a sentence and not a traceback
        hint = "" if "--debug" in words else "; --debug shows where"
        return refuse(words, f"unexpected {type(error).__name__}: {' '.join(str(error).split()) or 'no reason given'}{hint}")
