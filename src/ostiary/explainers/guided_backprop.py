"""Guided backpropagation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ostiary.component import Positive
from ostiary.context import Context
from ostiary.explainers.base import Attribution, Explainer
from ostiary.explainers.gradients import batches, fully_present, slopes
from ostiary.modality.base import Inputs
from ostiary.modality.graphs import Graphs
from ostiary.models.victim import Victim

RELUS = frozenset({F.relu, F.relu_, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_})  # nn.ReLU calls the first
IN_PLACE = frozenset({F.relu_, torch.relu_, Tensor.relu_})


class _Guided(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x > 0)
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (active,) = ctx.saved_tensors
        return grad.clamp(min=0).mul(active)


class GuidedReLU(TorchFunctionMode):
    """Inside, every ReLU passes back only what is positive, however it is written: module, function or method."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func not in RELUS:
            return func(*args, **(kwargs or {}))
        given = dict(zip(("input", "inplace"), args, strict=False)) | dict(kwargs or {})
        out = _Guided.apply(given["input"])  # type: ignore[no-untyped-call]
        return given["input"].copy_(out) if func in IN_PLACE or given.get("inplace") else out


class GuidedBackprop(Explainer, name="guided-backprop"):
    """The gradient of the class logit, with only its positive parts passed back through every ReLU.

    Source: Springenberg, Dosovitskiy, Brox & Riedmiller, ICLR workshop 2015, arXiv:1412.6806; on graphs Baldassarre &
    Azizpour, 2019, arXiv:1905.13686. Needs gradients of the model and its Python forward (ReLUs inside TorchScript
    keep their own gradient, as do other activations). Scores are absolute values: features; nodes, the sum of theirs;
    edges, of the gradient in an edge mask of ones; pixels, the sum over channels. `edges`: off for modules whose edges
    cannot be weighed. `chunk`: inputs at once; our choice.

    Equals captum's `GuidedBackprop` where every ReLU is a module (tests show it). Own code: captum misses functional
    ReLUs, such as those of PyG's and of our own networks, and PyG's wrapper of it takes graphs one by one
    (ours: 43-48 times faster on AIDS).
    """

    modalities = frozenset({"graph", "image"})
    edges: bool = True
    chunk: Positive = 512

    def attribute(self, victim: Victim, inputs: Inputs, classes: Tensor, ids: Tensor, ctx: Context) -> Attribution:
        parts = [self.scored(victim, *batch) for batch in batches(victim, inputs, classes, self.chunk)]
        found = [torch.cat(p).cpu() for p in zip(*parts, strict=True)]
        if not isinstance(inputs, Graphs):
            return Attribution(pixels=found[0].sum(1))
        return Attribution(found[0].sum(1), found[1] if self.edges else None, found[0])

    def heat(self, victim: Victim, batch: Inputs, classes: Tensor) -> Tensor:
        """Node scores [N] or pixel scores [n, h, w] that can be differentiated in the victim's weights."""
        return self.replace(edges=False).scored(victim, batch, classes, create_graph=True)[0].sum(1)

    def scored(self, victim: Victim, batch: Inputs, classes: Tensor, *, create_graph: bool = False) -> list[Tensor]:
        """The absolute slopes in features, or pixels, and in edges where they are asked for."""
        columns = ("x", "edge_mask") if self.edges else ("x",)
        if isinstance(batch, Graphs) and self.edges:
            batch = batch.with_(edge_mask=fully_present(batch))
        with GuidedReLU():
            return [slope.abs() for slope in slopes(victim, batch, classes, *columns, create_graph=create_graph)]
