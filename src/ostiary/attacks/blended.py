"""Blended."""

from __future__ import annotations

from ostiary.attacks.base import PoisoningAttack
from ostiary.component import Rate
from ostiary.context import Context
from ostiary.data.dataset import Dataset
from ostiary.triggers.base import Trigger
from ostiary.triggers.pixels import Blend, Picture


class Blended(PoisoningAttack, name="blended"):
    """Blends a full-size picture into the image. Chen et al., 2017, arXiv:1712.05526.

    The adversary controls training data only. `alpha` 0.2 in training (paper); `alpha_test`: in use, the same if not
    given (the paper goes up to 1). `picture`: seeded noise (paper), drawn rings, or strips (Blend-strip of later
    benchmarks). Differs from the paper: rings stand for the cartoon, whose rights are unclear.
    """

    modalities = frozenset({"image"})
    alpha: Rate = 0.2
    alpha_test: Rate | None = None
    picture: Picture = "noise"

    def make_trigger(self, train: Dataset, ctx: Context) -> Blend:
        return Blend(alpha=self.alpha, picture=self.picture, made_with=ctx.key("picture"))

    def at_test(self, trigger: Trigger) -> Trigger | None:
        return None if self.alpha_test is None else trigger.replace(alpha=self.alpha_test)
