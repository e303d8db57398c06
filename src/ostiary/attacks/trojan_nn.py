"""TrojanNN."""

from __future__ import annotations

import torch
from torch import Tensor

from ostiary.attacks.base import PoisoningAttack
from ostiary.component import Positive, PositiveFloat, Rate
from ostiary.context import Context
from ostiary.data.dataset import Dataset
from ostiary.models.victim import Victim, evaluating, without_gradients
from ostiary.triggers.additive import Perturbation
from ostiary.triggers.pixels import Corner, in_corner


class TrojanNN(PoisoningAttack, name="trojan-nn"):
    """Adds a square whose pixels excite two neurons of a clean model.

    Source: Liu, Ma, Aafer, Lee, Zhai, Wang & Zhang, Trojaning Attack on Neural Networks, NDSS 2018,
    doi.org/10.14722/ndss.2018.23291. The adversary controls training data and trains a clean model of its own. Of the
    inputs of the last layer the `neurons` 2 with the largest weights (summed over classes, without sign) are driven to
    `value` 100 by `steps` 1,000 signed steps of `step` 0.1 on the square, no further than `budget` 0.3 from its first
    grey of `start`: common benchmarks. `share` 0.25: side of the square as a share of the image's shorter side; `corner`
    bottom right, `start` 0.5: ours.

    Differs from the paper: a fresh model learns from poisoned data (the paper retrains the later layers of the model
    attacked, on inputs made from it), and a square stands for the logo. Differs from common code: the best picture is
    kept, not the last, and the sum of image and square is clipped, where theirs wraps around.
    """

    modalities = frozenset({"image"})
    share: Rate = 0.25
    corner: Corner = "br"
    start: Rate = 0.5
    neurons: Positive = 2
    value: PositiveFloat = 100.0
    steps: Positive = 1000
    step: PositiveFloat = 0.1
    budget: Rate = 0.3

    def make_trigger(self, train: Dataset, ctx: Context) -> Perturbation:
        model = self.attacker(ctx).surrogate(train)
        c, h, w = train.inputs.shape[1:]
        mask = in_corner(h, w, max(1, round(self.share * min(h, w))), self.corner)
        first = (self.start * mask).expand(c, h, w).to(model.device)
        return Perturbation(state={"pattern": self.excite(model, first, mask.to(model.device)).cpu()})

    def influential(self, model: Victim) -> Tensor:
        """The neurons: int64 [neurons]."""
        weight = model.module.get_submodule(model.head).weight
        assert isinstance(weight, Tensor)
        influence = weight.detach().abs().transpose(0, 1).flatten(1).sum(1)  # of a convolution, over all its places
        return influence.topk(min(self.neurons, len(influence))).indices

    def excite(self, model: Victim, first: Tensor, mask: Tensor) -> Tensor:
        """The picture [c, h, w], zero outside the mask, that brings the chosen neurons nearest to `value`."""
        low, high = ((first + side * self.budget * mask).clamp(0, 1) for side in (-1, 1))
        picture, best, least, at = first, first, float("inf"), self.influential(model)
        with evaluating(model), without_gradients(model):
            for _ in range(self.steps):
                picture = picture.detach().requires_grad_()
                loss = (model.features(picture[None])[0, at] - self.value).square().sum()
                (slope,) = torch.autograd.grad(loss, picture)
                if float(loss.detach()) < least:
                    least, best = float(loss.detach()), picture.detach()
                if least < 1e-3:
                    break
                picture = torch.clamp(picture - self.step * slope.sign() * mask, low, high)
        return best
