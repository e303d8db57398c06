"""I-BAU."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from ostiary.component import NonNegative, Positive, PositiveFloat, Rate
from ostiary.context import Context
from ostiary.data.dataset import Dataset
from ostiary.evidence import Evidence
from ostiary.modality.base import Inputs
from ostiary.models.edit import times
from ostiary.models.victim import Victim, evaluating, without_gradients
from ostiary.perturbation import owners
from ostiary.purifiers.adversary import Unlearner
from ostiary.purifiers.base import Purifier
from ostiary.purifiers.gradients import hypergradient
from ostiary.training.draws import draws, one_pass
from ostiary.training.hooks import TrainHook
from ostiary.training.trainer import TrainState

PAPER = {"epochs": 5, "batch_size": 100, "freeze_norms": True, "share": 0.01, "ascent_steps": 0}


class IBAU(Unlearner, Purifier, name="i-bau"):
    """Unlearns one perturbation of all inputs, by a gradient that knows how the worst perturbation answers the weights.

    Source: Zeng et al., Adversarial unlearning of backdoors via implicit hypergradient, ICLR 2022, arXiv:2110.03735. The
    defender holds the model and a few clean samples. Each round (epoch): from none, a perturbation d takes `ascent_steps` SGD
    steps (0: one pass) at `ascent_lr` down -CE(f(x + d), f's label of x) + `penalty` |d|^2; then each batch makes one Adam
    step on its CE, d added to the share `share` of it, by the implicit hypergradient: `fixed_point` iterations of the map d -
    `map_step` (slope of the former loss on the round's first batch). 10, 0.001, 5, 0.1 and lr 1e-3: authors' code. Its 5
    rounds, batches of 100, one pass and share 0.01 (preset) do little with tens of samples; 10, 64, 20 steps and 0.5 are
    ours, from toy images; preset auto (ours): 0.1 and frozen statistics. d is in units of the inputs, there and here.
    Differs: inputs are kept in range; on images BatchNorm statistics follow (frozen in the presets), a rate at which the
    model collapses is lowered. On graphs all nodes get the same.
    """

    modalities = frozenset({"graph", "image"})
    presets = {"paper": PAPER, "auto": {"freeze_norms": True, "share": 0.1}}
    epochs: Positive = 10
    share: Rate = 0.5
    ascent_steps: NonNegative = 20
    ascent_lr: PositiveFloat = 10.0
    penalty: PositiveFloat = 0.001
    fixed_point: NonNegative = 5
    map_step: PositiveFloat = 0.1

    def cleanse(self, evidence: Evidence, ctx: Context) -> Victim:
        hook = Minimax(self, evidence.clean, ctx.rng("perturbation"))
        return self.trained(evidence.victim, evidence.clean, hook, ctx, self.trainer(ctx, evidence.clean).freeze_norms)


class Minimax(TrainHook):
    """A perturbation anew each epoch, and steps by its hypergradient."""

    def __init__(self, how: IBAU, data: Dataset, rng: torch.Generator) -> None:
        self.how, self.data, self.rng = how, data, rng

    def on_epoch(self, state: TrainState) -> None:
        victim, how = state.victim, self.how
        size, device, steps = how.batch_size, victim.device, how.ascent_steps
        found = draws(self.data, size, steps, device, self.rng) if steps else one_pass(self.data, size, device, self.rng)
        batches = list(found)
        self.first, self.by = batches[0][0], self.data.modality.unperturbed(batches[0][0], shared=True)
        with without_gradients(victim):
            for batch, _ in batches:
                by = self.by.requires_grad_()
                (slope,) = torch.autograd.grad(self.inner(victim, batch, by), by)
                self.by = (by - how.ascent_lr * slope).detach()

    def inner(self, victim: Victim, batch: Inputs, by: Tensor) -> Tensor:
        """What the perturbation lowers."""
        with torch.no_grad(), evaluating(victim):
            said = victim(batch).argmax(1)
        with evaluating(victim):
            found = victim(victim.modality.perturb(batch, by)).float()
        return self.how.penalty * by.square().sum() - F.cross_entropy(found, said)

    def loss(self, state: TrainState, batch: Inputs, y: Tensor, rows: Tensor) -> Tensor:
        victim, how = state.victim, self.how
        marked = torch.zeros(len(y), device=y.device)
        marked[torch.randperm(len(y), generator=self.rng)[: max(1, round(how.share * len(y)))]] = 1.0

        def outer(by: Tensor) -> Tensor:
            every = by.expand_as(victim.modality.unperturbed(batch))
            some = times(every, marked[owners(batch, every, len(y))])
            return F.cross_entropy(victim(victim.modality.perturb(batch, some)).float(), y)

        inner, parameters = partial(self.inner, victim, self.first), [p for p in victim.parameters() if p.requires_grad]
        return hypergradient(inner, outer, self.by, parameters, how.fixed_point, how.map_step)
