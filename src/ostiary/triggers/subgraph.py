"""A fixed subgraph mounted on nodes of every graph."""

from __future__ import annotations

import torch
from torch import Tensor

from ostiary.context import Context
from ostiary.data.dataset import Dataset
from ostiary.modality.graphs import Graphs, are_degrees, with_degrees
from ostiary.triggers.mount import mount
from ostiary.triggers.own_model import ModelTrigger, carried
from ostiary.triggers.positions.base import Position, Ranked
from ostiary.triggers.positions.structure import RandomNodes


class Subgraph(ModelTrigger, name="subgraph"):
    """`edges` among `size` nodes (undirected pairs), mounted on each graph's nodes at `position`.

    A graph with fewer nodes takes the induced part. With `degree_features` the node features, a one-hot of the
    degree, are made again from the final edges.
    """

    modalities = frozenset({"graph"})
    size: int
    edges: tuple[tuple[int, int], ...]
    degree_features: bool = False
    position: Position = RandomNodes()

    def adjacency(self) -> Tensor:
        matrix = torch.zeros(self.size, self.size)
        for i, j in self.edges:
            matrix[i, j] = matrix[j, i] = 1.0
        return matrix

    def apply(self, inputs: Graphs, ids: Tensor, *, seed: int, target: Tensor) -> Graphs:
        model = self.model(inputs.x.device) if self.position.asks else None
        chosen = self.position.choose(inputs, self.size, ids, seed, model)
        stamped = mount(inputs, chosen, self.adjacency().to(inputs.x.device))
        return with_degrees(stamped) if self.degree_features else stamped

    def doubts(self, inputs: Graphs, ids: Tensor, *, seed: int) -> tuple[str, ...]:
        if not (self.position.asks and isinstance(self.position, Ranked) and len(ids)):
            return ()
        chance = int(self.position.undecided(inputs, self.size, ids, seed, self.model(inputs.x.device)).sum())
        said = f"in {chance} of {len(ids)} graphs to poison the attacker's model finds no node more important than others"
        return (f"{said}: their positions are random",) if chance else ()


def mounted(trigger: Subgraph, train: Dataset, attacker: Context) -> Subgraph:
    """The trigger fitted to the data: degree features counted again, the attacker's model carried where it is asked."""
    trigger = trigger.replace(degree_features=are_degrees(train.inputs))
    return trigger.replace(**carried(attacker, train)) if trigger.position.asks else trigger
