"""Defences that divide the training set by suspicion into clean, poisoned and uncertain samples, and use each their way."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ostiary.component import NonNegative, Rate
from ostiary.context import Context
from ostiary.data.dataset import Dataset
from ostiary.detectors.base import Detector
from ostiary.detectors.fct import FCT
from ostiary.detectors.shares import Split, overlap, split
from ostiary.errors import Unsupported
from ostiary.evidence import Evidence
from ostiary.purifiers.base import Purifier
from ostiary.training.budget import at_least

LEAST = 200  # updates of a model for a further look


class Splitting(Purifier):
    """`detector` ranks the training set; the shares `clean` of lowest and `poisoned` of highest scores are set apart, the
    former of each label where `by_class` is set. `looks` times (ours), a model trained on the part taken for clean alone, which
    has hardly seen the trigger, ranks the set anew by its losses."""

    modalities = frozenset({"graph", "image"})
    needs = frozenset({"train"})
    detector: Detector = FCT()
    clean: Rate = 0.2
    poisoned: Rate = 0.05
    by_class: bool = True
    looks: NonNegative = 0

    def needed(self) -> frozenset[str]:
        return self.detector.needed() | self.needs

    def refuse(self, evidence: Evidence) -> str:
        assert evidence.train is not None
        n, reason = len(evidence.train), self.detector.cannot_filter(evidence) or overlap(self.clean, self.poisoned)
        few = f"of {n} training samples fewer than 2 would count as clean; give more or raise clean"
        return reason or ("" if round(self.clean * n) >= 2 else few)

    def divide(self, evidence: Evidence, ctx: Context) -> Split:
        """The split, by the detector's scores and further looks; the detector's own shares and flags do not matter."""
        assert evidence.train is not None
        train = evidence.train
        parts = self.parted(self.detector.findings(evidence, ctx).scores, train)
        for look in range(self.looks):
            parts = self.parted(surprise(train, parts.clean, ctx.within(f"look {look}")), train)
        return parts

    def parted(self, scores: Tensor, train: Dataset) -> Split:
        """Raises Unsupported where the clean part is of one class."""
        parts = split(scores, self.clean, self.poisoned, train.y if self.by_class else None)
        if len(train.y[parts.clean].unique()) < 2:  # type: ignore[no-untyped-call]
            raise Unsupported(
                f"purifier '{self.name}' not applicable: all that '{self.detector.name}' takes for clean is of one class; "
                "raise clean or choose another detector"
            )
        return parts


def surprise(train: Dataset, trusted: Tensor, ctx: Context) -> Tensor:
    """Losses of the training set under a new model, trained on the trusted rows alone for LEAST updates or more."""
    data, own = train.take(trusted), ctx.trainer
    own = own.replace(epochs=at_least(own.epochs, LEAST, len(data), own.batch_size))
    victim = own.fit(ctx.fresh(train), data, ctx.key("order"), what="a further look")
    return F.cross_entropy(victim.predict(train.inputs)[0], train.y, reduction="none")
