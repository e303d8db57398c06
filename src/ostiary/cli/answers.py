"""How commands answer: a sentence or one JSON document on stdout, what went wrong in one line on stderr."""

from __future__ import annotations

import codecs
import contextlib
import json
import logging
import os
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

from cyclopts import CycloptsError, Parameter, UnusedCliTokensError

from ostiary.console import harmless

Flag = Annotated[bool, Parameter(show_default=False)]


@Parameter(name="*")
@dataclass(frozen=True)
class Common:
    """How a command answers.

    Args:
        json: Print one JSON document and nothing else.
        debug: Also print the traceback of an error, on stderr.
    """

    json: Flag = False
    debug: Flag = False


PLAIN = Common()


def answered(document: dict[str, Any], sentence: str, common: Common) -> None:
    if common.json:
        print_json(document)
        return
    from ostiary import terminal

    terminal.say(terminal.console(), sentence)


def refuse(words: list[str], sentence: str, code: int = 2) -> int:
    """The sentence on stderr, and as the JSON document where one was asked for."""
    if "--debug" in words:
        sys.stderr.write(traceback.format_exc())
    sys.stderr.write(f"ostiary: {harmless(sentence)}\n")
    if "--json" in words:
        print_json({"error": sentence})
    return code


def usage(error: CycloptsError) -> str:
    """What was wrong with the words of the command line, as one line."""
    if isinstance(error, UnusedCliTokensError) and error.unused_tokens:
        return f"unexpected argument '{error.unused_tokens[0]}'; ostiary --help shows how commands are written"
    error.verbose = False
    sentence = " ".join(str(error).split())
    if not sentence.endswith("..."):  # a list that was cut short
        sentence = sentence.removesuffix(".")
    return sentence[:1].lower() + sentence[1:]


def print_json(value: Any) -> None:
    """One strict JSON document (no NaN) on stdout; in ASCII where that is not UTF-8: what stdout escapes itself is no JSON."""
    import msgspec

    from ostiary.experiment.record import finite

    utf8 = codecs.lookup(sys.stdout.encoding or "utf-8").name == "utf-8"
    sys.stdout.write(json.dumps(finite(msgspec.to_builtins(value)), indent=2, ensure_ascii=not utf8) + "\n")


@contextlib.contextmanager
def stdout_as_stderr() -> Iterator[None]:
    """Inside, whatever a library, a user's model or a worker process prints lands on stderr."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


class Warnings(logging.Handler):
    """What the library remarks, a line each on stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        sys.stderr.write(f"ostiary: {harmless(record.getMessage())}\n")
