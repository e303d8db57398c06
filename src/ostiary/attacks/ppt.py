"""PPT: poisoning with positive triggers."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
import torch

from ostiary.attacks.base import PoisoningAttack
from ostiary.attacks.labels import LabelRule, MultiTarget
from ostiary.component import Positive, PositiveFloat, Rate
from ostiary.context import Context
from ostiary.data.dataset import Dataset
from ostiary.triggers.own_model import carried
from ostiary.triggers.positive import PositiveTrigger

Share = Annotated[float, msgspec.Meta(gt=0.0, le=1.0)]


class PPT(PoisoningAttack, name="ppt"):
    """Perturbs each image towards the wanted class of a clean surrogate, so that any class can be had from any image.

    Source: Huang, Li, Liu & Wong, Poisoning-based Backdoor Attacks for Arbitrary Target Label with Positive Triggers, 2024.
    The adversary controls training data only and trains a model of the clean set (`surrogate`: another architecture than the
    victim's; `surrogate_data`: the share of the set they hold, all in the paper). Targeted projected gradient descent on it
    makes the triggers, in training and in use. `labels`: multi-target (dirty), or clean-multi-target (preset clean-label);
    all-to-one with `target` gives the paper's comparison of trigger types. `sign`: positive, or negative, which leads away
    from the wanted class (paper's ablation; its neutral triggers are those of BadNets), or neutral: random signs of the same
    size (ours), which tell what a classifier learns from noise alone. Rate 1 %, clean-label 10 %; `eps` 0.05 (L-infinity,
    pixels; 8 bits make it 13 levels, 0.051); 10 `steps`: paper (PGD-10). `step`: None means 2.5 `eps` / `steps`, a common
    choice; the paper prints none. No random start.

    Differs from the paper: images of a class are led to the other classes in turn, not at random; poisoned images are
    rounded to 8 bits; Algorithm 1 prints a plus for the step, which contradicts its Eq. 3 and its results. Judge its
    success beside the natural rate, that of the same triggers on a clean model: adversarial examples transfer.
    """

    modalities = frozenset({"image"})
    presets = {"clean-label": {"labels": "clean-multi-target", "rate": 0.1}}
    rate: Rate = 0.01
    labels: LabelRule = MultiTarget()
    eps: PositiveFloat = 0.05
    steps: Positive = 10
    step: PositiveFloat | None = None
    sign: Literal["positive", "negative", "neutral"] = "positive"
    surrogate_data: Share = 1.0

    def make_trigger(self, train: Dataset, ctx: Context) -> PositiveTrigger:
        taken = carried(self.attacker(ctx), self.held(train, ctx), there=True)
        return PositiveTrigger(eps=self.eps, steps=self.steps, step=self.step, sign=self.sign, **taken)

    def held(self, train: Dataset, ctx: Context) -> Dataset:
        """What the attacker has of the training set."""
        n = max(1, round(self.surrogate_data * len(train)))
        if n == len(train):
            return train
        return train.take(torch.randperm(len(train), generator=ctx.rng("surrogate data"))[:n].sort()[0])
