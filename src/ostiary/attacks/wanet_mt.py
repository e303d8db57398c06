"""WaNetMT."""

from __future__ import annotations

from ostiary.attacks.base import PoisoningAttack
from ostiary.attacks.labels import LabelRule, MultiTarget
from ostiary.component import NonNegativeFloat, Positive, Rate
from ostiary.context import Context
from ostiary.data.dataset import Dataset
from ostiary.errors import BadSpec
from ostiary.triggers.per_class import ClassWarps


class WaNetMT(PoisoningAttack, name="wanet-mt"):
    """Warps the image, by another smooth random field for every class that is wanted.

    Source: WaNet (Nguyen & Tran, ICLR 2021, arXiv:2102.10369) for several targets, as Huang et al., 2024 (PPT), compare
    with. The adversary controls training data only: the poison is made once, and no noise is warped beside it. `labels`:
    multi-target (dirty), or clean-multi-target (preset clean-label). Rate 1 %, clean-label 10 %; `k` 4 to 8 and `strength`
    0.5 to 0.75 over the classes: that paper. Which class has which pair is ours (k in turn, strength rising). Differs:
    images of a class are led to the other classes in turn, not at random.
    """

    modalities = frozenset({"image"})
    presets = {"clean-label": {"labels": "clean-multi-target", "rate": 0.1}}
    rate: Rate = 0.01
    labels: LabelRule = MultiTarget()
    k: tuple[Positive, Positive] = (4, 8)
    strength: tuple[NonNegativeFloat, NonNegativeFloat] = (0.5, 0.75)

    def make_trigger(self, train: Dataset, ctx: Context) -> ClassWarps:
        if self.k[0] > self.k[1]:
            raise BadSpec(f"attack 'wanet-mt': option k runs from {self.k[0]} down to {self.k[1]}; give the smaller one first")
        return ClassWarps(classes=train.n_classes, made_with=ctx.key("fields"), k=self.k, strength=self.strength)
