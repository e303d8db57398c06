"""Input-aware masks, learnt on clean data, and patterns, learnt with the victim."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from ostiary.attacks.base import TriggerHook
from ostiary.attacks.crossing import other_rows
from ostiary.context import Context
from ostiary.data.dataset import Dataset
from ostiary.models.victim import check_logits
from ostiary.training.draws import draws
from ostiary.training.trainer import TrainState
from ostiary.triggers.image_generators import EncoderDecoder
from ostiary.triggers.masked_pattern import MASK, PATTERN, MaskedPattern, covered, sharp
from ostiary.triggers.networks import weights

if TYPE_CHECKING:
    from ostiary.attacks.input_aware import InputAware


def diversity(first: Tensor, second: Tensor, of_first: Tensor, of_second: Tensor) -> Tensor:
    """How much farther apart images are than what is made of them (root mean squares), on average over the pairs."""

    def apart(a: Tensor, b: Tensor) -> Tensor:
        return (a - b).square().flatten(1).mean(1).clamp(min=1e-14).sqrt()  # no infinite slope where both are the same

    return (apart(first, second) / (apart(of_first, of_second) + 1e-7)).mean()


def learn_masks(net: EncoderDecoder, attack: InputAware, train: Dataset, ctx: Context) -> None:
    """Train the mask generator in place: few pixels, others for each image. The rate falls to zero, so that the running
    statistics of BatchNorm settle."""
    net.to(ctx.device).train()
    optimizer = torch.optim.Adam(net.parameters(), attack.mask_lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, attack.mask_steps)
    for images, _ in draws(train, 64, attack.mask_steps, ctx.device, ctx.rng("masks")):
        masks = sharp(net(images))
        loss = attack.sparsity * F.relu(masks - attack.density).mean()
        loss = loss + attack.diversity * diversity(images, images.roll(1, 0), masks, masks.roll(1, 0))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


class JointPatterns(TriggerHook):
    """Poisoned rows get the pattern as it is now, gradients included, and follow after the batch as they were, lest the
    victim knows them by heart and the pattern learns nothing; the victim's optimiser steps the generator as well, and sets
    its gradients to zero at every step. (What the victim's loss has on top, the pattern's has, so no `extra`.)"""

    trigger: MaskedPattern

    def __init__(self, attack: InputAware, trigger: MaskedPattern, train: Dataset, index: Tensor, ctx: Context) -> None:
        self.attack, self.trigger, self.train = attack, trigger, train
        self.poisoned = torch.zeros(len(train), dtype=torch.bool)
        self.poisoned[index] = True
        self.rng = ctx.rng("cross")
        self.net, self.masker = (trigger.network(p, ctx.device) for p in (PATTERN, MASK))
        self.diversity: Tensor | None = None  # of the batch at hand

    def on_start(self, state: TrainState) -> None:
        self.net.train()
        state.optimizer.add_param_group({"params": list(self.net.parameters()), "weight_decay": 0.0})

    def on_batch(self, state: TrainState, batch: Tensor, y: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        own = self.poisoned[rows].nonzero().flatten()
        if not len(own):
            self.diversity = None
            return batch, y
        cross = other_rows(self.poisoned[rows], self.attack.cross_ratio, self.rng)
        near = ((cross if len(cross) else own) + 1) % len(rows)  # another image: the next of the batch
        clean, at = self.train.inputs[rows].to(state.victim.device), torch.cat([own, cross])
        sources = clean[torch.cat([own, near])]
        pattern = self.net(sources)
        with torch.no_grad():
            mask = sharp(self.masker(sources))
        n, m = min(len(own), len(near)), len(own)
        self.diversity = diversity(clean[own[:n]], clean[near[:n]], pattern[:n], pattern[m : m + n])
        made = covered(clean[at], pattern[: len(at)], mask[: len(at)])
        batch = self.train.modality.put(batch, at, made.to(batch.device))
        return torch.cat([batch, self.train.inputs[rows[own]]]), torch.cat([y, self.train.y[rows[own]]])

    def loss(self, state: TrainState, batch: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        loss = F.cross_entropy(check_logits(state.victim(batch), len(y)).float(), y)
        return loss if self.diversity is None else loss + self.attack.diversity * self.diversity

    def on_end(self, state: TrainState) -> None:
        self.trigger = self.trigger.replace(state={**self.trigger.state, **weights(self.net, PATTERN)})
