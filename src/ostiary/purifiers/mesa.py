"""MESA."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ostiary.component import NonNegative, Positive, Rate
from ostiary.context import Context
from ostiary.data.dataset import Dataset
from ostiary.detectors.patch_learning import PatchLearning
from ostiary.detectors.patch_search import Found
from ostiary.errors import InvalidInput
from ostiary.evidence import Evidence
from ostiary.models.victim import Victim
from ostiary.purifiers.base import FineTuning, Purifier
from ostiary.training.hooks import TrainHook
from ostiary.training.trainer import TrainState


class MESA(PatchLearning, FineTuning, Purifier, name="mesa"):
    """Learns the whole distribution of patches that lead to a class, and fine-tunes on samples of it with true labels.

    Source: Qiao, Yang & Li, Defending neural backdoors via generative distribution modeling, NeurIPS 2019, arXiv:1910.04749.
    The defender holds the model, a few clean images, and an idea of the patch. Patches of one class are learnt as told below.
    Then `epochs` in which a share `stamped` of each batch carries a patch of the generators, one generator after the other.
    `target`: where not set, the class whose generator (level 0.8, `scan_steps`) has the largest success, if it is at least
    `flag` (ours; the paper is given the class); else the model is left as it is. The detector of this name is that search.

    `steps`, `lr` and `stamped` are ours, for a small sample on a CPU; the preset `paper` has the authors' 1 %. Differs from the
    authors' code, which learns and tunes on test images, and pastes patches out of range.
    """

    revision = 1
    added = FineTuning.added | PatchLearning.added
    modalities = frozenset({"image"})
    presets = {
        "paper": {
            **{"lr_patches": 2e-4, "hidden": 512, "batch_size": 128, "batches": 0, "stamped": 0.01, "epochs": 10, "lr": 0.001},
            **{"steps": 3900, "position": "random"},
        }
    }
    target: NonNegative | None = None
    flag: Rate = 0.5
    steps: Positive = 200
    scan_steps: Positive = 100
    stamped: Rate = 0.2
    epochs: Positive = 20

    def refuse(self, evidence: Evidence) -> str:
        clean = evidence.clean
        if self.target is not None and self.target >= clean.n_classes:
            raise InvalidInput(f"target class {self.target} does not exist: the data have classes 0 to {clean.n_classes - 1}")
        return super().refuse(evidence)

    def cleanse(self, evidence: Evidence, ctx: Context) -> Victim:
        victim, clean = evidence.victim.clone(), evidence.clean
        target = self.target if self.target is not None else self.found(victim, clean, ctx.within("scan"))
        if target is not None:
            goals = torch.full((len(self.levels),), target)
            search = self.search(clean, self.steps, self.batch_size)
            found = search.of(victim, clean, goals, torch.tensor(self.levels), ctx.within("staircase"))
            best = int(found.success.argmax())
            victim.trial = lambda data, goal: found.stamp(data.inputs, best, ctx.rng("trial")) if goal == target else None
            victim.notes["success"] = dict(zip(map(str, self.levels), found.success.tolist(), strict=True))
            hook = Sampling(found, self.stamped, ctx.rng("sampled"))
            trainer = self.trainer(ctx, clean, self.epochs)
            # patches stay where they are; a rate that falls leaves more of them
            trainer = trainer.replace(augment="none", schedule="constant")
            trainer.fit(victim, clean, ctx.key("order"), [hook], what="mesa: fine-tuning")
        victim.notes["target"] = None if target is None else clean.classes[target]
        return victim

    def found(self, victim: Victim, clean: Dataset, ctx: Context) -> int | None:
        """The class to which patches lead best, if they do."""
        search = self.search(clean, self.scan_steps, max(8, self.batch_size // 2))
        success = search.by_class(victim, clean, [0.8], ctx).success
        victim.notes["success by class"] = dict(zip(clean.classes, success.tolist(), strict=True))
        return int(success.argmax()) if float(success.max()) >= self.flag else None


class Sampling(TrainHook):
    """Puts patches of the generators, one of them in each epoch, on a share of every batch; labels stay."""

    def __init__(self, found: Found, share: float, rng: torch.Generator) -> None:
        self.found, self.share, self.rng = replace(found, nets=found.nets.cpu()), share, rng

    def on_batch(self, state: TrainState, batch: Tensor, y: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        marked = self.found.stamp(batch, state.epoch % self.found.nets.count, self.rng)
        chosen = torch.rand(len(batch), generator=self.rng) < self.share
        return torch.where(chosen[:, None, None, None], marked, batch), y
