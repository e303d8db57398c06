"""Features that tell classes apart, and how far a distortion moves them."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import Tensor

from ostiary.console import progress
from ostiary.context import Context
from ostiary.data.dataset import Dataset
from ostiary.errors import Unsupported
from ostiary.modality.base import Inputs
from ostiary.models.victim import Victim, evaluating
from ostiary.training.hooks import TrainHook
from ostiary.training.trainer import Trainer, TrainState

FLOOR = 0.1  # of the mean feature norm at the start; below, features have collapsed


def closeness(features: Tensor, y: Tensor) -> Tensor:
    """Mean cosine between the mean features of K classes; a class's with itself counts 0 and is one of the K * K."""
    held, own = y.unique(return_inverse=True)
    unit = F.normalize(F.one_hot(own, len(held)).to(features).t() @ features, dim=1)  # a sum points where the mean does
    cosines = unit @ unit.t()
    return (cosines.sum() - cosines.diagonal().sum()) / len(held) ** 2


class Apart(TrainHook):
    """Minimises `closeness` instead of cross-entropy."""

    def loss(self, state: TrainState, batch: Inputs, y: Tensor, rows: Tensor) -> Tensor:
        return closeness(state.victim.features(batch).float(), y)


def probe(victim: Victim, train: Dataset) -> str:
    """Why there are no features that training could move, or nothing; asked of a fresh model before it is trained."""
    few = train.modality.move(train.take(torch.arange(min(2, len(train)))).inputs, victim.device)
    with evaluating(victim), torch.enable_grad():
        try:
            moved = victim.both(few)[1].requires_grad
        except Unsupported as error:
            return str(error)
    return "" if moved else f"'{victim.head}' is the model's only layer, so that its features are the inputs themselves"


def push_apart(victim: Victim, train: Dataset, trainer: Trainer, ctx: Context) -> int:
    """Trains in place until features would collapse; returns the epochs kept, fewer than the trainer's if they would."""
    few = train.take(torch.randperm(len(train), generator=ctx.rng("norms"))[:512]).inputs

    def norm() -> float:
        return float(victim.embed(few)[1].norm(dim=1).mean())

    start, state = norm(), trainer.start(victim, train, ctx.key("apart"))
    while state.epoch < trainer.epochs:
        kept = deepcopy(victim.module.state_dict())
        trainer.run_epoch(state, [Apart()])
        progress("pushing classes apart", state.epoch / trainer.epochs)
        if norm() < FLOOR * start:
            victim.module.load_state_dict(kept)
            return state.epoch - 1
    return state.epoch


def shifts(
    victim: Victim,
    data: Dataset,
    draws: int,
    rng: torch.Generator,
    *,
    unit: bool = False,
    distort: Callable[[Inputs, torch.Generator], Inputs] | None = None,
) -> Tensor:
    """Mean squared distance, over feature entries and draws, between each input's features and those of its distorted form.

    unit: between features scaled to length 1, so that angles count and sizes do not. distort: None is the modality's own.
    """
    found, modality = [], data.modality
    distort = distort or modality.distort

    def seen(inputs: Inputs) -> Tensor:
        held = victim.embed(inputs)[1]
        return F.normalize(held, dim=1) if unit else held

    for rows in torch.arange(len(data)).split(modality.chunk):
        some = modality.take(data.inputs, rows)
        plain = seen(some)
        each = [(seen(distort(some, rng)) - plain).square().mean(1) for _ in range(draws)]
        found.append(torch.stack(each).mean(0))
    return torch.cat(found)
