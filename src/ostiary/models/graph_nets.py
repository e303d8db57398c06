"""The four standard graph networks, with one read-out for graphs and one for nodes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ostiary.component import NonNegative, Positive, Rate
from ostiary.errors import BadSpec
from ostiary.modality.graphs import Graphs
from ostiary.models.base import Architecture
from ostiary.models.graph_layers import Conv, GATConv, GCNConv, GINConv, SAGEConv, pool

Pooling = Literal["sum", "mean", "max"]


class Stack(nn.Module):
    """The convolutions, each with a ReLU of its own, and the store they work on."""

    def __init__(self, convs: list[Conv]) -> None:
        super().__init__()
        self.convs = nn.ModuleList(convs)
        self.acts = nn.ModuleList(nn.ReLU() for _ in convs)
        self.stages = tuple(f"acts.{i}" for i in range(len(convs)))

    @staticmethod
    def built(x: Tensor, edge_index: Tensor, counts: Tensor, edge_weight: Tensor | None, edge_mask: Tensor | None) -> Graphs:
        """A store of the plain arguments of a call that brings none."""
        if edge_mask is not None:
            raise ValueError("edge_mask needs graphs=, whose edge order it follows")
        return Graphs.build(x, edge_index, counts, edge_weight=edge_weight)


class GraphNet(Stack):
    """Convolutions with ReLU, a pooling, and a head of one linear layer or, if `deep`, two."""

    def __init__(self, convs: list[Conv], hidden: int, classes: int, pooling: str, dropout: float, deep: bool) -> None:
        super().__init__(convs)
        self.pooling, self.dropout = pooling, dropout
        self.lin = nn.Linear(hidden, hidden) if deep else None
        self.head = nn.Linear(hidden, classes)

    def forward(
        self,
        x: Tensor,
        edge_index: Tensor,
        batch: Tensor,
        edge_weight: Tensor | None = None,
        edge_mask: Tensor | None = None,
        graphs: Graphs | None = None,
    ) -> Tensor:
        """Logits [G, classes]. `graphs`, when given, already holds the sorted structure and is used as it is."""
        if graphs is None:
            counts = torch.bincount(batch, minlength=int(batch.max()) + 1)
            graphs = self.built(x, edge_index, counts, edge_weight, edge_mask)
        x = graphs.x
        for conv, act in zip(self.convs, self.acts, strict=True):
            x = act(conv(x, graphs))
        g = pool(x, graphs, self.pooling)
        if self.lin is not None:
            g = F.relu(self.lin(g))
        return self.head(F.dropout(g, self.dropout, self.training))  # type: ignore[no-any-return]


class NodeNet(Stack):
    """Convolutions with ReLU and dropout, and a linear layer on every node."""

    def __init__(self, convs: list[Conv], hidden: int, classes: int, dropout: float) -> None:
        super().__init__(convs)
        self.dropout = dropout
        self.head = nn.Linear(hidden, classes)

    def forward(
        self,
        x: Tensor,
        edge_index: Tensor,
        edge_weight: Tensor | None = None,
        edge_mask: Tensor | None = None,
        graphs: Graphs | None = None,
    ) -> Tensor:
        """Logits [N, classes], a row for every node. `graphs` as in `GraphNet`."""
        if graphs is None:
            graphs = self.built(x, edge_index, torch.tensor([len(x)], device=x.device), edge_weight, edge_mask)
        x = graphs.x
        for conv, act in zip(self.convs, self.acts, strict=True):
            x = F.dropout(act(conv(x, graphs)), self.dropout, self.training)
        return self.head(x)  # type: ignore[no-any-return]


class GraphArchitecture(Architecture):
    """Options of every graph network. Defaults on graphs: GCleaner's repository, with 3 layers instead of 5; on nodes:
    Kipf & Welling's training of the whole graph at once, with a linear layer behind its two (`layers` 0: 3 on graphs, 2 on
    nodes; `dropout` where not set: 0 on graphs, 0.5 on nodes; `pooling` and `deep_head` are for graphs).

    `widths`: units of each layer, instead of `layers` times `hidden`."""

    modalities = frozenset({"graph", "node"})
    recipe = {"optimizer": "adam", "lr": 0.005, "epochs": 60, "batch_size": 64, "schedule": "step", "step_every": 50}
    recipes = {
        "node": {"lr": 0.01, "epochs": 200, "batch_size": 2**20, "schedule": "constant", "weight_decay": 5e-4},
    }
    layers: NonNegative = 0
    hidden: Positive = 64
    widths: tuple[Positive, ...] = ()
    pooling: Pooling = "sum"
    dropout: Rate | None = None
    deep_head: bool = True

    @abstractmethod
    def convs(self, *widths: int) -> list[Conv]:
        """New layers of its kind, one between each width (of the features first) and the next."""

    def module(self, data: Mapping[str, Any]) -> nn.Module:
        nodes, classes = data.get("level") == "node", int(data["classes"])
        widths = self.widths or (self.hidden,) * (self.layers or (2 if nodes else 3))
        dropout = (0.5 if nodes else 0.0) if self.dropout is None else self.dropout
        convs = self.convs(int(data["width"]), *widths)
        if nodes:
            return NodeNet(convs, widths[-1], classes, dropout)
        return GraphNet(convs, widths[-1], classes, self.pooling, dropout, self.deep_head)


class GIN(GraphArchitecture, name="gin"):
    """Graph isomorphism network; `norm`: BatchNorm inside its layers. Xu et al., ICLR 2019, arXiv:1810.00826."""

    norm: bool = True

    def convs(self, *widths: int) -> list[Conv]:
        return [GINConv(a, b, self.norm) for a, b in pairwise(widths)]


class GCN(GraphArchitecture, name="gcn"):
    """Graph convolutional network. Kipf & Welling, ICLR 2017, arXiv:1609.02907."""

    def convs(self, *widths: int) -> list[Conv]:
        return [GCNConv(a, b) for a, b in pairwise(widths)]


class GraphSAGE(GraphArchitecture, name="graphsage"):
    """GraphSAGE with mean aggregation. Hamilton et al., NeurIPS 2017, arXiv:1706.02216."""

    def convs(self, *widths: int) -> list[Conv]:
        return [SAGEConv(a, b) for a, b in pairwise(widths)]


class GAT(GraphArchitecture, name="gat"):
    """Graph attention network; `hidden` is shared out among the `heads`. Velickovic et al., ICLR 2018, arXiv:1710.10903."""

    heads: Positive = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        if odd := [w for w in self.widths or (self.hidden,) if w % self.heads]:
            raise BadSpec(f"{odd[0]} units cannot be shared out among {self.heads} heads; give a multiple of {self.heads}")

    def convs(self, *widths: int) -> list[Conv]:
        return [GATConv(a, b, self.heads) for a, b in pairwise(widths)]
