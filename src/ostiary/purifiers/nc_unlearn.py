"""Unlearning of the patches that Neural Cleanse finds."""

from __future__ import annotations

from dataclasses import replace

import torch

from ostiary.component import Positive, Rate
from ostiary.context import Context
from ostiary.detectors.neural_cleanse import NeuralCleanse
from ostiary.evidence import Evidence
from ostiary.models.victim import Victim
from ostiary.purifiers.base import FineTuning, Purifier
from ostiary.training.hooks import TrainHook
from ostiary.training.trainer import TrainState


class NCUnlearn(FineTuning, Purifier, name="nc-unlearn"):
    """Fine-tunes on clean images, part of which carry the recovered patch of a flagged class with their true labels.

    Source: Wang et al., Neural Cleanse, S&P 2019, section VI. The defender holds the model and a few clean images. A share
    `stamped` of each batch (paper: 20 % of the sample) gets the patch of a flagged class, drawn anew in each epoch. `epochs`
    20 over a small sample take as many steps as the paper's one over a tenth of the training set. `scan`: how patches are
    found and flagged. With no class flagged the model is left as it is.
    """

    modalities = frozenset({"image"})
    scan: NeuralCleanse = NeuralCleanse()
    stamped: Rate = 0.2
    epochs: Positive = 20

    def refuse(self, evidence: Evidence) -> str:
        return self.scan.refuse(evidence)

    def cleanse(self, evidence: Evidence, ctx: Context) -> Victim:
        victim, clean = evidence.victim.clone(), evidence.clean
        patches = self.scan.recover(victim, clean, ctx)
        index, flagged = self.scan.judge(patches)
        goals = flagged.nonzero().flatten()
        if len(goals):
            patches = replace(patches, masks=patches.masks.cpu(), patterns=patches.patterns.cpu())
            hook = Stamping(patches.masks[goals], patches.patterns[goals], self.stamped, ctx.rng("stamped"))
            trainer = self.trainer(ctx, clean, self.epochs)
            # patches stay where they are; a rate that falls leaves more of them
            trainer = trainer.replace(augment="none", schedule="constant")
            trainer.fit(victim, clean, ctx.key("order"), [hook], what="nc-unlearn: fine-tuning")
        victim.trial = lambda data, goal: patches.stamp(data.inputs, goal)
        victim.notes["unlearned"] = [clean.classes[int(g)] for g in goals]
        victim.notes["no patch found"] = [clean.classes[int(g)] for g in patches.norms.isinf().nonzero()]
        victim.notes["anomaly index"] = dict(zip(clean.classes, index.tolist(), strict=True))
        return victim


class Stamping(TrainHook):
    """Puts one of several patches on a share of every batch; labels stay."""

    def __init__(self, masks: torch.Tensor, patterns: torch.Tensor, share: float, rng: torch.Generator) -> None:
        self.masks, self.patterns, self.share, self.rng = masks, patterns, share, rng

    def on_batch(
        self, state: TrainState, batch: torch.Tensor, y: torch.Tensor, rows: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        which = torch.randint(len(self.masks), (len(batch),), generator=self.rng)
        chosen = (torch.rand(len(batch), generator=self.rng) < self.share)[:, None, None, None]
        mask = self.masks[which] * chosen
        return (1 - mask) * batch + mask * self.patterns[which], y
