"""Losses whose gradient is put together by hand: of weights moved along their own slope, and of a minimum that follows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from ostiary.modality.base import Inputs
from ostiary.training.hooks import TrainHook
from ostiary.training.trainer import TrainState


class Calm(TrainHook):
    """Mixes the gradient with that of the weights moved by `reach` along it, each tensor by its own length."""

    def __init__(self, reach: float, mix: float) -> None:
        self.reach, self.mix = reach, mix

    def loss(self, state: TrainState, batch: Inputs, y: Tensor, rows: Tensor) -> Tensor:
        own = {name: p for name, p in state.victim.named_parameters() if p.requires_grad}
        here = F.cross_entropy(state.victim(batch).float(), y)
        slopes = torch.autograd.grad(here, list(own.values()), allow_unused=True, materialize_grads=True)
        far = {n: p + self.reach * g / g.norm().clamp(min=1e-12) for (n, p), g in zip(own.items(), slopes, strict=True)}
        there = F.cross_entropy(functional_call(state.victim, far, (batch,)).float(), y)
        return (1 - self.mix) * with_gradient(here, own.values(), slopes) + self.mix * there


def with_gradient(value: Tensor, parameters: Iterable[nn.Parameter], slopes: Sequence[Tensor]) -> Tensor:
    """A loss of the given value whose gradient by the parameters is the one given."""
    return value.detach() + sum(((p - p.detach()) * g).sum() for p, g in zip(parameters, slopes, strict=True))


def hypergradient(
    inner: Callable[[Tensor], Tensor],
    outer: Callable[[Tensor], Tensor],
    by: Tensor,
    parameters: Sequence[nn.Parameter],
    iterations: int,
    step: float,
) -> Tensor:
    """The outer loss at `by`, as a loss whose gradient counts how the minimum `by` of the inner loss follows the parameters.

    With the map m = by - `step` * slope of the inner loss, v is iterated as (dm / dby)^T v + d outer / dby from zero, and
    (dm / dparameters)^T v added to the plain gradient.
    """
    by = by.detach().requires_grad_()
    value = outer(by)
    direct, *plain = torch.autograd.grad(value, [by, *parameters], allow_unused=True, materialize_grads=True)
    with sdpa_kernel(SDPBackend.MATH):  # the attention that has a second derivative
        (slope,) = torch.autograd.grad(inner(by), by, create_graph=True)
    moved, v = by - step * slope, torch.zeros_like(by)
    for _ in range(iterations):
        v = torch.autograd.grad(moved, by, v, retain_graph=True)[0] + direct
    more = torch.autograd.grad(moved, parameters, v, allow_unused=True, materialize_grads=True)
    return with_gradient(value, parameters, [a + b for a, b in zip(plain, more, strict=True)])
