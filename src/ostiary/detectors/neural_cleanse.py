"""Neural Cleanse."""

from __future__ import annotations

from typing import Literal

import torch

from ostiary.component import Positive, PositiveFloat, Rate
from ostiary.context import Context
from ostiary.data.dataset import Dataset
from ostiary.detectors.base import Detector, Findings
from ostiary.detectors.masks import MaskInversion, Patches
from ostiary.detectors.outliers import anomaly, too_few
from ostiary.evidence import Evidence
from ostiary.models.victim import Victim

SMALLEST = 0.01  # pixels: a mask that a model needs none of, as one of a single answer does not, has no logarithm


class NeuralCleanse(Detector, name="neural-cleanse"):
    """Recovers the smallest patch that leads images to each class, and flags classes whose patch is far smaller.

    Source: Wang et al., Neural Cleanse, S&P 2019. The defender holds the model and a few clean images. Per class a mask and
    a pattern, Adam (`lr` 0.1, betas 0.5 and 0.9) on cross-entropy plus `cost` (start 1e-3, doubled or divided by 2^1.5
    after `patience` 5 batches) times the mask's L1 norm; kept is the smallest mask that leads a share `success` 0.99 of a
    batch to the class: paper. All classes are inverted together (ours), for `steps` 400 batches of `batch_size` 32 (paper:
    1000). Score: deviation below the median norm, in units of the median absolute deviation; `outlier` 2: paper. Classes
    that no mask reaches are left out of the median and score 0, with a doubt. The median of an even number is that of both in
    the middle.
    Preset auto (ours): deviations of the logarithms (`scale` log), for norms are positive and skewed: a mask of 1.3 pixels
    among nine of 6 to 24, a real patch's, deviates by 1.75, its logarithm by 4.9; from 3.5 on, as for any modified z-score
    (Iglewicz and Hoaglin, How to Detect and Handle Outliers, 1993). CIFAR-10, 26 backdoored models of eight attacks: it names
    the target in 17 and another class in 1, the paper's scale in 15 and 3.

    Blind by design to triggers over the whole image and to attacks on many classes, which make all masks small.
    """

    modalities = frozenset({"image"})
    needs = frozenset({"victim", "clean"})
    about = "model"
    measure = "anomaly index of the mask's norm"
    searches = True
    presets = {"paper": {"steps": 1000}, "auto": {"scale": "log", "outlier": 3.5}}
    added = frozenset({"scale"})
    steps: Positive = 400
    batch_size: Positive = 32
    lr: PositiveFloat = 0.1
    cost: PositiveFloat = 1e-3
    patience: Positive = 5
    success: Rate = 0.99
    outlier: PositiveFloat = 2.0
    scale: Literal["linear", "log"] = "linear"

    def refuse(self, evidence: Evidence) -> str:
        return too_few(evidence.clean.n_classes)

    def recover(self, victim: Victim, clean: Dataset, ctx: Context) -> Patches:
        """The patches of all classes."""
        inversion = MaskInversion(self.steps, self.lr, self.batch_size, self.success, self.cost, self.patience)
        return inversion.of(victim, clean, ctx.rng("patches"))

    def judge(self, patches: Patches) -> tuple[torch.Tensor, torch.Tensor]:
        """(anomaly index of every class, float64 [k], high where the mask is small; which are outliers, bool [k])."""
        reached = torch.isfinite(patches.norms)
        index = torch.zeros_like(patches.norms)
        if not too_few(int(reached.sum())):
            norms = patches.norms[reached]
            index[reached] = anomaly(-norms.clamp(min=SMALLEST).log() if self.scale == "log" else -norms)
        return index, index > self.outlier

    def examine(self, evidence: Evidence, ctx: Context) -> Findings:
        victim, clean = evidence.victim, evidence.clean
        patches = self.recover(victim, clean, ctx)
        index, flagged = self.judge(patches)
        drawn, lines = [], {}
        for goal, name in enumerate(clean.classes):
            others = clean.take((clean.y != goal).nonzero().flatten()).inputs
            stamped = patches.stamp(others.to(victim.device), goal).cpu()
            rate = float((victim.predict(stamped).argmax(1) == goal).double().mean()) if len(others) else 0.0
            norm = float(patches.norms[goal]) if bool(torch.isfinite(patches.norms[goal])) else None
            lines[name] = {"mask norm": norm, "anomaly index": float(index[goal]), "rate": rate}
            sample = clean.modality.sketch(others[:1], stamped[:1])
            drawn += [{"class": goal, "rate": rate, "score": float(index[goal]), "sample": s} for s in sample]
        classes = tuple(flagged.nonzero().flatten().tolist())
        info = {"classes": lines, "drawn": drawn}
        return Findings(index, flagged, classes, info, lambda data, goal: patches.stamp(data.inputs, goal), self.doubt(patches))

    def doubt(self, patches: Patches) -> tuple[str, ...]:
        """Of classes without a patch there is no verdict, and of all where too few have one."""
        k, none = len(patches.norms), int(patches.norms.isinf().sum())
        whole = " and, with so few others, on none" if too_few(k - none) and none < k else ""
        said = f"no patch led {self.success:.0%} of a batch to its class for {none} of {k} classes: no verdict on them{whole}"
        return (said,) if none else ()
