"""The contract of an explainer: which nodes and edges, or which pixels, a prediction rests on."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, fields
from typing import ClassVar, final

import torch
from torch import Tensor

from ostiary.component import Component, who
from ostiary.context import Context
from ostiary.devices import plain_defaults
from ostiary.errors import BrokenContract, InvalidInput, Unsupported
from ostiary.modality.base import Inputs
from ostiary.models.victim import Victim, evaluating, without_gradients


@dataclass(frozen=True, eq=False)
class Attribution:
    """Scores, higher = the prediction rests on it more. Graphs: nodes float [N], edges float [E] in the order of the
    store, features float [N, d] where the method scores them. Images: pixels float [n, h, w].
    losses: float [epochs, n], where every input's explanation is learnt: what its loss of the class was in each epoch."""

    nodes: Tensor | None = None
    edges: Tensor | None = None
    features: Tensor | None = None
    pixels: Tensor | None = None
    losses: Tensor | None = None


class Explainer(Component):
    """Explains the class a victim predicts, or one that is given, for many inputs at once. `apart`: whether the scores of
    an input are the same whatever else is explained with it."""

    kind = "explainer"
    apart: ClassVar[bool] = True
    modalities: ClassVar[frozenset[str]]

    @final
    @plain_defaults()
    def explain(
        self, victim: Victim, inputs: Inputs, ctx: Context, classes: Tensor | None = None, ids: Tensor | None = None
    ) -> Attribution:
        """Scores for every input, on the CPU. `classes`: int64 [n], default what the victim predicts. `ids`: int64 [n], keys
        of the inputs' own randomness (default their places), so that scores do not depend on what else is explained."""
        if victim.modality.name not in self.modalities:
            raise Unsupported(f"explainer '{self.name}' works on {', '.join(self.modalities)} data, not {victim.modality.name}")
        if not victim.modality.count(inputs):
            raise InvalidInput(f"explainer '{self.name}' was given no input to explain; give at least one")
        if classes is None:
            classes = victim.predict(inputs).argmax(1)
        ids = torch.arange(len(classes)) if ids is None else ids
        with evaluating(victim), without_gradients(victim):
            found = self.attribute(victim, inputs, classes, ids, ctx)
        if not isinstance(found, Attribution):
            said = f"{who(self)} gave {type(found).__name__}, expected an Attribution"
            raise BrokenContract(f"{said}; let `attribute` return Attribution(nodes=..., edges=..., pixels=...)")
        return Attribution(**{f.name: None if (v := getattr(found, f.name)) is None else v.cpu() for f in fields(found)})

    @abstractmethod
    def attribute(self, victim: Victim, inputs: Inputs, classes: Tensor, ids: Tensor, ctx: Context) -> Attribution:
        """The method itself; the victim is in evaluation mode and its parameters take no gradient."""
