"""Defences that divide the training set by suspicion into clean, poisoned and uncertain samples, and use each their way."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ostiary.component import NonNegative, Rate
from ostiary.context import Context
from ostiary.data.dataset import Dataset
from ostiary.detectors.base import Detector
from ostiary.detectors.fct import FCT
from ostiary.detectors.shares import Split, excess, overlap, ranks, split, surplus
from ostiary.errors import Unsupported
from ostiary.evidence import Evidence
from ostiary.models.victim import Victim
from ostiary.purifiers.base import Purifier
from ostiary.training.budget import at_least

LEAST = 200  # updates of a model for a further look
TRUST = 4  # a look's rank against the detector's, from digits of seeds 10 and 11; alone it finds less on CIFAR-10 (seed 10)


class Splitting(Purifier):
    """`detector` ranks the training set; the shares `clean` of lowest and `poisoned` of highest scores are set apart, the
    former of each label where `by_class` is set. `looks` times (ours), a model trained on the part taken for clean alone, which
    has hardly seen the trigger, ranks the set anew by its losses, less those of the given model, where there is one: what only
    a backdoored model is sure of is poisoned rather than hard. Its rank counts TRUST times what the detector's does.
    `by_excess` (ours): poisoned are not the highest scores but those that more of their label reach than of other labels
    (`shares.excess`), as where one target draws all poison; hard samples are of every label. Clean is what neither the look
    nor the detector ranks high, and less of a label of which more is ranked high than of others (`shares.surplus`). `trusted`
    (ours): the share taken for clean after the first look, where it is not `clean`: by then the ranking is better."""

    modalities = frozenset({"graph", "image"})
    needs = frozenset({"train"})
    added = frozenset({"by_excess", "trusted"})
    detector: Detector = FCT()
    clean: Rate = 0.2
    poisoned: Rate = 0.05
    by_class: bool = True
    looks: NonNegative = 0
    by_excess: bool = False
    trusted: Rate | None = None

    def needed(self) -> frozenset[str]:
        return self.detector.needed() | self.needs

    def refuse(self, evidence: Evidence) -> str:
        n, shares = len(evidence.train), (self.clean, self.later)
        reason = self.detector.cannot_filter(evidence) or overlap(max(shares), self.poisoned)
        few = f"of {n} training samples fewer than 2 would count as clean; give more or raise clean and trusted"
        return reason or ("" if round(min(shares) * n) >= 2 else few)

    @property
    def later(self) -> float:
        """The share taken for clean once there has been a look."""
        return self.clean if self.trusted is None or not self.looks else self.trusted

    def divide(self, evidence: Evidence, ctx: Context) -> Split:
        """The split, by the detector's scores and further looks; the detector's own shares and flags do not matter."""
        train = evidence.train
        first = ranks(self.detector.findings(evidence, ctx).scores)
        own = torch.zeros(len(train)) if not self.looks or not evidence.has("victim") else losses(evidence.victim, train)
        found, seen = self.parted(first, first, train, self.clean), first
        for look in range(self.looks):
            seen = ranks(losses(trusting(train, found.clean, ctx.within(f"look {look}")), train) - own)
            found = self.parted(first, seen, train, self.later)
        return found

    def parted(self, first: Tensor, seen: Tensor, train: Dataset, clean: float) -> Split:
        """first, seen: ranks by the detector and by the last look. Raises Unsupported where the clean part is of one class."""
        doubt, suspicion, extra = first + TRUST * seen, None, None
        if self.by_excess:
            suspicion, doubt = excess(doubt, train.y), torch.maximum(first, seen)
            extra = surplus(doubt, train.y)
        parts = split(doubt, clean, self.poisoned, train.y if self.by_class else None, suspicion, extra)
        if len(train.y[parts.clean].unique()) < 2:
            raise Unsupported(
                f"purifier '{self.name}' not applicable: all that '{self.detector.name}' takes for clean is of one class; "
                "raise clean or choose another detector"
            )
        return parts


def trusting(train: Dataset, trusted: Tensor, ctx: Context) -> Victim:
    """A new model, trained on the trusted rows alone for LEAST updates or more."""
    data, own = train.take(trusted), ctx.trainer
    own = own.replace(epochs=at_least(own.epochs, LEAST, len(data), own.batch_size))
    return own.fit(ctx.fresh(train), data, ctx.key("order"), what="a further look")


def losses(victim: Victim, data: Dataset) -> Tensor:
    """Cross-entropy of each sample: float [n]."""
    return F.cross_entropy(victim.predict(data.inputs), data.y, reduction="none")
