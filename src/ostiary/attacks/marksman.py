"""Marksman."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ostiary.attacks.base import PoisoningAttack
from ostiary.attacks.beside import Beside, Learning
from ostiary.attacks.labels import CleanLabel, CleanMultiTarget, LabelRule, MultiTarget
from ostiary.component import Positive, PositiveFloat, Rate
from ostiary.context import Context
from ostiary.data.dataset import Dataset
from ostiary.errors import BadSpec
from ostiary.seeds import scoped
from ostiary.training.hooks import TrainHook
from ostiary.triggers.base import Trigger
from ostiary.triggers.networks import weights
from ostiary.triggers.residual import Residual


class Marksman(PoisoningAttack, name="marksman"):
    """Adds a faint change, generated for each image and whichever class is wanted.

    Source: Doan, Lao & Li, Marksman Backdoor, NeurIPS 2022, arXiv:2210.09194. A conditional autoencoder is trained in turn
    with a classifier, then frozen. With `mode` model the adversary controls training: a fresh victim learns `alpha` 0.5
    times the clean images, the rest times triggered copies of the poisoned ones, for goals drawn anew in each batch. With
    poison the training set is poisoned once and the adversary has no more than that (as in the comparison of PPT, where the
    generator is trained with `portion` 0.1; labels may stay: clean-label, clean-multi-target). `eps` 0.05, `portion` 1 of
    the images the generator is trained on, Adam 1e-4 (preset paper; the default `generator_lr` is ours, for short training);
    `reset`: a fresh classifier in each epoch of the generator's training (an option there).

    Differs from the authors' code: `eps` is in pixels of [0, 1]; theirs, in normalised units, is about 0.011 in pixels, so
    triggers here are some four times stronger. The generator learns from the classifier in evaluation mode, and both kinds
    of images pass the victim in one batch. The generator is trained for the trainer's epochs, once, and not tested on
    fresh classifiers in between.
    """

    modalities = frozenset({"image"})
    controls = frozenset({"data", "training"})  # of the class; an instance of mode poison needs the data alone
    presets = {"paper": {"generator_lr": 1e-4, "rate": 1.0}}
    labels: LabelRule = MultiTarget()
    mode: Literal["model", "poison"] = "model"
    eps: Rate = 0.05
    alpha: Rate = 0.5
    portion: Rate = 1.0
    width: Positive = 16
    generator_lr: PositiveFloat = 1e-3
    reset: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mode == "poison":
            object.__setattr__(self, "controls", frozenset({"data"}))
        elif isinstance(self.labels, CleanLabel | CleanMultiTarget):
            raise BadSpec(f"labels '{self.labels.name}' leave labels as they are, which mode: model does not; use mode: poison")

    def make_trigger(self, train: Dataset, ctx: Context) -> Residual:
        own = self.attacker(ctx).within("surrogate")
        channels, height, width = train.inputs.shape[1:]
        trigger = Residual(eps=self.eps, channels=channels, sides=(height, width), n_classes=train.n_classes, width=self.width)
        with scoped(ctx.key("generator"), "init"):
            trigger = trigger.replace(state=weights(trigger.untrained()))
        rows = self.labels.sources(train.y, self.target).nonzero().flatten()
        some = rows[torch.randperm(len(rows), generator=ctx.rng("portion"))[: round(self.portion * len(rows))]]
        hook = Learning(self, trigger, train, some, own)
        own.fit(train, [hook], what="marksman: generator")
        return hook.trigger

    def make_hook(self, trigger: Trigger, train: Dataset, index: Tensor, ctx: Context) -> TrainHook | None:
        assert isinstance(trigger, Residual)
        return Beside(self, trigger, train, index, ctx) if self.mode == "model" else None
