"""Errors of an autoencoder."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from ostiary.component import NonNegative, Positive, PositiveFloat, Rate
from ostiary.console import progress
from ostiary.context import Context
from ostiary.detectors.base import Detector, Findings
from ostiary.detectors.outliers import highest
from ostiary.evidence import Evidence
from ostiary.modality.graphs import Graphs
from ostiary.modality.nodes import Nodes, store
from ostiary.models.graph_layers import GCNConv, neighbour_sum, pool
from ostiary.seeds import scoped


class Reconstruction(Detector, name="reconstruction"):
    """Scores training rows by how badly an autoencoder, trained on their nodes, reconstructs the worst node around them.

    Source: the outlier detection of Zhang, Lin, Xu & Wang (DPGBA), KDD 2024, arXiv:2405.10757, which drops the `share` (3 %) of
    nodes that come out worst; and Ding, Li, Bhanushali & Liu (DOMINANT), SDM 2019, doi.org/10.1137/1.9781611975673.67. The
    defender holds the training set. A node's error is the distance of its features from what comes out, by 1 - `structure`,
    plus that of its row of the adjacency matrix from the inner products of its code with those of its graph, by `structure`.
    Four layers, of one node each or, where `structure` is not 0 (DOMINANT), graph convolutions; `hidden` units (0: a third of
    the features) make the code, the layers beside it have twice as many; `epochs` steps of Adam on all nodes at once. A graph
    scores as its worst node, a node as the worst within `hops` edges (ours), since triggers bring new neighbours.

    Presets: paper, the authors' code of DPGBA; dominant. Differs from them: rows are flagged, not all nodes; features need
    not lie in [0, 1], hence no sigmoid at the end; DOMINANT's dropout and the convolution that decodes structure are left out.
    """

    presets = {"paper": {"hidden": 0}, "dominant": {"structure": 0.2, "hidden": 64, "lr": 5e-3}}
    modalities = frozenset({"graph", "node"})
    needs = frozenset({"train"})
    about = "train"
    measure = "reconstruction error"
    structure: Rate = 0.0
    hidden: NonNegative = 32
    epochs: Positive = 100
    lr: PositiveFloat = 1e-3
    hops: NonNegative = 1
    share: Rate = 0.03

    def examine(self, evidence: Evidence, ctx: Context) -> Findings:
        inputs = evidence.train.move(ctx.device).inputs
        graphs = store(inputs)
        errors, nodes = self.errors(graphs, ctx), isinstance(inputs, Nodes)
        scores = around(errors, graphs, self.hops)[inputs.roots] if nodes else pool(errors[:, None], graphs, "max")[:, 0]
        return Findings(scores, highest(scores, self.share))

    def errors(self, graphs: Graphs, ctx: Context) -> Tensor:
        """Of every node, by an autoencoder trained on them all: float [N]."""
        width, weights = graphs.x.shape[1], graphs.x.new_tensor([1 - self.structure, self.structure])
        with scoped(ctx.key("autoencoder"), "init"):
            net = Autoencoder(width, self.hidden or max(1, width // 3), self.structure > 0).to(ctx.device)
        optimizer = torch.optim.Adam(net.parameters(), self.lr)
        for epoch in range(self.epochs):
            optimizer.zero_grad()
            (weights @ net(graphs)).mean().backward()
            optimizer.step()
            progress("training an autoencoder", (epoch + 1) / self.epochs)
        return torch.matmul(weights, net(graphs).detach().sqrt())


class Autoencoder(nn.Module):
    """Squared distances of every node's features and, with `convolve`, of its row of A + I from what it makes: [2, N]."""

    def __init__(self, width: int, hidden: int, convolve: bool) -> None:
        super().__init__()
        self.convolve, sizes = convolve, pairwise((width, 2 * hidden, hidden, 2 * hidden, width))
        self.layers = nn.ModuleList([GCNConv(*size) if convolve else nn.Linear(*size) for size in sizes])

    def forward(self, graphs: Graphs) -> Tensor:
        h = code = graphs.x
        for i, layer in enumerate(self.layers):
            h = layer(h.relu() if i else h, *[graphs] * self.convolve)
            code = h.relu() if i == 1 else code
        rows = of_rows(code, graphs) if self.convolve else h.new_zeros(len(h))
        return torch.stack([(h - graphs.x).square().sum(1), rows])


def of_rows(code: Tensor, graphs: Graphs) -> Tensor:
    """Squared distance of each node's row of A + I from its inner products with its graph's nodes: float [N]."""
    products = torch.cat([part @ (part.T @ part) for part in code.split(graphs.n_nodes.tolist())])
    crossed = (code * (products - 2 * (neighbour_sum(code, graphs) + code))).sum(1)
    return (crossed + graphs.in_degree + 1).clamp(min=0)  # rounding


def around(values: Tensor, graphs: Graphs, hops: int) -> Tensor:
    """The highest value within so many edges of every node: float [N]."""
    source, target = graphs.edge_index
    for _ in range(hops):
        values = values.scatter_reduce(0, target, values[source], "amax")
    return values
