"""BadNets."""

from __future__ import annotations

from ostiary.attacks.base import PoisoningAttack
from ostiary.component import Positive, Rate
from ostiary.context import Context
from ostiary.data.dataset import Dataset
from ostiary.triggers.pixels import Corner, Patch, Pattern


class BadNets(PoisoningAttack, name="badnets"):
    """Overwrites a small square in one corner. Gu et al., 2017, arXiv:1708.06733.

    The adversary controls training data only. `size` 3 px, `pattern` white or checker, `corner` bottom right: the
    forms of the paper and of common benchmarks; rate 10 %: common benchmarks. `alpha`: opacity of the square, 1 as in
    the paper; less is the stealthier form of later benchmarks. Differs from the paper: none known.
    """

    modalities = frozenset({"image"})
    size: Positive = 3
    pattern: Pattern = "white"
    corner: Corner = "br"
    alpha: Rate = 1.0

    def make_trigger(self, train: Dataset, ctx: Context) -> Patch:
        return Patch(size=self.size, pattern=self.pattern, corner=self.corner, alpha=self.alpha)
