"""An architecture: hyperparameters that become a Victim once the data are known."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, final

import torch
from torch import nn

from ostiary.component import Component, Json
from ostiary.data.dataset import Dataset
from ostiary.devices import plain_defaults
from ostiary.errors import Unsupported
from ostiary.modality.base import Modality
from ostiary.models.victim import Victim
from ostiary.seeds import scoped


class Architecture(Component):
    """What is trained. `recipe` holds the trainer options it learns well with, `recipes` those of a modality on top of it;
    a plan may override any."""

    kind = "victim"
    modalities: ClassVar[frozenset[str]]
    recipe: ClassVar[Mapping[str, Json]] = {}
    recipes: ClassVar[Mapping[str, Mapping[str, Json]]] = {}

    @abstractmethod
    def module(self, data: Mapping[str, Any]) -> nn.Module:
        """A fresh module for data described by `Dataset.describe()`."""

    @classmethod
    def training(cls, modalities: Iterable[str]) -> dict[str, Json]:
        """The trainer options for data of these modalities (of a source that serves several: the common ones)."""
        own = [cls.recipes.get(m, {}) for m in modalities]
        return {**cls.recipe, **(own[0] if len(own) == 1 else {})}

    def untaught(self) -> Architecture:
        """The same without weights that come with it."""
        return self

    def content(self) -> str:
        """A mark of the files the module comes from; empty for built-in ones."""
        return ""

    def wrap(self, module: nn.Module, modality: Modality) -> Victim:
        return Victim(module, modality)

    @final
    @plain_defaults()
    def make(self, data: Dataset, seed: int) -> Victim:
        """A fresh victim; its initial weights depend on `seed` alone."""
        if self.modalities and data.modality.name not in self.modalities:
            raise Unsupported(
                f"victim '{self.name}' works on {', '.join(sorted(self.modalities))} data, not {data.modality.name}"
            )
        made = self.rebuild(data.describe(), data.modality, seed)
        if len(data):
            made.seek_head(data.take(torch.arange(min(2, len(data)))).inputs)
        return made

    @final
    @plain_defaults()
    def rebuild(self, described: Mapping[str, Any], modality: Modality, seed: int = 0) -> Victim:
        """The same from a description of the data, for weights that are loaded afterwards."""
        with scoped(seed, "init"):
            return self.wrap(self.module(described), modality)
