"""Blended."""

from __future__ import annotations

from ostiary.attacks.base import PoisoningAttack
from ostiary.component import Rate
from ostiary.context import Context
from ostiary.data.dataset import Dataset
from ostiary.data.image_folder import read_picture
from ostiary.data.source import file_mark, find_file
from ostiary.triggers.base import Trigger
from ostiary.triggers.pixels import Blend, Picture


class Blended(PoisoningAttack, name="blended"):
    """Blends a full-size picture into the image. Chen et al., 2017, arXiv:1712.05526.

    The adversary controls training data only. `alpha` 0.2 in training (paper); `alpha_test`: in use, the same if not
    given (the paper goes up to 1). `picture`: seeded noise (paper), drawn rings, or strips (Blend-strip of later
    benchmarks). `path`: an image file in place of these, such as the paper's cartoon, looked up as given, then under
    OSTIARY_DATA/images, and resized to the images; needs Pillow. Differs from the paper: rings stand for the cartoon, whose
    rights are unclear.
    """

    modalities = frozenset({"image"})
    added = frozenset({"path"})
    alpha: Rate = 0.2
    alpha_test: Rate | None = None
    picture: Picture = "noise"
    path: str = ""

    def content(self) -> str:
        return file_mark(find_file(self.path, "images")) if self.path else ""

    def make_trigger(self, train: Dataset, ctx: Context) -> Blend:
        given = {"given": read_picture(self.path, *train.inputs.shape[1:])} if self.path else {}
        return Blend(alpha=self.alpha, picture=self.picture, made_with=ctx.key("picture"), state=given)

    def at_test(self, trigger: Trigger) -> Trigger | None:
        return None if self.alpha_test is None else trigger.replace(alpha=self.alpha_test)
