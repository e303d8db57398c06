"""PatchMT."""

from __future__ import annotations

from ostiary.attacks.base import PoisoningAttack
from ostiary.attacks.labels import LabelRule, MultiTarget
from ostiary.component import Rate
from ostiary.context import Context
from ostiary.data.dataset import Dataset
from ostiary.triggers.per_class import ClassPatches


class PatchMT(PoisoningAttack, name="patch-mt"):
    """Overwrites a small black and white code, another one at another place for every class that is wanted.

    Source: BadNets (Gu et al., 2017, arXiv:1708.06733) for several targets, as Huang et al., 2024 (PPT), compare with. The
    adversary controls training data only. `labels`: multi-target (dirty), or clean-multi-target (preset clean-label). Rate
    1 %, clean-label 10 %: that paper. Codes of 3 x 3 pixels on places four pixels apart: ours, the paper prints neither.
    Differs: images of a class are led to the other classes in turn, not at random.
    """

    modalities = frozenset({"image"})
    presets = {"clean-label": {"labels": "clean-multi-target", "rate": 0.1}}
    rate: Rate = 0.01
    labels: LabelRule = MultiTarget()

    def make_trigger(self, train: Dataset, ctx: Context) -> ClassPatches:
        return ClassPatches(made_with=ctx.key("codes"))
