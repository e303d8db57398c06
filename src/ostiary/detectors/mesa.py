"""MESA's mode of detection."""

from __future__ import annotations

from torch import Tensor

from ostiary.component import Positive, Rate
from ostiary.context import Context
from ostiary.data.dataset import Dataset
from ostiary.detectors.base import Detector, Findings
from ostiary.detectors.patch_learning import PatchLearning
from ostiary.evidence import Evidence


class MESA(PatchLearning, Detector, name="mesa"):
    """Learns a distribution of patches for every class, and flags classes to which they lead most images of the others.

    Source: Qiao, Yang & Li, Defending neural backdoors via generative distribution modeling, NeurIPS 2019, arXiv:1910.04749,
    whose experiments are given the class; here the patches of every class are learnt, as told below, and compared. The
    defender holds the model, a few clean images, and an idea of the patch. Score of a class: the mean probability of it that
    images of other classes have under the patches of its best generator (of one level, 0.8; the preset `paper` has the
    paper's three and its training), over the last tenth of `steps` of `batch_size` images. Flagged: `threshold` and more.

    0.5 is ours, the purifier's `flag`. Digits, PreAct-ResNets of width 8, three backdoored and three clean (seeds 10 to 12):
    BadNets' class scores 0.81 to 0.87, other classes and those of clean models 0.02 at most. `info`: by class the score, the
    level of the best generator, and the `rate` of clean images of other classes that are then called so. drawn: an image with
    a patch of each class. Blind by design to triggers over the whole image and to warps.
    """

    modalities = frozenset({"image"})
    needs = frozenset({"victim", "clean"})
    about = "model"
    measure = "success of the patches"
    searches = True
    presets = {
        "paper": {
            **{"lr_patches": 2e-4, "hidden": 512, "batch_size": 128, "steps": 3900, "position": "random"},
            "levels": (0.5, 0.8, 0.9),
        }
    }
    levels: tuple[Rate, ...] = (0.8,)
    steps: Positive = 100
    batch_size: Positive = 32
    threshold: Rate = 0.5

    def examine(self, evidence: Evidence, ctx: Context) -> Findings:
        victim, clean = evidence.victim, evidence.clean
        found = self.search(clean, self.steps, self.batch_size).by_class(victim, clean, self.levels, ctx)
        scores, level = found.success.view(clean.n_classes, -1).max(1)
        flagged = scores >= self.threshold

        def trial(data: Dataset, goal: int) -> Tensor:
            return found.stamp(data.inputs, goal * len(self.levels) + int(level[goal]), ctx.rng("trial"))

        drawn, lines = [], {}
        for goal, name in enumerate(clean.classes):
            others = clean.take((clean.y != goal).nonzero().flatten())
            marked = trial(others, goal)
            rate = float((victim.predict(marked).argmax(1) == goal).double().mean()) if len(others) else 0.0
            lines[name] = {"success": float(scores[goal]), "level": self.levels[int(level[goal])], "rate": rate}
            sample = clean.modality.sketch(others.inputs[:1], marked[:1])
            drawn += [{"class": goal, "rate": rate, "score": float(scores[goal]), "sample": s} for s in sample]
        info = {"classes": lines, "drawn": drawn}
        return Findings(scores, flagged, tuple(flagged.nonzero().flatten().tolist()), info, trial)
