"""BadNets."""

from __future__ import annotations

from typing import Literal

from ostiary.attacks.base import PoisoningAttack
from ostiary.component import Positive
from ostiary.context import Context
from ostiary.data.dataset import Dataset
from ostiary.triggers.pixels import Patch, Pattern


class BadNets(PoisoningAttack, name="badnets"):
    """Overwrites a small square in one corner. Gu et al., 2017, arXiv:1708.06733.

    The adversary controls training data only. `size` 3 px, `pattern` white or checker, `corner` bottom right: the
    forms of the paper and of common benchmarks; rate 10 %: common benchmarks. Differs from the paper: none known.
    """

    modalities = frozenset({"image"})
    size: Positive = 3
    pattern: Pattern = "white"
    corner: Literal["tl", "tr", "bl", "br"] = "br"

    def make_trigger(self, train: Dataset, ctx: Context) -> Patch:
        return Patch(size=self.size, pattern=self.pattern, corner=self.corner)
