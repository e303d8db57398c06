"""Defences that divide the training set by suspicion into clean, poisoned and uncertain samples, and use each their way."""

from __future__ import annotations

from ostiary.component import Rate
from ostiary.context import Context
from ostiary.detectors.base import Detector
from ostiary.detectors.fct import FCT
from ostiary.detectors.shares import Split, overlap, split
from ostiary.errors import Unsupported
from ostiary.evidence import Evidence
from ostiary.purifiers.base import Purifier


class Splitting(Purifier):
    """`detector` ranks the training set; the shares `clean` of lowest and `poisoned` of highest scores are set apart, the
    former of each label where `by_class` is set."""

    modalities = frozenset({"graph", "image"})
    needs = frozenset({"train"})
    detector: Detector = FCT()
    clean: Rate = 0.2
    poisoned: Rate = 0.05
    by_class: bool = True

    def needed(self) -> frozenset[str]:
        return self.detector.needed() | self.needs

    def refuse(self, evidence: Evidence) -> str:
        assert evidence.train is not None
        n, reason = len(evidence.train), self.detector.cannot_filter(evidence) or overlap(self.clean, self.poisoned)
        few = f"of {n} training samples fewer than 2 would count as clean; give more or raise clean"
        return reason or ("" if round(self.clean * n) >= 2 else few)

    def divide(self, evidence: Evidence, ctx: Context) -> Split:
        """The split, by the detector's scores alone; its own shares and flags do not matter."""
        assert evidence.train is not None
        found, train = self.detector.findings(evidence, ctx), evidence.train
        parts = split(found.scores, self.clean, self.poisoned, train.y if self.by_class else None)
        if len(train.y[parts.clean].unique()) < 2:  # type: ignore[no-untyped-call]
            raise Unsupported(
                f"purifier '{self.name}' not applicable: all that '{self.detector.name}' takes for clean is of one class; "
                "raise clean or choose another detector"
            )
        return parts
