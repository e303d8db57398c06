"""WaNet."""

from __future__ import annotations

from torch import Tensor

from ostiary.attacks.base import PoisoningAttack
from ostiary.attacks.crossing import Crossed
from ostiary.component import NonNegativeFloat, Positive, PositiveFloat
from ostiary.context import Context
from ostiary.data.dataset import Dataset
from ostiary.training.hooks import TrainHook
from ostiary.triggers.base import Trigger
from ostiary.triggers.noisy_warp import NoisyWarp
from ostiary.triggers.warp import warp_grid


class WaNet(PoisoningAttack, name="wanet"):
    """Warps images by a smooth field that the victim learns to tell from other, noisy warps.

    Source: Nguyen & Tran, WaNet, ICLR 2021, arXiv:2102.10369. The adversary controls training; with `cross_ratio` 0, data
    only. `k` 4 control points a side, `strength` 0.5 (about a quarter of a pixel on average), rate 10 %, `cross_ratio` 2
    noise-warped rows, labels kept, per poisoned row of a batch (their noise is drawn anew every time): paper. The figure
    `cross` is the accuracy on noise-warped test images.

    Differs from the paper: the poisoned rows are the same in every epoch, not the first tenth of each batch, so that it is
    known which they are; augmentation is the trainer's (there: shift, turn of up to 10 degrees, flip). To tell the warps apart
    takes steps (1000 epochs there): on digits, one run, seed 10, success was 12 % after 12 epochs and 92 % after 40 (cross 85
    and 99 %); without cross rows 96 % after 12 (cross 12 %).
    """

    modalities = frozenset({"image"})
    controls = frozenset({"data", "training"})  # of the class; an instance without cross rows needs the data alone
    k: Positive = 4
    strength: PositiveFloat = 0.5
    cross_ratio: NonNegativeFloat = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.cross_ratio:
            object.__setattr__(self, "controls", frozenset({"data"}))

    def make_trigger(self, train: Dataset, ctx: Context) -> NoisyWarp:
        height, width = train.inputs.shape[2:]
        return NoisyWarp(state={"grid": warp_grid(self.k, self.strength, height, width, ctx.rng("field"))})

    def make_hook(self, trigger: Trigger, train: Dataset, index: Tensor, ctx: Context) -> TrainHook | None:
        return Crossed(trigger, index, len(train), self.cross_ratio, ctx.key("cross")) if self.cross_ratio else None
