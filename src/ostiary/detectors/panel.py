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
    """A victim and the references that judge what leads it astray. doubt: what every lead counts less, 0 to 1."""

    def __init__(self, victim: Victim, others: Sequence[Victim], clean: Dataset, quantile: float, doubt: float = 0.0) -> None:
        self.nets, self.quantile, self.doubt = (victim, *others), quantile, doubt
        self.units = [unit(net, clean) for net in self.nets]

    def leads(self, stamped: Graphs, y: Tensor) -> list[float]:
        """Per class, how far graphs (of classes y, int64 [n]) that carry a trigger are led there by the victim alone, -1 to 1.

        Led: the margin, in units of the one that one clean graph in ten exceeds, that all but a share `quantile` of the graphs
        of other classes exceed, squashed by tanh, since beyond a unit it says how large a graph has become. The victim's, less
        the mean over references, of which none counts below 0: on what they are not led by they tell nothing."""
        logits = [net.predict(stamped)[0] / u for net, u in zip(self.nets, self.units, strict=True)]
        found: list[float] = []
        for goal in range(logits[0].shape[1]):
            others = (y != goal).cpu()
            if not bool(others.any()):
                found.append(-math.inf)
                continue
            own, *theirs = (math.tanh(float(margin(said, goal)[others].quantile(self.quantile))) for said in logits)
            found.append(own - sum(max(0.0, led) for led in theirs) / max(1, len(theirs)) - self.doubt)
        return found


def unit(net: Victim, clean: Dataset) -> float:
    """The margin between the two largest logits that one clean graph in ten exceeds."""
    two = net.predict(clean.inputs)[0].topk(2).values
    return float((two[:, 0] - two[:, 1]).quantile(0.9).clamp(min=1e-6))
