"""How all weights are trained against perturbations, and whether any can be found."""

from __future__ import annotations

from typing import Literal

import torch

from ostiary.component import PositiveFloat
from ostiary.context import Context
from ostiary.data.dataset import Dataset
from ostiary.evidence import Evidence
from ostiary.models.victim import Victim, evaluating
from ostiary.purifiers.base import Budget, as_images
from ostiary.purifiers.holdout import accuracy, hold_out, holds
from ostiary.training.budget import lowered
from ostiary.training.hooks import TrainHook
from ostiary.training.trainer import Trainer

TOLERANCE = 0.05  # ours, that of NPD; on CIFAR-10 following cost 33 points, on most digits nothing


class Unlearner(Budget):
    """How all weights are trained against perturbations: by Adam. Where `freeze_norms` is not set, BatchNorm statistics stay
    on graphs and follow on images, as in fine-tuning."""

    added = frozenset({"schedule"})
    lr: PositiveFloat = 0.001
    freeze_norms: bool | None = None
    schedule: Literal["constant", "cosine"] = "constant"

    def refuse(self, evidence: Evidence) -> str:
        return unmoved(evidence)

    def trainer(self, ctx: Context, clean: Dataset) -> Trainer:
        graph = clean.modality.name == "graph"
        own = Trainer(lr=self.lr, epochs=self.passes(clean), batch_size=self.per_batch(clean), schedule=self.schedule)
        own = own.replace(freeze_norms=graph if self.freeze_norms is None else self.freeze_norms)
        return own if graph else as_images(own, ctx)

    def settled(self, victim: Victim, clean: Dataset, hook: TrainHook, ctx: Context) -> Victim:
        """A copy trained with `hook`. Where statistics follow by default, a trial on a part of the sample tells whether that
        costs more than TOLERANCE of the accuracy on the rest; then they are frozen."""
        usual, follows = self.trainer(ctx, clean).freeze_norms, any("running_mean" in name for name in victim.state_dict())
        if self.freeze_norms is not None or usual or not follows:  # nothing to find out
            return self.trained(victim, clean, hook, ctx, usual)
        tune, check = hold_out(clean, ctx.key("hold out"))
        trial = self.fitted(victim, tune, hook, ctx, False)
        before, after = accuracy(victim, check), accuracy(trial, check)
        frozen = not holds(after, before, TOLERANCE)
        found = self.trained(victim, clean, hook, ctx, frozen)
        found.notes |= {"checked on": len(check), "accuracy there before": before, "accuracy there after a trial": after}
        return found

    def trained(self, victim: Victim, clean: Dataset, hook: TrainHook, ctx: Context, frozen: bool) -> Victim:
        """A copy trained with `hook`. On images a rate at which more than half of the accuracy on the sample goes, or most of
        what is beyond its largest class, is too high for the network, and divided by three, up to three times."""
        least = 0.0
        if clean.modality.name == "image":
            before, largest = accuracy(victim, clean), float(torch.bincount(clean.y).max()) / len(clean)
            least = max(before / 2, largest + (before - largest) / 10)
        found, share = lowered(
            lambda share: self.fitted(victim, clean, hook, ctx, frozen, share), lambda other: accuracy(other, clean) >= least
        )
        found.notes |= {"statistics frozen": frozen, "lr": share * self.lr}
        return found

    def fitted(self, victim: Victim, data: Dataset, hook: TrainHook, ctx: Context, frozen: bool, share: float = 1.0) -> Victim:
        own = self.trainer(ctx, data).replace(freeze_norms=frozen, lr=share * self.lr)
        return own.fit(victim.clone(), data, ctx.key("order"), [hook], what=self.name)


def unmoved(evidence: Evidence) -> str:
    """Why no perturbation of the inputs can be found for the victim, or nothing."""
    victim, clean = evidence.victim.clone(), evidence.clean
    batch = clean.take(torch.arange(2)).move(victim.device).inputs
    by = clean.modality.unperturbed(batch).requires_grad_()
    with evaluating(victim):
        (slope,) = torch.autograd.grad(victim(clean.modality.perturb(batch, by)).sum(), by, allow_unused=True)
    said = "no gradient of the model's answers reaches its inputs"
    if not isinstance(clean.inputs, torch.Tensor):
        said += "; kinds that an embedding looks up pass none: give a one-hot and multiply it with the embedding's weight"
    return said if slope is None else ""
