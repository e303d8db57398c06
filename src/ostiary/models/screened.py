"""A victim behind a screen: every batch is changed before the model sees it. What test-time defences return."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace

import torch
from torch import Tensor, nn

from ostiary.data.dataset import Dataset
from ostiary.modality.base import Inputs
from ostiary.models.victim import Victim


class Screen(nn.Module, ABC):
    """Changes a batch. What it has learnt (thresholds, statistics) are buffers, so that it is saved with the weights."""

    @abstractmethod
    def forward(self, batch: Inputs, victim: Victim) -> Inputs:
        """The batch as the model shall see it: a new one, with as many inputs and nodes as before. victim: the model itself,
        without the screen, for screens that ask it."""

    def passed(self, data: Dataset, victim: Victim) -> Dataset:
        """All of `data`, which is on the CPU, behind the screen, which is where `victim` is."""
        kind, home = data.modality, data.y.device
        parts = [self(data.take(at).move(victim.device).inputs, victim) for at in torch.arange(len(data)).split(kind.chunk)]
        return replace(data, inputs=kind.join([kind.move(part, home) for part in parts]))


class Screened(nn.Module):
    """A module and the screen before it, in one module."""

    def __init__(self, inner: nn.Module, screen: Screen) -> None:
        super().__init__()
        self.screen, self.inner = screen, inner
        self.stages = tuple(f"inner.{name}" for name in getattr(inner, "stages", ()))


def screened(victim: Victim, screen: Screen) -> Victim:
    """A copy of the victim that sees every batch through `screen`."""
    own = victim.clone()

    def forward(both: nn.Module, batch: Inputs) -> Tensor:
        assert isinstance(both, Screened)
        bare = Victim(both.inner, own.modality, forward=own._forward, head=own.known_head, stages=own.named_stages)
        return bare.call(both.inner, both.screen(batch, bare))

    head = None if own.known_head is None else f"inner.{own.known_head}"
    stages = tuple(f"inner.{name}" for name in own.named_stages)
    return Victim(Screened(own.module, screen), own.modality, forward=forward, head=head, stages=stages)
