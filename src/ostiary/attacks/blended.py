"""Blended."""

from __future__ import annotations

from typing import Literal

from ostiary.attacks.base import PoisoningAttack
from ostiary.component import Rate
from ostiary.context import Context
from ostiary.data.dataset import Dataset
from ostiary.triggers.pixels import Blend


class Blended(PoisoningAttack, name="blended"):
    """Blends a full-size picture into the image. Chen et al., 2017, arXiv:1712.05526.

    The adversary controls training data only. `alpha` 0.2 in training and test (paper: 0.2 in training). Differs
    from the paper: the picture is seeded noise or drawn rings, the cartoon's rights being unclear.
    """

    modalities = frozenset({"image"})
    alpha: Rate = 0.2
    picture: Literal["noise", "rings"] = "noise"

    def make_trigger(self, train: Dataset, ctx: Context) -> Blend:
        return Blend(alpha=self.alpha, picture=self.picture, made_with=ctx.key("picture"))
