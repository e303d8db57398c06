"""What a defender supposes of a patch, and how its distribution is learnt: shared by whatever looks for such patches."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from ostiary.component import Component, Positive, PositiveFloat, Rate
from ostiary.data.dataset import Dataset
from ostiary.detectors.patch_places import Footprint
from ostiary.detectors.patch_search import PatchSearch
from ostiary.errors import BadSpec, InvalidInput
from ostiary.evidence import Evidence

Pixels = Annotated[str, msgspec.Meta(pattern="^[x.]+$")]


class PatchLearning(Component):
    """`size`: pixels a side of the square that is supposed; in its stead (ours) the rows of `trigger_shape`, such as
    ["x.x", ".x."] for three pixels. A generator per level of `levels` (0.5, 0.8, 0.9: paper) makes patches of high entropy
    whose success, averaged over random places, need not exceed its level: mean min(p, level) + `alpha` times a bound on what
    patches tell of their noise (0.1: paper), noise of `rough` 0.1 on the pixels. `position`: places are drawn by the success
    had there (learnt, ours) or at random (paper), which finds no patch that works in one corner only; fixed (ours) where the
    place is known: its upper left at row and column `place` of those where a patch fits, from the end where negative (-1, -1:
    in the lower right corner). `hidden` and `lr_patches` are ours, for a small sample on a CPU; paper: 512 units, 2e-4.
    """

    added = frozenset({"trigger_shape", "place"})
    size: Positive = 3
    trigger_shape: tuple[Pixels, ...] = ()
    levels: tuple[Rate, ...] = (0.5, 0.8, 0.9)
    alpha: PositiveFloat = 0.1
    rough: PositiveFloat = 0.1
    position: Literal["learnt", "random", "fixed"] = "learnt"
    place: tuple[int, int] = (-1, -1)
    hidden: Positive = 128
    lr_patches: PositiveFloat = 0.002

    def __post_init__(self) -> None:
        super().__post_init__()
        rows = self.trigger_shape
        if len({len(row) for row in rows}) > 1 or (rows and "x" not in "".join(rows)):
            raise BadSpec(f"option trigger_shape: expected rows of one length with an x in them, got {list(rows)}")

    @property
    def footprint(self) -> Footprint:
        return Footprint.drawn(self.trigger_shape) if self.trigger_shape else Footprint.square(self.size)

    def fixed(self, clean: Dataset) -> int | None:
        """The number of the only place, row by row. Raises InvalidInput where a patch does not fit there."""
        (down, across), (row, column) = self.footprint.room(clean.inputs), self.place
        if self.position != "fixed":
            return None
        if not (-down <= row < down and -across <= column < across):
            raise InvalidInput(f"place {list(self.place)} does not exist: a patch fits at {down} rows and {across} columns")
        return row % down * across + column % across

    def refuse(self, evidence: Evidence) -> str:
        self.fixed(evidence.clean)
        return "" if self.levels else "no level of success is given; name at least one in levels"

    def search(self, clean: Dataset, steps: int, batch_size: int) -> PatchSearch:
        """How patches for such images are looked for."""
        footprint, fixed, learnt = self.footprint, self.fixed(clean), self.position == "learnt"
        return PatchSearch(footprint, steps, self.lr_patches, batch_size, self.hidden, self.alpha, self.rough, learnt, fixed)
