"""Every error a user can cause: one clear sentence, and still a child of the matching built-in."""

from __future__ import annotations

from collections.abc import Callable


class OstiaryError(Exception):
    """Base of all errors raised on purpose; the command line prints it as one sentence."""

    def __str__(self) -> str:  # KeyError would show the sentence in quotes
        return str(self.args[0]) if self.args else self.__class__.__name__


class UnknownName(OstiaryError, KeyError):
    """A method, data set or option that nobody registered."""


class BadSpec(OstiaryError, ValueError):
    """A setting of the wrong type or out of range."""


class InvalidInput(OstiaryError, ValueError):
    """Data that no method can work on: NaN features, labels without samples, ..."""


class Diverged(InvalidInput):
    """Training whose loss is no number any more."""


class BrokenContract(OstiaryError, RuntimeError):
    """A method that does not keep what methods of its room promise: a fault in its code, not in what it was given."""


class MissingEvidence(OstiaryError, ValueError):
    """A defence was not given what it declares to need."""


class Unsupported(OstiaryError, TypeError):
    """A method that cannot be applied to this modality or module."""


def refusal(make: Callable[..., object], *arguments: object) -> str:
    """Why `make` is not supported for these arguments, or nothing."""
    try:
        make(*arguments)
    except Unsupported as error:
        return str(error)
    return ""


class UnsafeFile(OstiaryError, ValueError):
    """A file that could run code when read; it was not read."""


class StoreError(OstiaryError, OSError):
    """The results folder cannot be read or written."""


class MissingPackage(OstiaryError, ImportError):
    """An optional package that this feature needs, and that is not installed or cannot be loaded.

    reason: what importing it ended in. module: the name it is imported by, where that is another.
    """

    def __init__(self, package: str, extra: str, reason: ImportError, module: str = "") -> None:
        if isinstance(reason, ModuleNotFoundError) and reason.name == (module or package):
            super().__init__(f"this needs the package {package}: pip install 'ostiary[{extra}]'")
        else:
            why = " ".join(str(reason).split())
            super().__init__(f"the package {package} is installed but cannot be loaded ({why}); mend that, or reinstall it")
