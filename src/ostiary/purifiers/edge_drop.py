"""Edge-drop smoothing."""

from __future__ import annotations

from torch import Tensor

from ostiary.component import Positive
from ostiary.modality.graphs import Graphs
from ostiary.models.votes import View
from ostiary.purifiers.flips import lead
from ostiary.purifiers.sampled import RandomEdges, Sampled, Share
from ostiary.seeds import uniform


class EdgeDrop(Sampled, name="edge-drop"):
    """Asks the model about many copies of a graph that lack random edges, and takes the majority, for graphs or nodes.

    Source: the randomised smoothing (RS) that Zhang et al., RIGBD, ICLR 2025, arXiv:2406.09836, compare with. The
    defender holds the model and a few clean graphs (they tell whether features are degrees), or with `retrain` the training
    set. Each undirected edge of each of `samples` (100: ours) copies is kept with probability 1 - `beta` (0.5: RIGBD's own
    rate). A copy shows one of e flipped pairs with probability at most 1 - beta^e, which certifies no edge at 0.5 and up to six
    at 0.9 (the bound of `flexible-noise`, without edges gained). Of nodes: flipped anywhere in the graph that they share.

    Differs from what RIGBD describes: each copy is the same for whatever else is in its batch.
    """

    modalities = frozenset({"graph", "node"})
    beta: Share = 0.5
    samples: Positive = 100
    retrain: bool = False

    def view(self, key: int = 0, degrees: bool = False) -> View:
        return Dropped(self.beta, self.samples, key, degrees)

    def lead(self, first: Tensor, second: Tensor, inputs: Graphs) -> Tensor:
        return lead(first, second, self.beta, 0.0)


class Dropped(RandomEdges):
    """Every edge is lost with probability `beta`, independently."""

    def __init__(self, beta: float, samples: int, key: int, degrees: bool) -> None:
        super().__init__(samples, key, degrees)
        self.beta = beta

    def keep(self, batch: Graphs, pairs: Tensor, which: Tensor) -> Tensor:
        return uniform(int(self.key), pairs, which[batch.edge_batch]) >= self.beta
