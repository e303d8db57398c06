"""A victim beside its references: what leads it astray and not them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from ostiary.data.dataset import Dataset
from ostiary.detectors.class_triggers import margin
from ostiary.modality.graphs import Graphs
from ostiary.models.victim import Victim


class Panel:
    """A victim and the references that judge what leads it astray."""

    def __init__(self, victim: Victim, others: Sequence[Victim], clean: Dataset, quantile: float) -> None:
        self.nets, self.quantile = (victim, *others), quantile
        self.units = [unit(net, clean) for net in self.nets]

    def leads(self, stamped: Graphs, y: Tensor) -> list[float]:
        """Per class, how far graphs (of classes y, int64 [n]) that carry a trigger are led there by the victim alone.

        In units of the margin that one clean graph in ten exceeds: the margin that all but a share `quantile` of the graphs
        of other classes exceed, less what half of them exceed in the reference led furthest, where that is positive."""
        logits = [net.predict(stamped)[0] / u for net, u in zip(self.nets, self.units, strict=True)]
        found: list[float] = []
        for goal in range(logits[0].shape[1]):
            others = (y != goal).cpu()
            if not bool(others.any()):
                found.append(-math.inf)
                continue
            own, *theirs = (margin(said, goal)[others] for said in logits)
            shared = max(0.0, *(float(m.quantile(0.5)) for m in theirs))
            found.append(float(own.quantile(self.quantile)) - shared)
        return found


def unit(net: Victim, clean: Dataset) -> float:
    """The margin between the two largest logits that one clean graph in ten exceeds."""
    two = net.predict(clean.inputs)[0].topk(2).values
    return float((two[:, 0] - two[:, 1]).quantile(0.9).clamp(min=1e-6))
