"""STRIP."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ostiary.component import Positive, Rate
from ostiary.context import Context
from ostiary.data.dataset import Dataset
from ostiary.detectors.base import Findings, InputDetector
from ostiary.evidence import Evidence
from ostiary.modality.base import Inputs
from ostiary.models.victim import Victim

AT_ONCE = 2048  # superposed inputs per call


class Strip(InputDetector, name="strip"):
    """Lays clean samples over an input: where the prediction does not move, a trigger holds it.

    Source: Gao et al., STRIP, ACSAC 2019, arXiv:1902.06531. The defender holds the model and a few clean samples. Each input
    is superposed with the same `overlays` (paper: 100, or all there are) clean samples by the modality's rule: images are
    added and cut at white (the authors' code; `mean`: averaged), graphs stand side by side in one (ours). Score: less the
    mean entropy, in nats, of what the model then says. Flagged is what lies under the `frr` quantile (paper: 1 %) of a normal
    distribution fitted to the clean samples' own entropies, each without itself among the overlays; where that lies below 0,
    where no entropy does (models that are sure of most superpositions), under the same quantile of these entropies (ours).

    Fails by design where a trigger does not survive the overlay, or differs from input to input.
    """

    modalities = frozenset({"graph", "image"})
    needs = frozenset({"victim", "clean"})
    measure = "negative mean entropy, nats"
    overlays: Positive = 100
    frr: Rate = 0.01
    mean: bool = False
    added = frozenset({"mean"})

    def refuse(self, evidence: Evidence) -> str:
        if self.mean and evidence.modality_name != "image":
            return "only images have a mean; leave mean out"
        n = len(evidence.clean)
        return "" if n >= 3 else f"entropies of {n} clean sample{'s' * (n > 1)} have no spread; give at least 3"

    def examine(self, evidence: Evidence, ctx: Context) -> Findings:
        victim, clean = evidence.victim, evidence.clean
        chosen = torch.randperm(len(clean), generator=ctx.rng("overlays"))[: self.overlays]
        overlays = clean.take(chosen).inputs
        data: Dataset = self.suspects(evidence)
        entropies = entropy(victim, data.inputs, overlays, self.mean).mean(1)
        own = entropy(victim, clean.inputs, overlays, self.mean)
        others = (torch.arange(len(clean))[:, None] != chosen).to(own.dtype)  # a sample on top of itself says nothing
        known = (own * others).sum(1) / others.sum(1).clamp(min=1)
        normal = torch.distributions.Normal(known.mean(), known.std().clamp(min=1e-9))
        threshold = float(normal.icdf(torch.tensor(min(max(self.frr, 1e-9), 1 - 1e-9), dtype=known.dtype)))
        if threshold <= 0:
            threshold = float(known.quantile(min(max(self.frr, 0.0), 1.0)))
        info = {"entropy of clean samples": float(known.mean()), "threshold": threshold, "overlays": len(chosen)}
        return Findings(-entropies, entropies < threshold, info=info)


def entropy(victim: Victim, inputs: Inputs, overlays: Inputs, mean: bool = False) -> Tensor:
    """Entropy, in nats, of the victim's answer to every input under every overlay: float64 [inputs, overlays]."""
    modality, found = victim.modality, []
    n, m = modality.count(inputs), modality.count(overlays)
    for rows in torch.arange(n).split(max(1, AT_ONCE // m)):
        below = modality.take(inputs, rows.repeat_interleave(m))
        above = modality.take(overlays, torch.arange(m).repeat(len(rows)))
        chances = victim.predict(modality.superpose(below, above, mean)).double().log_softmax(1)
        found.append(-(chances.exp() * chances).sum(1).view(len(rows), m))
    return torch.cat(found).clamp(0, math.log(max(2, chances.shape[1])))
