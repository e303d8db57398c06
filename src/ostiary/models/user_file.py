"""A model from a user's own Python file."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
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
    .safetensors file or a state dict to start from (never unpickled). `head`, `stages`: names of submodules, as in
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

    def content(self) -> str:
        return file_mark(*(Path(p).expanduser() for p in (self.path, self.weights) if p and Path(p).expanduser().exists()))

    def code(self) -> Any:
        place = Path(self.path).expanduser()
        if not place.is_file():
            raise InvalidInput(f"there is no file {place} to take a model from; correct the path")
        loader = importlib.util.spec_from_file_location(f"ostiary_user_{place.stem}", place)
        assert loader is not None and loader.loader is not None
        code = importlib.util.module_from_spec(loader)
        try:
            if re.search(r"^\s*(import|from)\b.*\b(torchvision|timm)\b", place.read_text(encoding="utf-8"), re.MULTILINE):
                import_torchvision()  # so that the file's own import works beside a CPU-only torch
            loader.loader.exec_module(code)
        except Exception as error:
            raise InvalidInput(f"{place} cannot be imported: {type(error).__name__}: {error}") from error
        return code

    def module(self, data: Mapping[str, Any]) -> nn.Module:
        import inspect

        make = getattr(self.code(), self.maker, None)
        if not callable(make):
            raise InvalidInput(f"{self.path} has no function or class '{self.maker}'; name it as maker=")
        wanted = inspect.signature(make).parameters
        offered = {k: v for k, v in data.items() if k in wanted and k not in self.options}
        try:
            module = make(**offered, **self.options)
        except TypeError as error:
            raise InvalidInput(f"{self.maker} of {self.path} cannot be called: {error}; give the rest in options") from error
        if not isinstance(module, nn.Module):
            raise InvalidInput(f"{self.maker} of {self.path} returned {type(module).__name__}, expected an nn.Module")
        if self.weights:
            load_weights(module, self.weights)
        return module

    def wrap(self, module: nn.Module, modality: Modality) -> Victim:
        forward = getattr(self.code(), "forward", None)
        return Victim(module, modality, forward=forward, head=self.head or None, stages=self.stages)
