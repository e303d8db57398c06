"""TSBD."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, Literal

from ostiary.component import NonNegative, Positive, PositiveFloat, Rate
from ostiary.context import Context
from ostiary.data.dataset import Dataset
from ostiary.errors import refusal
from ostiary.evidence import Evidence
from ostiary.models.edit import Neurons
from ostiary.models.victim import Victim
from ostiary.purifiers.base import Budget, FineTuning, Purifier
from ostiary.purifiers.gradients import Calm
from ostiary.purifiers.holdout import Choice, accuracy, deepest, halved, hold_out
from ostiary.purifiers.weight_change import changes, unlearnt, zeroed

Make = Callable[[float], Victim]
PAPER = {"ascent_lr": 1e-4, "ascent_epochs": 1000, "batch_size": 256, "batches": 0, "optimizer": "sgd", "steps": 0}
LEVELS = (0.01, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5)


class TSBD(Choice, FineTuning, Budget, Purifier, name="tsbd"):
    """Zeroes the weights that move most when clean samples are unlearnt, then fine-tunes with calm gradients.

    Source: Lin et al., Unveiling and mitigating backdoor vulnerabilities based on unlearning weight changes and backdoor
    activeness, NeurIPS 2024, arXiv:2405.20291. The defender holds the model and a few clean samples. (1) A copy climbs their
    loss (SGD at `ascent_lr`, at most `ascent_epochs`) until it gets no more than max(1 / classes, 10 %) right. (2) Of the share
    `neurons` of filters that moved most (on graphs: rows of linear layers before the head; `layers: bn`, as in the authors'
    code: channels of BatchNorm, each one weight, biases left), the share `weights` of the weights that moved most become zero.
    (3) Fine-tuning by (1 - `mix`) g(w) + `mix` g(w + `reach` g / |g|), tensor by tensor. `weights` 0.7, `reach` 0.05, `mix`
    0.7, 200 `steps` (20 epochs of the paper's sample): authors' code; its `ascent_lr` 1e-4 takes ten times the steps. Layers
    with one of `skip` in their name are left alone, as there. Where `neurons` is not set: the smallest share that halves the
    clean accuracy, or 0.5 (where no model gets fewer than half right, as of two classes of one size; AIDS, seed 10, four
    backdoors: 0.5 left none, smaller shares 10 % or more in 6 of 20), halved, at most twice, while the accuracy after (3) on a
    part of the sample held out is more than `tolerance` lower than before; then all anew on the whole sample (CIFAR-10, seeds
    10 to 13: 4.5 points of accuracy lost, 6.5 without). Differs from the code: Nesterov momentum; random order; accuracy
    measured after epochs; climbs on plain images; with `steps`, (3) slows by a cosine; Adam on graphs.
    """

    modalities = frozenset({"graph", "image"})
    presets = {"paper": PAPER}
    added = FineTuning.added | {"layers"}
    neurons: Rate | None = None
    steps: NonNegative = 200
    weights: Rate = 0.7
    layers: Literal["conv", "bn"] = "conv"
    ascent_lr: PositiveFloat = 1e-3
    ascent_epochs: Positive = 100
    reach: PositiveFloat = 0.05
    mix: Rate = 0.7
    tolerance: Rate = 0.1
    skip: tuple[str, ...] = ("shortcut", "downsample")

    def refuse(self, evidence: Evidence) -> str:
        lack = refusal(Neurons.filters, evidence.victim, self.skip, self.layers == "bn")
        instead = "; take layers=conv" if lack and self.layers == "bn" else ""
        return f"{lack}{instead}" or self.at_odds("share of neurons", self.neurons)

    def cleanse(self, evidence: Evidence, ctx: Context) -> Victim:
        whole, notes = Attempt(self, evidence.victim, evidence.clean, ctx), dict[str, Any]()
        if self.neurons is not None:
            share = self.neurons
        elif evidence.oracle is not None:
            share, notes = deepest(LEVELS, whole.tuned, whole.data, 1.0, evidence.oracle)
        else:
            tune, check = hold_out(whole.data, ctx.key("hold out"))
            share, notes = self.choose(whole if tune is whole.data else Attempt(self, whole.victim, tune, ctx), check)
        found = whole.tuned(share)
        found.notes |= notes | {"neurons": share, "of": len(whole.filters), "ascent steps": whole.steps}
        return found

    def choose(self, trial: Attempt, check: Dataset) -> tuple[float, dict[str, Any]]:
        half, before = accuracy(trial.victim, trial.data) / 2, accuracy(trial.victim, check)
        share = next((s for s in LEVELS if accuracy(trial.without(s), trial.data) <= half), LEVELS[-1])
        share, after = halved(share, trial.tuned, check, before - self.tolerance)
        return share, {"checked on": len(check), "accuracy there before": before, "accuracy there after a trial": after}


class Attempt:
    """Steps (1) to (3) on these clean samples, for any share of neurons."""

    def __init__(self, how: TSBD, victim: Victim, data: Dataset, ctx: Context) -> None:
        self.how, self.victim, self.data, self.ctx = how, victim, data, ctx
        self.filters = Neurons.filters(victim, how.skip, how.layers == "bn")
        trainer = how.trainer(ctx, data, how.passes(data))
        self.trainer = trainer if how.steps else trainer.replace(schedule="constant")  # the authors' budget, and their rate
        up = trainer.replace(optimizer="sgd", lr=how.ascent_lr, epochs=how.ascent_epochs, augment="none", schedule="constant")
        climbed, self.steps = unlearnt(victim, data, up, ctx.key("ascent"))
        self.moved = changes(self.filters, climbed)
        self.without: Make = lambda share: zeroed(self.filters, self.moved, share, how.weights)
        self.tuned: Make = cache(self.tune)

    def tune(self, share: float) -> Victim:
        hooks, key = [Calm(self.how.reach, self.how.mix)], self.ctx.key("order")
        return self.trainer.fit(self.without(share), self.data, key, hooks, what="tsbd: fine-tuning")
