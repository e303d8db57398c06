"""What people read: tables, lists and progress, fitted to the terminal. Never imports torch itself."""

from ostiary.terminal.catalogue import describe, entries, options, readable
from ostiary.terminal.progress import progress
from ostiary.terminal.records import detail, keys
from ostiary.terminal.results import preview, results, where
from ostiary.terminal.screen import WIDE, console, say

__all__ = [
    "WIDE",
    "console",
    "describe",
    "detail",
    "entries",
    "keys",
    "options",
    "preview",
    "progress",
    "readable",
    "results",
    "say",
    "where",
]
