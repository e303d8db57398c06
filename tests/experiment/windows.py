"""What Windows lacks and what it has instead, made up on another system."""

from __future__ import annotations

import errno
import fcntl
import importlib.util
import multiprocessing
import os
import subprocess  # noqa: F401 - looks for msvcrt when it is first imported
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import ostiary.experiment


class Msvcrt(ModuleType):
    LK_UNLCK, LK_LOCK, LK_NBLCK = 0, 1, 2

    def locking(self, handle: int, mode: int, size: int) -> None:
        assert size == 1 and mode in (self.LK_UNLCK, self.LK_NBLCK)
        try:
            fcntl.flock(handle, fcntl.LOCK_UN if mode == self.LK_UNLCK else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OSError(errno.EACCES, "Permission denied") from None


def pretend(patch: pytest.MonkeyPatch) -> None:
    """No fcntl, no O_NOFOLLOW, no fork server."""
    real = multiprocessing.get_context

    def context(method: str | None = None) -> Any:
        if method in ("fork", "forkserver"):
            raise ValueError(f"cannot find context for {method!r}")
        return real(method)

    patch.setitem(sys.modules, "fcntl", None)  # type: ignore[arg-type] - imports of it fail
    patch.setitem(sys.modules, "msvcrt", Msvcrt("msvcrt"))
    patch.delattr(os, "O_NOFOLLOW")
    patch.setattr(multiprocessing, "get_all_start_methods", lambda: ["spawn"])
    patch.setattr(multiprocessing, "get_context", context)


def locks(patch: pytest.MonkeyPatch) -> Any:
    """The module as it is where there is no fcntl."""
    with patch.context() as within:
        pretend(within)
        (folder,) = ostiary.experiment.__path__
        spec = importlib.util.spec_from_file_location("locks_of_windows", Path(folder) / "locks.py")
        assert spec is not None and spec.loader is not None
        found = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(found)
    return found
