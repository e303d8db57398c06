"""Fine-tuning."""

from __future__ import annotations

from ostiary.component import Positive, PositiveFloat
from ostiary.context import Context
from ostiary.evidence import Evidence
from ostiary.models.victim import Victim
from ostiary.purifiers.base import Purifier
from ostiary.training.trainer import Trainer


class FineTune(Purifier, name="fine-tune"):
    """Trains the victim on the clean samples, BatchNorm statistics frozen: the baseline of every purifier.

    Source: the usual baseline (Liu, Dolan-Gavitt & Garg, RAID 2018, arXiv:1805.12185, section 4). The defender holds
    the model and a few clean samples. `epochs` 30, Adam, `lr` 5e-3 and frozen statistics: the setting that was
    strongest in our own runs; a low rate barely changes the weights.
    """

    epochs: Positive = 30
    lr: PositiveFloat = 0.005
    batch_size: Positive = 64
    freeze_norms: bool = True

    def cleanse(self, evidence: Evidence, ctx: Context) -> Victim:
        assert evidence.victim is not None and evidence.clean is not None
        trainer = Trainer(lr=self.lr, epochs=self.epochs, batch_size=self.batch_size, freeze_norms=self.freeze_norms)
        return trainer.fit(evidence.victim.clone(), evidence.clean, ctx.key("order"), what="fine-tuning")
