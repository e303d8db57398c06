"""Fine-tuning."""

from __future__ import annotations

from ostiary.component import Positive
from ostiary.context import Context
from ostiary.evidence import Evidence
from ostiary.models.victim import Victim
from ostiary.purifiers.base import FineTuning, Purifier


class FineTune(FineTuning, Purifier, name="fine-tune"):
    """Trains the victim on the clean samples: the baseline of every purifier.

    Source: the usual baseline (Liu, Dolan-Gavitt & Garg, RAID 2018, arXiv:1805.12185, section 4). The defender holds
    the model and a few clean samples. `epochs` 30: ours.
    """

    modalities = frozenset({"graph", "image", "node"})
    epochs: Positive = 30

    def cleanse(self, evidence: Evidence, ctx: Context) -> Victim:
        trainer = self.trainer(ctx, evidence.clean, self.epochs)
        return trainer.fit(evidence.victim.clone(), evidence.clean, ctx.key("order"), what="fine-tuning")
