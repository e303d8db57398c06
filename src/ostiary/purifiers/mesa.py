"""MESA."""

from __future__ import annotations

from typing import Literal

import torch

from ostiary.component import NonNegative, Positive, PositiveFloat, Rate
from ostiary.context import Context
from ostiary.data.dataset import Dataset
from ostiary.errors import InvalidInput
from ostiary.evidence import Evidence
from ostiary.models.victim import Victim
from ostiary.purifiers.base import FineTuning, Purifier
from ostiary.purifiers.patch_search import PatchSearch, Sampling


class MESA(FineTuning, Purifier, name="mesa"):
    """Learns the whole distribution of patches that lead to a class, and fine-tunes on samples of it with true labels.

    Source: Qiao, Yang & Li, Defending neural backdoors via generative distribution modeling, NeurIPS 2019, arXiv:1910.04749.
    The defender holds the model, a few clean images, and an idea of the patch's `size`. A generator per level of `levels`
    (0.5, 0.8, 0.9: paper) makes patches of high entropy whose success, averaged over random places, need not exceed its
    level: mean min(p, level) + `alpha` times a bound on what patches tell of their noise (0.1: paper), noise of `rough`
    0.1 on the pixels. `position`: places are drawn by the success had there (learnt, ours) or at random (paper), which
    finds no patch that works in one corner only. Then `epochs` in which a share `stamped` of each batch carries a patch
    of the generators, one generator after the other. `target`: where not set, the class whose generator (level 0.8,
    `scan_steps`) has the largest success, if it is at least `flag` (ours; the paper is given the class); else the model is
    left as it is.

    `steps`, `lr`, `hidden` and `stamped` are ours, for a small sample on a CPU; the preset `paper` has the authors' 2e-4,
    512 units, 1 %. Differs from the authors' code, which learns and tunes on test images, and pastes patches out of range.
    """

    revision = 1
    modalities = frozenset({"image"})
    presets = {
        "paper": {
            **{"lr_patches": 2e-4, "hidden": 512, "batch_size": 128, "batches": 0, "stamped": 0.01, "epochs": 10, "lr": 0.001},
            **{"steps": 3900, "position": "random"},
        }
    }
    size: Positive = 3
    target: NonNegative | None = None
    flag: Rate = 0.5
    levels: tuple[Rate, ...] = (0.5, 0.8, 0.9)
    alpha: PositiveFloat = 0.1
    rough: PositiveFloat = 0.1
    position: Literal["learnt", "random"] = "learnt"
    hidden: Positive = 128
    steps: Positive = 200
    scan_steps: Positive = 100
    lr_patches: PositiveFloat = 0.002
    stamped: Rate = 0.2
    epochs: Positive = 20

    def refuse(self, evidence: Evidence) -> str:
        clean, (h, w) = evidence.clean, evidence.clean.inputs.shape[2:]
        if self.size > min(h, w):
            raise InvalidInput(f"a patch of {self.size} pixels does not fit images of {h} x {w}; lower size")
        if self.target is not None and self.target >= clean.n_classes:
            raise InvalidInput(f"target class {self.target} does not exist: the data have classes 0 to {clean.n_classes - 1}")
        return "" if self.levels else "no level of success is given; name at least one in levels"

    def search(self, steps: int, batch_size: int) -> PatchSearch:
        learnt = self.position == "learnt"
        return PatchSearch(self.size, steps, self.lr_patches, batch_size, self.hidden, self.alpha, self.rough, learnt)

    def cleanse(self, evidence: Evidence, ctx: Context) -> Victim:
        victim, clean = evidence.victim.clone(), evidence.clean
        target = self.target if self.target is not None else self.found(victim, clean, ctx.within("scan"))
        if target is not None:
            goals = torch.full((len(self.levels),), target)
            search = self.search(self.steps, self.batch_size)
            found = search.of(victim, clean, goals, torch.tensor(self.levels), ctx.within("staircase"))
            victim.notes["success"] = dict(zip(map(str, self.levels), found.success.tolist(), strict=True))
            hook = Sampling(found, self.size, self.stamped, ctx.rng("sampled"))
            trainer = self.trainer(ctx, clean, self.epochs)
            # patches stay where they are; a rate that falls leaves more of them
            trainer = trainer.replace(augment="none", schedule="constant")
            trainer.fit(victim, clean, ctx.key("order"), [hook], what="mesa: fine-tuning")
        victim.notes["target"] = None if target is None else clean.classes[target]
        return victim

    def found(self, victim: Victim, clean: Dataset, ctx: Context) -> int | None:
        """The class to which patches lead best, if they do."""
        goals = torch.arange(clean.n_classes)
        search = self.search(self.scan_steps, max(8, self.batch_size // 2))
        success = search.of(victim, clean, goals, torch.full((clean.n_classes,), 0.8), ctx).success
        victim.notes["success by class"] = dict(zip(clean.classes, success.tolist(), strict=True))
        return int(success.argmax()) if float(success.max()) >= self.flag else None
