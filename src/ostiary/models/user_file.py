"""A model from a user's own Python file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Any

from torch import nn

from ostiary.data import user_code
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
        return user_code.mark(self.path, self.weights)

    def module(self, data: Mapping[str, Any]) -> nn.Module:
        module = user_code.made(self.path, self.maker, self.options, data, "model")
        if not isinstance(module, nn.Module):
            raise InvalidInput(f"{self.maker} of {self.path} returned {type(module).__name__}, expected an nn.Module")
        if self.weights:
            load_weights(module, self.weights)
        return module

    def wrap(self, module: nn.Module, modality: Modality) -> Victim:
        forward = getattr(user_code.imported(self.path), "forward", None)
        return Victim(module, modality, forward=forward, head=self.head or None, stages=self.stages)
