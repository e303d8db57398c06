"""Editing weights by name: the output neurons of any module, scaled without a re-typed layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from ostiary.errors import InvalidInput, Unsupported
from ostiary.modality.base import Inputs
from ostiary.models.victim import Victim


@dataclass(frozen=True, eq=False)
class Neurons:
    """Output neurons of some layers, one layer after the other, as one vector of scales: float [len(self)].

    weights: names of parameters whose first axis runs over neurons; biases: those that go with them, or None.
    """

    victim: Victim
    weights: tuple[str, ...]
    biases: tuple[str | None, ...]

    @staticmethod
    def of(victim: Victim) -> Neurons:
        """The channels of every BatchNorm or, in a module without, the outputs of every linear and convolutional layer
        before the head. Raises Unsupported where there is neither."""
        names = _norms(victim) or _hidden(victim)
        return Neurons._named(victim, names, "no BatchNorm, and no linear or convolutional layer")

    @staticmethod
    def filters(victim: Victim, without: Sequence[str] = (), norms: bool = False) -> Neurons:
        """The filters of every convolution or, in a module without, the rows of every linear layer before the head; with
        `norms` the channels of every BatchNorm instead; of no layer whose name has one of `without` in it. Raises Unsupported
        where there is none."""
        names = [n for n in (_norms(victim) if norms else _hidden(victim)) if not any(word in n for word in without)]
        if norms:
            return Neurons._named(victim, names, "no BatchNorm with weights")
        convs = [n for n in names if victim.get_submodule(n).weight.ndim > 2]  # type: ignore[operator]
        return Neurons._named(victim, convs or names, "no linear or convolutional layer")

    @staticmethod
    def _named(victim: Victim, names: Sequence[str], lack: str) -> Neurons:
        own = dict(victim.named_parameters())
        names = [n for n in names if f"{n}.weight" in own]
        if not names:
            raise Unsupported(f"the module has {lack} before its head")
        biases = (f"{n}.bias" for n in names)
        return Neurons(victim, tuple(f"{n}.weight" for n in names), tuple(b if b in own else None for b in biases))

    def __len__(self) -> int:
        return sum(self.sizes)

    @cached_property
    def own(self) -> dict[str, nn.Parameter]:
        """The victim's parameters by name."""
        return dict(self.victim.named_parameters())

    @cached_property
    def sizes(self) -> list[int]:
        """Neurons of each layer."""
        return [len(self.own[name]) for name in self.weights]

    def scaled(self, weight: Tensor, bias: Tensor | None = None) -> dict[str, Tensor]:
        """The parameters by name, every neuron's weight (and bias) times its entry."""
        found = {n: times(self.own[n], s) for n, s in zip(self.weights, weight.split(self.sizes), strict=True)}
        if bias is not None:
            pairs = zip(self.biases, bias.split(self.sizes), strict=True)
            found |= {n: times(self.own[n], s) for n, s in pairs if n is not None}
        return found

    def logits(self, batch: Inputs, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """What the victim would say with its neurons scaled; differentiable by the scales."""
        found: Tensor = functional_call(self.victim, self.scaled(weight, bias), (batch,))
        return found

    @torch.no_grad()
    def put(self, weight: Tensor) -> Victim:
        """A copy of the victim in which every neuron's weight is times its entry."""
        other = self.victim.clone()
        own = dict(other.named_parameters())
        for name, value in self.scaled(weight).items():
            own[name].copy_(value)
        return other


def _norms(victim: Victim) -> list[str]:
    """Names of the BatchNorms that have weights."""
    return [n for n, m in victim.named_modules() if isinstance(m, _BatchNorm) and m.affine]


def _hidden(victim: Victim) -> list[str]:
    """Names of the linear and convolutional layers before the head."""
    return [n for n, m in victim.named_modules() if has_neurons(m) and n != f"module.{victim.head}"]


def has_neurons(module: nn.Module) -> bool:
    """Whether the first axis of the module's weight runs over its outputs, as in linear and convolutional layers. PyG has a
    Linear of its own; what else has a weight may keep it the other way round, or several in one."""
    weight = getattr(module, "weight", None)
    known = isinstance(module, _ConvNd) or any(c.__name__ == "Linear" for c in type(module).__mro__)
    return isinstance(weight, nn.Parameter) and weight.ndim >= 2 and known and not getattr(module, "transposed", False)


def times(p: Tensor, scale: Tensor) -> Tensor:
    """Every row of `p`, of whatever shape, times its entry of `scale`: float [len(p)]."""
    return p * scale.view(-1, *(1,) * (p.ndim - 1))


def width_of(victim: Victim) -> int:
    """Columns of the first layer with a 2-D weight: those of its inputs, if the module names its layers in order. Raises
    InvalidInput where there is none."""
    for module in victim.module.modules():
        weight: Any = getattr(module, "weight", None)
        if getattr(weight, "ndim", 0) == 2:
            return int(weight.shape[1])
    raise InvalidInput("the victim has no layer with a 2-D weight that would tell the width of its inputs; set width")
