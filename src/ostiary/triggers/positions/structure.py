"""Positions that the graph itself gives."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ostiary.modality.graphs import Graphs
from ostiary.models.victim import Victim
from ostiary.triggers.mount import random_score, top_nodes
from ostiary.triggers.positions.base import Position, Ranked, per_graph


class RandomNodes(Ranked, name="random"):
    """Uniformly at random: fresh nodes for every graph."""

    def score(self, graphs: Graphs, ids: Tensor, seed: int, model: Victim | None) -> Tensor:
        return graphs.x.new_zeros(len(graphs.x))


class Degree(Ranked, name="degree"):
    """The nodes of highest (or lowest) degree."""

    end: Literal["highest", "lowest"] = "highest"

    def score(self, graphs: Graphs, ids: Tensor, seed: int, model: Victim | None) -> Tensor:
        return graphs.in_degree if self.end == "highest" else -graphs.in_degree


class Dense(Position, name="dense"):
    """A dense region: from the node of highest degree on, always the node with most links into those chosen."""

    def choose(self, graphs: Graphs, size: int, ids: Tensor, seed: int, model: Victim | None = None) -> Tensor:
        source, target = graphs.edge_index
        most = 1 + per_graph(graphs.in_degree, graphs, "amax")[graphs.batch]
        level = (graphs.in_degree + 0.5 * random_score(graphs, ids, seed)) / most  # below 1, which is one more link
        links, found = torch.zeros_like(level), []
        for _ in range(size):
            at = top_nodes(graphs, links + level, 1)[:, 0]
            at = torch.where(links[at] < 0, -1, at)  # a graph with no node left
            found.append(at)
            new = torch.zeros(len(links), dtype=torch.bool, device=links.device)
            new[at[at >= 0]] = True
            links = links.index_add(0, target[new[source]], torch.ones_like(links)[target[new[source]]])
            links[new] = -1e9
        return torch.stack(found, 1)
