"""D-ST."""

from __future__ import annotations

import math

import torch

from ostiary.component import NonNegative, Positive, PositiveFloat, Rate
from ostiary.context import Context
from ostiary.data.dataset import Dataset
from ostiary.evidence import Evidence
from ostiary.models.victim import Victim, without_gradients
from ostiary.purifiers.splitting import Splitting
from ostiary.training.ascent import Unlearn
from ostiary.training.budget import at_least
from ostiary.training.contrastive import Contrast
from ostiary.training.trainer import Trainer


class DST(Splitting, name="d-st"):
    """Trains features of its own without the labels of suspects, then a linear layer on the samples taken for clean.

    Source: Chen, Wu & Wang, Effective backdoor defense by exploiting sensitivity of poisoned samples, NeurIPS 2022
    (distinguishment and secure training). The defender holds the poisoned training set and trains on it; no clean data.
    (1) The split: `detector`, shares `clean` 0.2 and `poisoned` 0.05 (paper). (2) Contrastive training for `epochs` and at
    least `steps` updates in batches of `batch_size` at `temperature` 0.1: of each sample two views (random crops, flips and
    colours of images; other inputs varied twice) attract each other, samples taken for clean also those of their label.
    (3) The last layer alone for `head_epochs` on CE(clean) - `weight` CE(poisoned), `weight` 0.001: paper.
    `lr`, `head_lr`: where set, SGD with momentum 0.9 at that rate, otherwise the plan's optimiser at its rate for (2) and
    Adam at 0.01 in the plan's batches for (3). Preset paper: 200 epochs, batches of 512, rates 0.5 and 5, 10 epochs of (3);
    the defaults suit a CPU (ours).
    Differs from the paper: `by_class` takes the clean share of each label; the rate of (2) warms up over 30 % of training
    instead of 5 %; the poisoned part's CE is raised up to `ceiling` times that of a guess, ln K. From its code: suspects that
    share a label do not attract clean samples.
    """

    presets = {"paper": {"epochs": 200, "steps": 0, "batch_size": 512, "lr": 0.5, "head_lr": 5.0, "head_epochs": 10}}
    epochs: Positive = 40
    steps: NonNegative = 400
    batch_size: Positive = 256
    temperature: PositiveFloat = 0.1
    lr: PositiveFloat | None = None
    head_epochs: Positive = 40
    head_lr: PositiveFloat | None = None
    weight: Rate = 0.001
    ceiling: PositiveFloat = 2.0

    def cleanse(self, evidence: Evidence, ctx: Context) -> Victim:
        train, parts, victim = evidence.train, self.divide(evidence, ctx), ctx.fresh(evidence.train)
        trusted = torch.zeros(len(train), dtype=torch.bool)
        trusted[parts.clean] = True
        own = sgd(ctx.trainer, self.lr, 1e-4) if self.lr else ctx.trainer
        epochs = at_least(self.epochs, self.steps, len(train), self.batch_size)
        own = own.replace(epochs=epochs, batch_size=self.batch_size, schedule="one-cycle", augment="none")
        hook = Contrast(trusted, self.temperature, ctx.key("projection"), ctx.rng("views"))
        own.fit(victim, train, ctx.key("contrast"), [hook], what="d-st: features")
        self.judge(victim, train.take(parts.clean), train.take(parts.poisoned), ctx)
        victim.notes |= {"split": parts.facts(train)}
        return victim

    def judge(self, victim: Victim, clean: Dataset, poisoned: Dataset, ctx: Context) -> None:
        """Trains the last layer alone, in place."""
        own = ctx.trainer.replace(optimizer="adam", lr=0.01, weight_decay=0.0)
        if self.head_lr:
            own = sgd(own, self.head_lr, 0.0).replace(batch_size=self.batch_size)
        own = own.replace(epochs=self.head_epochs, schedule="cosine", freeze_norms=True)
        hooks = []
        if len(poisoned):
            ceiling = self.ceiling * math.log(clean.n_classes)
            hooks = [Unlearn(poisoned, ceiling, own.batch_size, ctx.rng("poisoned"), self.weight)]
        with without_gradients(victim.module):
            for p in victim.module.get_submodule(victim.head).parameters():
                p.requires_grad_(True)
            own.fit(victim, clean, ctx.key("head"), hooks, what="d-st: last layer")


def sgd(trainer: Trainer, lr: float, weight_decay: float) -> Trainer:
    return trainer.replace(optimizer="sgd", lr=lr, momentum=0.9, weight_decay=weight_decay)
