"""ANP."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ostiary.component import Positive, PositiveFloat, Rate
from ostiary.console import progress
from ostiary.context import Context
from ostiary.data.dataset import Dataset
from ostiary.errors import refusal
from ostiary.evidence import Evidence
from ostiary.modality.base import Inputs
from ostiary.models.edit import Neurons
from ostiary.models.victim import Victim, evaluating, passing_norms, without_gradients
from ostiary.purifiers.base import Purifier
from ostiary.purifiers.holdout import Choice, deepest, hold_out
from ostiary.training.draws import draws


class ANP(Choice, Purifier, name="anp"):
    """Prunes the neurons that go wrong first when weights are perturbed against the clean samples.

    Source: Wu & Wang, Adversarial neuron pruning, NeurIPS 2021, arXiv:2110.14430. The defender holds the model and a few clean
    samples. Each neuron has a mask m in [0, 1]; SGD (`lr` 0.2, momentum 0.9) lowers `alpha` * CE(m w) + (1 - `alpha`) * CE((m
    + d) w, (1 + x) b), where |d|, |x| <= `eps` start at random and take `inner` sign steps up the loss. Neurons with a mask up
    to `threshold` lose their weight. `eps` 0.4, `alpha` 0.2, `inner` 1, `batch_size` 128: paper; preset `paper`: 2000 steps,
    threshold 0.2. `steps` 500 pass over a small sample as often as 2000 over the paper's 500 images. `threshold`: where not
    set, the largest of 0, 0.05, ..., 0.9 before accuracy on a part of the sample held out has fallen by more than `tolerance`
    (absolute; ours).
    `statistics` of BatchNorm meanwhile: auto takes each batch's own on images, as the authors' code does (by the running ones
    perturbed layers add up until no mask is right: digits, seeds 10 and 11), and the running ones on graphs, which leave as
    little there (AIDS, seed 10). Differs: d, x stay within `eps` (the authors' code lets a step leave it). Neurons are
    BatchNorm's channels, as there; without BatchNorm, outputs of layers before the head.
    """

    revision = 1
    added = frozenset({"statistics"})
    modalities = frozenset({"graph", "image", "node"})
    presets = {"paper": {"steps": 2000, "threshold": 0.2}}
    eps: PositiveFloat = 0.4
    alpha: Rate = 0.2
    inner: Positive = 1
    lr: PositiveFloat = 0.2
    steps: Positive = 500
    batch_size: Positive = 128
    statistics: Literal["auto", "batch", "running"] = "auto"
    threshold: Rate | None = None
    tolerance: Rate = 0.05

    def refuse(self, evidence: Evidence) -> str:
        lack = refusal(Neurons.of, evidence.victim)
        return lack or self.at_odds("threshold", self.threshold)

    def cleanse(self, evidence: Evidence, ctx: Context) -> Victim:
        neurons, tune, check = Neurons.of(evidence.victim.clone()), evidence.clean, evidence.clean
        if self.threshold is None and evidence.oracle is None:  # else it may learn on all there is
            tune, check = hold_out(evidence.clean, ctx.key("hold out"))
        masks = self.learn(neurons, tune, ctx)
        levels, most = ([i / 20 for i in range(19)], self.tolerance) if self.threshold is None else ([self.threshold], 1.0)

        def pruned(level: float) -> Victim:
            return neurons.put((masks > level).to(masks.dtype))

        threshold, notes = deepest([-1.0, *levels], pruned, check, most, evidence.oracle)
        found = pruned(threshold)
        found.notes |= {"pruned": int((masks <= threshold).sum()), "of": len(masks), "threshold": threshold, **notes}
        return found

    def learn(self, neurons: Neurons, data: Dataset, ctx: Context) -> Tensor:
        """The masks: float [neurons]."""
        victim, device, rng = neurons.victim, neurons.victim.device, ctx.rng("noise")
        masks = torch.ones(len(neurons), device=device, requires_grad=True)
        optimizer = torch.optim.SGD([masks], self.lr, momentum=0.9)
        own = self.statistics == "running" or (self.statistics == "auto" and victim.modality.name != "image")
        with evaluating(victim) if own else passing_norms(victim), without_gradients(victim):
            for step, (batch, y) in enumerate(draws(data, self.batch_size, self.steps, device, ctx.rng("order"))):
                start = self.eps * (2 * torch.rand(2, len(masks), generator=rng) - 1)
                noise = self.ascend(neurons, masks.detach(), batch, y, start.to(device))
                optimizer.zero_grad()
                loss = (1 - self.alpha) * F.cross_entropy(neurons.logits(batch, masks + noise[0], 1 + noise[1]), y)
                (loss + self.alpha * F.cross_entropy(neurons.logits(batch, masks), y)).backward()
                optimizer.step()
                masks.data.clamp_(0, 1)
                progress("anp: masks", (step + 1) / self.steps)
        return masks.detach()

    def ascend(self, neurons: Neurons, masks: Tensor, batch: Inputs, y: Tensor, noise: Tensor) -> Tensor:
        """Perturbations [2, neurons] of weights and biases that raise the loss."""
        for _ in range(self.inner):
            noise = noise.detach().requires_grad_()
            (slope,) = torch.autograd.grad(F.cross_entropy(neurons.logits(batch, masks + noise[0], 1 + noise[1]), y), noise)
            noise = (noise + self.eps / self.inner * slope.sign()).clamp(-self.eps, self.eps)
        return noise.detach()
