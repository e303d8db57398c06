"""A model from a user's own Python file."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import field
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from ostiary.data.source import file_mark
from ostiary.data.torchvision_import import import_torchvision
from ostiary.errors import InvalidInput
from ostiary.modality.base import Modality
from ostiary.models.base import Architecture
from ostiary.models.victim import Victim
from ostiary.models.weights import load_weights


class FromFile(Architecture, name="file"):
    """A module made by the function or class called `maker` in the user's file `path`, called with `options`.

    It may ask by name for what the data look like (`width` or `channels`, `height`, `classes`). `weights`: a
    .safetensors file or a state dict to start from (never unpickled); models that attackers and defenders train for
    themselves start without. `head`, `stages`: names of submodules, as in
    Victim. A function `forward(module, batch)` in the same file, if any, is how the module is called.
    """

    modalities = frozenset()
    recipe = {"epochs": 40}
    path: str
    maker: str = "make"
    options: dict[str, Any] = field(default_factory=dict)
    weights: str = ""
    head: str = ""
    stages: tuple[str, ...] = ()

    def untaught(self) -> FromFile:
        return self.replace(weights="")

    def content(self) -> str:
        given = [Path(p).expanduser() for p in (self.path, self.weights) if p and Path(p).expanduser().exists()]
        return file_mark(*given, *_helpers(Path(self.path).expanduser()))

    def code(self) -> Any:
        place = Path(self.path).expanduser()
        if not place.is_file():
            raise InvalidInput(f"there is no file {place} to take a model from; correct the path")
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

    def module(self, data: Mapping[str, Any]) -> nn.Module:
        make = getattr(self.code(), self.maker, None)
        if not callable(make):
            raise InvalidInput(f"{self.path} has no function or class '{self.maker}'; name it as maker=")
        wanted = inspect.signature(make).parameters
        unknown = [o for o in self.options if o not in wanted]
        if unknown and all(p.kind is not p.VAR_KEYWORD for p in wanted.values()):
            raise InvalidInput(f"{self.maker} of {self.path} takes no '{unknown[0]}'; take it out of options")
        offered = {k: v for k, v in data.items() if k in wanted and k not in self.options}
        try:
            inspect.signature(make).bind(**offered, **self.options)
        except TypeError as error:
            raise InvalidInput(f"{self.maker} of {self.path} cannot be called: {error}; give the rest in options") from error
        try:
            module = make(**offered, **self.options)
        except Exception as error:
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise InvalidInput(f"{self.maker} of {self.path} made no model but ended in {reason}; correct the file") from error
        if not isinstance(module, nn.Module):
            raise InvalidInput(f"{self.maker} of {self.path} returned {type(module).__name__}, expected an nn.Module")
        if self.weights:
            load_weights(module, self.weights)
        return module

    def wrap(self, module: nn.Module, modality: Modality) -> Victim:
        forward = getattr(self.code(), "forward", None)
        return Victim(module, modality, forward=forward, head=self.head or None, stages=self.stages)


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
    return sorted(found)


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
