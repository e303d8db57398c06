"""Retraining without suspects."""

from __future__ import annotations

import torch

from ostiary.component import Rate
from ostiary.context import Context
from ostiary.detectors.base import Detector
from ostiary.detectors.outliers import highest
from ostiary.detectors.spectral import Spectral
from ostiary.errors import InvalidInput, Unsupported
from ostiary.evidence import Evidence
from ostiary.models.victim import Victim
from ostiary.purifiers.base import Purifier, emptied


class RetrainWithout(Purifier, name="retrain-without"):
    """Drops the training samples that a detector suspects and trains a fresh model on the rest.

    Source: the defence of Tran, Li & Madry, Spectral signatures, NeurIPS 2018, arXiv:1811.00636, with `detector` in the
    place of theirs. The defender holds the training set, can train, and holds what the detector needs besides. What the
    detector flags is dropped or, where `share` (of all samples; ours) is more than 0, as many as that of the best scored.
    Differs from the paper: none known for the default detector.
    """

    modalities = frozenset({"graph", "image", "node"})
    needs = frozenset({"train"})
    detector: Detector = Spectral()
    share: Rate = 0.0

    def needed(self) -> frozenset[str]:
        return self.detector.needed() | self.needs

    def refuse(self, evidence: Evidence) -> str:
        return self.detector.cannot_filter(evidence)

    def cleanse(self, evidence: Evidence, ctx: Context) -> Victim:
        train, found = evidence.train, self.detector.findings(evidence, ctx)
        dropped = highest(found.scores, self.share) if self.share > 0 else found.flagged
        if dropped is None:
            raise Unsupported(f"the detector '{self.detector.name}' scores samples but flags none; set share=")
        left = train.take((~dropped).nonzero().flatten())
        if lost := emptied(train, left):
            raise InvalidInput(f"without the {int(dropped.sum())} suspects no sample of class {lost} is left; drop fewer")
        victim = ctx.fit(left, what="retraining without suspects")
        dropped_by_class = torch.bincount(train.y[dropped], minlength=train.n_classes).tolist()
        victim.notes["dropped"] = dict(zip(train.classes, dropped_by_class, strict=True))
        return victim
