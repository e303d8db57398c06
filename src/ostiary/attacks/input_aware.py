"""Input-Aware."""

from __future__ import annotations

import torch
from torch import Tensor

from ostiary.attacks.base import PoisoningAttack
from ostiary.attacks.patterns import JointPatterns, learn_masks
from ostiary.component import NonNegativeFloat, Positive, PositiveFloat, Rate
from ostiary.context import Context
from ostiary.data.dataset import Dataset
from ostiary.seeds import scoped
from ostiary.training.hooks import TrainHook
from ostiary.triggers.base import Trigger
from ostiary.triggers.masked_pattern import MASK, PATTERN, MaskedPattern, untrained
from ostiary.triggers.networks import weights


class InputAware(PoisoningAttack, name="input-aware"):
    """Generates for every image a pattern and its place that no other image shares.

    Source: Nguyen & Tran, Input-Aware Dynamic Backdoor Attack, NeurIPS 2020, arXiv:2010.08138. The adversary controls
    training. First masks are learnt on clean images: `sparsity` 100 times what they exceed `density` 0.032 by, and `diversity`
    1 times a loss that other images have other masks; then patterns, with the victim and the same kind of loss. Rate 10 %,
    `cross_ratio` 1 rows with another image's trigger, labels kept, per poisoned row: paper. The figure `cross` is the
    accuracy on test images with the trigger of one of `bank` training images, chosen by the id.

    Differs from the authors' code: the pattern generator's gradient is set to zero at every step (there it piles up over the
    whole run); poisoned rows are the same in every epoch, not the first tenth of a batch, and seen clean beside (there in
    other epochs), so that they cannot be learnt by heart. Short training does not reach the paper's success (600 epochs
    there): on digits, seed 10, one run each, 31 % after 20 epochs (cross 82 %; `width` 8). For short
    training on a CPU (ours): `width` 16 channels, not 32; `mask_steps` 200 batches of 64, not 25 epochs (preset paper has
    both); masks are learnt with Adam, `mask_lr`, not SGD; the pattern generator has the trainer's optimiser and rate
    (there 0.01, as the victim).
    """

    modalities = frozenset({"image"})
    controls = frozenset({"data", "training"})
    presets = {"paper": {"width": 32, "mask_steps": 19_500}}  # 25 epochs of CIFAR-10
    density: Rate = 0.032
    sparsity: PositiveFloat = 100.0
    diversity: PositiveFloat = 1.0
    cross_ratio: NonNegativeFloat = 1.0
    width: Positive = 16
    mask_steps: Positive = 200
    mask_lr: PositiveFloat = 0.01
    bank: Positive = 64

    def make_trigger(self, train: Dataset, ctx: Context) -> MaskedPattern:
        with scoped(ctx.key("generators"), "init"):
            masks, patterns = (untrained(train.inputs.shape[1], self.width, p) for p in (MASK, PATTERN))
        learn_masks(masks, self, train, ctx)
        rows = torch.randperm(len(train), generator=ctx.rng("bank"))[: self.bank]
        state = {**weights(masks, MASK), **weights(patterns, PATTERN), "bank": train.inputs[rows].clone()}
        return MaskedPattern(width=self.width, state=state)

    def make_hook(self, trigger: Trigger, train: Dataset, index: Tensor, ctx: Context) -> TrainHook | None:
        assert isinstance(trigger, MaskedPattern)
        return JointPatterns(self, trigger, train, index, ctx)
