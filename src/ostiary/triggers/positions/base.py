"""The contract of a position: the nodes of each graph that a subgraph is mounted on."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from ostiary.component import Component
from ostiary.devices import wide
from ostiary.modality.graphs import Graphs
from ostiary.models.victim import Victim
from ostiary.triggers.mount import random_score, top_nodes


class Position(Component):
    """`asks`: whether the attacker's own model is needed. What an input gets does not depend on the rest of its batch."""

    kind = "position"
    asks: ClassVar[bool] = False

    @abstractmethod
    def choose(self, graphs: Graphs, size: int, ids: Tensor, seed: int, model: Victim | None = None) -> Tensor:
        """The nodes mounted on, in the order of the subgraph's nodes: int64 [G, size], -1 where a graph is smaller."""


TIE = 1e-5  # of the largest score of a graph; rounding moves a score by some 1e-6 of it


class Ranked(Position):
    """The nodes of highest score; ties are broken at random, keyed by the graph's id."""

    def choose(self, graphs: Graphs, size: int, ids: Tensor, seed: int, model: Victim | None = None) -> Tensor:
        return top_nodes(graphs, self.level(graphs, ids, seed, model) + 0.5 * random_score(graphs, ids, seed), size)

    def level(self, graphs: Graphs, ids: Tensor, seed: int, model: Victim | None) -> Tensor:
        """0 for the nodes of highest score, -1 for the next, and so on: float64 [N].

        Scores nearer than TIE of the graph's largest share a level: by gaps, for a score may stand at the edge of any fixed
        step, and what rounding makes of it depends on the batch.
        """
        score = wide(self.score(graphs, ids, seed, model))
        order = score.argsort(descending=True, stable=True)
        order = order[graphs.batch[order].argsort(stable=True)]  # graph by graph, as the nodes are stored
        gap = TIE * per_graph(score.abs(), graphs, "amax")[graphs.batch]
        falls = torch.zeros_like(score)
        falls[1:] = wide(score[order].diff().abs() > gap[1:])
        steps = falls.cumsum(0)
        level = torch.empty_like(score)
        level[order] = steps[graphs.node_ptr[graphs.batch]] - steps
        return level

    def undecided(self, graphs: Graphs, size: int, ids: Tensor, seed: int, model: Victim | None = None) -> Tensor:
        """The graphs in which more nodes share the highest score than are mounted on, so that chance decides: bool [G]."""
        best = (self.level(graphs, ids, seed, model) == 0).long()
        return torch.zeros(len(graphs), dtype=torch.int64, device=best.device).index_add(0, graphs.batch, best) > size

    @abstractmethod
    def score(self, graphs: Graphs, ids: Tensor, seed: int, model: Victim | None) -> Tensor:
        """The wanted nodes score highest: float [N]; only the order within a graph counts."""


def per_graph(values: Tensor, graphs: Graphs, reduce: str) -> Tensor:
    """amax or amin of node values over each graph: float64 [G], 0 for a graph without nodes."""
    values = wide(values)
    return values.new_zeros(len(graphs)).scatter_reduce(0, graphs.batch, values, reduce, include_self=False)
