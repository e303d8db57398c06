"""A user's own Python file: imported beside its helpers, marked by what it says, asked for what it makes."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from ostiary.data.source import file_mark, in_order
from ostiary.data.torchvision_import import import_torchvision
from ostiary.errors import InvalidInput
from ostiary.writing import expanded


def executed(settings: Any) -> Iterator[str]:
    """What settings execute of files that are not ours: Python files and pickles, wherever they are named."""
    held = settings if isinstance(settings, dict) else dict(enumerate(settings)) if isinstance(settings, list | tuple) else {}
    if held.get("name") == "file" and "path" in held:
        yield f"Python of {held['path']}"
    if held.get("unpickle") is True:
        yield f"pickles of {held.get('name')}"
    for inner in held.values():
        yield from executed(inner)


def mark(path: str, *others: str) -> str:
    """A digest of the file, of the files beside it that it imports, and of `others` that are there."""
    given = [expanded(p) for p in (path, *others) if p and expanded(p).exists()]
    return file_mark(*given, *_helpers(expanded(path)))


def imported(path: str) -> ModuleType:
    """The file as a module, read anew. Raises InvalidInput in one sentence."""
    place = expanded(path)
    if not place.is_file():
        raise InvalidInput(f"there is no file {place}; correct the path")
    loader = importlib.util.spec_from_file_location(f"ostiary_user_{place.stem}", place)
    if loader is None or loader.loader is None:
        raise InvalidInput(f"{place} is no Python file; give one that ends in .py")
    code = importlib.util.module_from_spec(loader)
    try:
        if re.search(r"^\s*(import|from)\b.*\b(torchvision|timm)\b", place.read_text(encoding="utf-8"), re.MULTILINE):
            import_torchvision()  # so that the file's own import works beside a CPU-only torch
        with _own_folder(place):
            loader.loader.exec_module(code)
    except Exception as error:
        raise InvalidInput(f"{place} cannot be imported: {type(error).__name__}: {error}") from error
    return code


def made(path: str, maker: str, options: Mapping[str, Any], offered: Mapping[str, Any], what: str) -> Any:
    """What the function or class `maker` of the file returns, called with `options` and what it asks for by name of
    `offered`. what: is expected of it. Raises InvalidInput in one sentence."""
    make = getattr(imported(path), maker, None)
    if not callable(make):
        raise InvalidInput(f"{path} has no function or class '{maker}'; name it as maker=")
    wanted = inspect.signature(make).parameters
    unknown = [o for o in options if o not in wanted]
    if unknown and all(p.kind is not p.VAR_KEYWORD for p in wanted.values()):
        raise InvalidInput(f"{maker} of {path} takes no '{unknown[0]}'; take it out of options")
    given = {k: v for k, v in offered.items() if k in wanted and k not in options}
    try:
        inspect.signature(make).bind(**given, **options)
    except TypeError as error:
        raise InvalidInput(f"{maker} of {path} cannot be called: {error}; give the rest in options") from error
    try:
        return make(**given, **options)
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise InvalidInput(f"{maker} of {path} made no {what} but ended in {reason}; correct the file") from error


def _helpers(place: Path) -> list[Path]:
    """The Python files beside a model's file that it imports, whole folders among them, and those that these import, in the
    order of their names."""
    found: set[Path] = set()
    waiting = [place]
    while waiting:
        names = _imported(waiting.pop())
        beside = {place.with_name(f"{name}.py") for name in names}
        inside = {file for name in names if name for file in place.with_name(name).rglob("*.py")}
        new = {file for file in (beside | inside) - found - {place} if file.is_file()}
        found |= new
        waiting += new
    return in_order(found)


def _imported(file: Path) -> set[str]:
    """The first names of what a Python file imports; none where it cannot be read, which running it will tell."""
    try:
        nodes = list(ast.walk(ast.parse(file.read_bytes()))) if file.is_file() and file.suffix == ".py" else []
    except (SyntaxError, ValueError):
        return set()
    whole = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    parts = [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level]
    return {name.partition(".")[0] for name in (*whole, *parts)}


@contextmanager
def _own_folder(place: Path) -> Iterator[None]:
    """Inside, a file's imports find those beside it first, read anew: another model may have a `helper` of its own, and
    this one's may have changed."""
    folder = str(place.parent.resolve())
    tops = {file.relative_to(place.parent).parts[0].removesuffix(".py") for file in _helpers(place)}

    def taken() -> dict[str, ModuleType]:
        return {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] in tops}

    others = taken()
    sys.path.insert(0, folder)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(folder)
        taken()
        sys.modules.update(others)
