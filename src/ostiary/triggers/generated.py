"""A subgraph generated for each graph by a small network."""

from __future__ import annotations

import torch
from torch import Tensor

from ostiary.component import Positive
from ostiary.context import Context
from ostiary.data.dataset import Dataset
from ostiary.modality.graphs import Graphs, with_degrees
from ostiary.seeds import scoped
from ostiary.triggers.generator import Features, Generator, feature_kind
from ostiary.triggers.mount import mount
from ostiary.triggers.networks import restored
from ostiary.triggers.own_model import PREFIX, ModelTrigger
from ostiary.triggers.positions.base import Position
from ostiary.triggers.positions.structure import RandomNodes


class GeneratedSubgraph(ModelTrigger, name="generated-subgraph"):
    """`size` nodes of each graph, at `position`, get the features and inner edges that a generator makes for them.

    `width`: node features; `hidden`: units of the generator; `features`: one-hot, range (of the training data), or
    degree (then only edges are generated and degrees counted again; with gradients, in `soft`, they are those before). The
    generator's weights are the state, beside those of the attacker's model where `position` asks one.
    """

    modalities = frozenset({"graph"})
    size: Positive
    width: Positive
    hidden: Positive = 64
    features: Features = "one-hot"
    position: Position = RandomNodes()

    def network(self, device: torch.device) -> Generator:
        own = {k: v for k, v in self.state.items() if not k.startswith(PREFIX)}
        return restored(lambda: Generator(self.width, self.hidden, self.features), own, device)

    def positions(self, graphs: Graphs, ids: Tensor, seed: int) -> Tensor:
        """The nodes mounted on: int64 [G, size], -1 where a graph is smaller."""
        model = self.model(graphs.x.device) if self.position.asks else None
        return self.position.choose(graphs, self.size, ids, seed, model)

    def soft(self, net: Generator, graphs: Graphs, chosen: Tensor) -> Graphs:
        """The stamped graphs with gradients: every pair of mounted nodes is an edge whose weight is 0 or 1."""
        adjacency, features = net(graphs, chosen)
        return mount(graphs, chosen, adjacency, features, soft=True)

    def apply(self, inputs: Graphs, ids: Tensor, *, seed: int, target: Tensor) -> Graphs:
        chosen = self.positions(inputs, ids, seed)
        with torch.no_grad():
            adjacency, features = self.network(inputs.x.device)(inputs, chosen)
            hard = None if features is None else features.round() if self.features == "one-hot" else features
            stamped = mount(inputs, chosen, adjacency.round(), hard)
        return with_degrees(stamped) if self.features == "degree" else stamped


def untrained(size: int, train: Dataset, hidden: int, ctx: Context) -> GeneratedSubgraph:
    """A trigger whose generator is fitted to the data's features and has random weights."""
    kind, width = feature_kind(train.inputs), train.inputs.x.shape[1]
    with scoped(ctx.key("generator"), "init"):
        net = Generator(width, hidden, kind)
    net.low.copy_(train.inputs.x.amin(0))
    net.high.copy_(train.inputs.x.amax(0))
    return GeneratedSubgraph(size=size, width=width, hidden=hidden, features=kind, state=net.state_dict())
