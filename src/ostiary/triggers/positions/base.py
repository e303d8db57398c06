"""The contract of a position: the nodes of each graph that a subgraph is mounted on."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from torch import Tensor

from ostiary.component import Component
from ostiary.modality.graphs import Graphs
from ostiary.models.victim import Victim
from ostiary.triggers.mount import random_score, top_nodes


class Position(Component):
    """`asks`: whether the attacker's own model is needed. Ties are broken at random, keyed by the graph's id."""

    kind = "position"
    asks: ClassVar[bool] = False

    def choose(self, graphs: Graphs, size: int, ids: Tensor, seed: int, model: Victim | None = None) -> Tensor:
        """The nodes mounted on, in the order of the subgraph's nodes: int64 [G, size], -1 where a graph is smaller."""
        score = self.score(graphs, ids, seed, model).double()
        spread = (score.max() - score.min()).clamp(min=1e-9) if len(score) else 1.0
        level = (score / spread * 1e5).round()  # what another batch's rounding errors could not move
        return top_nodes(graphs, level + 0.5 * random_score(graphs, ids, seed), size)

    @abstractmethod
    def score(self, graphs: Graphs, ids: Tensor, seed: int, model: Victim | None) -> Tensor:
        """The wanted nodes score highest: float [N]."""
