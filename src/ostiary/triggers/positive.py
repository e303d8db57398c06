"""Triggers that move an input towards the wanted class for a model of the attacker's, or away from it."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ostiary.component import Positive, PositiveFloat
from ostiary.models.victim import Victim, without_gradients
from ostiary.perturbation import Ball, Norm, descend, room, row_by_row
from ostiary.seeds import uniform
from ostiary.triggers.base import Trigger
from ostiary.triggers.own_model import ModelTrigger

BATCH = 64  # images per search; always as many, since other sizes round otherwise, and a sign may turn


class PositiveTrigger(ModelTrigger, name="positive"):
    """`steps` projected steps of `step` (None: 2.5 `eps` / `steps`) within `eps` of each image, in pixels of [0, 1].

    `norm`: linf, steps along signs; or, over all pixels of the image, l2, along the gradient, or l1, where it is steepest.

    `sign`: positive, down the model's loss for the wanted class; negative, up; neutral, random signs of the whole `eps`, drawn
    for every image, that ask no model. Works where the model's weights lie.
    """

    modalities = frozenset({"image"})
    added = frozenset({"norm"})
    eps: PositiveFloat = 0.05
    steps: Positive = 10
    step: PositiveFloat | None = None
    sign: Literal["positive", "negative", "neutral"] = "positive"
    norm: Norm = "linf"

    def apply(self, inputs: Tensor, ids: Tensor, *, seed: int, target: Tensor) -> Tensor:
        if self.sign == "neutral":
            pixels = torch.arange(inputs[0].numel(), device=ids.device)
            signs = torch.where(uniform(seed, ids[:, None], pixels) < 0.5, -self.eps, self.eps)
            return (inputs + signs.view_as(inputs).to(inputs)).clamp(0, 1)
        where = next((v.device for v in self.state.values()), inputs.device)
        model, n = self.model(where), len(inputs)
        found = [inputs[:0]]
        with without_gradients(model):
            for at in torch.arange(-n % BATCH + n).clamp(max=n - 1).split(BATCH):  # the last image fills the last batch
                moved = self.search(model, inputs[at].to(where), target[at].to(where))
                found.append(moved.to(inputs.device))
        return torch.cat(found)[:n]

    def search(self, model: Victim, images: Tensor, wanted: Tensor) -> Tensor:
        """The images [b, c, h, w] with the trigger for `wanted` [b] on them; `model` in evaluation mode."""
        perturb, way = model.modality.perturb, 1 if self.sign == "positive" else -1

        def loss(by: Tensor) -> Tensor:
            return way * F.cross_entropy(model(perturb(images, by)), wanted, reduction="sum")

        step = self.step or 2.5 * self.eps / self.steps
        start, inside = model.modality.unperturbed(images), room(self.eps, -images, 1 - images)
        ball = Ball(self.eps, self.norm, torch.arange(len(images), device=images.device))
        along = row_by_row if self.norm == "l2" else ball.along
        by = descend(loss, start, lambda by: ball(inside(by)), step=step, steps=self.steps, along=along)
        return perturb(images, by)  # type: ignore[no-any-return]


class Hardened(PositiveTrigger, name="hardened"):
    """Images made harder to recognise by such steps, then stamped with another trigger, `mark`."""

    sign: Literal["positive", "negative", "neutral"] = "negative"
    mark: Trigger

    def apply(self, inputs: Tensor, ids: Tensor, *, seed: int, target: Tensor) -> Tensor:
        harder = super().apply(inputs, ids, seed=seed, target=target)
        stamped: Tensor = self.mark.apply(harder, ids, seed=seed, target=target)
        return stamped
