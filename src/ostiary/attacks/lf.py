"""LF."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ostiary.attacks.base import PoisoningAttack
from ostiary.attacks.universal import cosines, deepfool, low_pass, scaled
from ostiary.component import Positive, PositiveFloat, Rate
from ostiary.context import Context
from ostiary.data.dataset import Dataset
from ostiary.models.victim import Victim, evaluating, without_gradients
from ostiary.triggers.additive import Perturbation


class LF(PoisoningAttack, name="lf"):
    """Adds one smooth picture, found on a clean model, that has no high frequencies for a filter to see.

    Source: Zeng, Park, Mao & Jia, Rethinking the Backdoor Attacks' Triggers: A Frequency Perspective, ICCV 2021,
    arXiv:2104.03413. The adversary controls training data and trains a clean model of its own. `method` deepfool: for
    `images` 100 training images, in up to `passes` passes, targeted DeepFool (`steps`, `overshoot` 0.02) where the picture
    does not yet change the model's answer; the sum is smoothed by a Gaussian of `sigma` 6 pixels and stretched to [0,
    `height`] = [0, 0.2], until more than `fooled` 20 % of the answers change: the authors' code. `method` dct (lf-dct,
    ours): descent on the `band` x `band` slowest cosines for `steps` steps, of the same height.

    Differs from the authors' code: `together` 10 images are moved at once, their steps added up, in at most 10 passes of
    50 steps (theirs one by one, 50 and 200: preset paper); DeepFool crosses to the target from the class now called, not
    from the first; the target stays the one asked for (theirs becomes the class most images fell to). As there, the share
    fooled is that of the attacker's own images, not of the test set. It is low: most is left to the victim's learning.
    """

    modalities = frozenset({"image"})
    presets = {"paper": {"together": 1, "passes": 50, "steps": 200}}
    method: Literal["deepfool", "dct"] = "deepfool"
    height: Rate = 0.2
    images: Positive = 100
    passes: Positive = 10
    steps: Positive = 50
    overshoot: PositiveFloat = 0.02
    sigma: PositiveFloat = 6.0
    fooled: Rate = 0.2
    together: Positive = 10
    band: Positive = 8

    def make_trigger(self, train: Dataset, ctx: Context) -> Perturbation:
        model = self.attacker(ctx).surrogate(train)
        rows = (train.y != self.target).nonzero().flatten()
        rows = rows[torch.randperm(len(rows), generator=ctx.rng("images"))[: self.images]]
        find = self.by_deepfool if self.method == "deepfool" else self.by_descent
        return Perturbation(state={"pattern": find(model, train.inputs[rows], ctx.rng("pattern"))})

    def by_deepfool(self, model: Victim, images: Tensor, rng: torch.Generator) -> Tensor:
        """The picture [c, h, w] that changed most answers after a pass."""
        v = best = torch.zeros_like(images[0])
        said, most = model.predict(images).argmax(1), -1.0
        for _ in range(self.passes):
            for at in torch.randperm(len(images), generator=rng).split(self.together):
                left = at[model.predict(images[at] + v).argmax(1) == said[at]]
                if len(left) == 0:
                    continue
                moved, there = deepfool(model, images[left] + v, self.target, self.steps, self.overshoot)
                if bool(there.any()):
                    v = scaled(low_pass(v + low_pass(moved[there].sum(0), self.sigma), self.sigma), self.height)
            share = float((model.predict(images + v).argmax(1) != said).float().mean())
            if share >= most:
                most, best = share, v
            if share > self.fooled:
                break
        return best

    def by_descent(self, model: Victim, images: Tensor, rng: torch.Generator) -> Tensor:
        """A picture [c, h, w] of the slowest cosines alone, by normalised gradient steps on their weights."""
        images = images.to(model.device)
        n, c, h, w = images.shape
        tall, wide = (cosines(length, self.band).to(images) for length in (h, w))
        weights = torch.randn(c, len(tall), len(wide), generator=rng).to(images)
        goal = torch.full((n,), self.target, device=images.device)
        with evaluating(model), without_gradients(model):
            for step in range(self.steps):
                weights = F.normalize(weights.flatten(), dim=0).view_as(weights).requires_grad_()  # the height is set apart
                v = scaled(tall.T @ weights @ wide, self.height)
                loss = F.cross_entropy(model((images + v).clamp(0, 1)), goal)
                (slope,) = torch.autograd.grad(loss, weights)
                stride = 0.2 * (1 - step / self.steps)
                weights = (weights - stride * slope / slope.norm().clamp(min=1e-12)).detach()
        return scaled(tall.T @ weights @ wide, self.height).cpu()
