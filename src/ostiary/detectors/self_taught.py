"""An encoder of nodes that learns from features and edges alone, without labels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ostiary.console import progress
from ostiary.modality.graphs import Graphs
from ostiary.models.graph_layers import Conv, GCNConv


@dataclass(frozen=True)
class Lesson:
    """How long and by what an encoder learns: `epochs` of Adam on all nodes, temperature of the contrast, shares of edges
    and of features (of nodes, and of an embedding's columns) that a view lacks, weight and power of reconstruction."""

    epochs: int
    lr: float = 0.01
    temperature: float = 0.4
    edges: float = 0.3
    features: float = 0.3
    weight: float = 5.0
    power: float = 5.0


class SelfTaught(nn.Module):
    """Two graph convolutions that embed nodes, and two that reconstruct features from what is left of an embedding."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        half = max(1, hidden // 2)
        self.encoder = nn.ModuleList([GCNConv(width, half), GCNConv(half, hidden)])
        self.decoder = nn.ModuleList([GCNConv(hidden, half), GCNConv(half, width)])

    def embed(self, graphs: Graphs) -> Tensor:
        """float [N, hidden]."""
        return through(self.encoder, graphs.x, graphs)

    def teach(self, graphs: Graphs, rows: Tensor, alike: Tensor, hide: Tensor, lesson: Lesson, rng: torch.Generator) -> None:
        """rows: int64 [n], the nodes that are contrasted, reconstructed and masked. alike: float, one per number in
        `graphs.pairs`, the likeness of the ends of an edge; unlike ones go first. hide: bool [n, d], features that every view
        lacks."""
        optimizer = torch.optim.Adam(self.parameters(), lesson.lr, weight_decay=5e-4)
        for epoch in range(lesson.epochs):
            optimizer.zero_grad()
            whole, loss = F.normalize(self.embed(graphs)[rows], dim=1), graphs.x.new_zeros(())
            for _ in range(2):
                view = thinned(graphs, rows, alike, hide, lesson, rng)
                h = self.embed(view)
                loss = loss + 0.5 * contrast(whole, F.normalize(h[rows], dim=1), lesson.temperature)
                left = chances(h.shape[1], rng, h.device) >= lesson.features
                made = through(self.decoder, h * left, view)[rows]
                apart = (1 - F.cosine_similarity(made, graphs.x[rows])) ** lesson.power
                loss = loss + 0.5 * lesson.weight * apart.mean()
            loss.backward()
            optimizer.step()
            progress("learning without labels", (epoch + 1) / lesson.epochs)


def through(layers: nn.ModuleList, x: Tensor, graphs: Graphs) -> Tensor:
    first, second = layers
    assert isinstance(first, Conv)
    found: Tensor = second(first(x, graphs).relu(), graphs)
    return found


def contrast(anchors: Tensor, views: Tensor, temperature: float) -> Tensor:
    """InfoNCE of unit rows [n, d]: each anchor is to be nearest to its own view. A scalar."""
    own = torch.arange(len(anchors), device=anchors.device)
    return F.cross_entropy(anchors @ views.T / temperature, own)


def thinned(graphs: Graphs, rows: Tensor, alike: Tensor, hide: Tensor, lesson: Lesson, rng: torch.Generator) -> Graphs:
    """A view: edges gone, drawn by exp(-alike) without replacement; of `rows` the hidden features and others at random."""
    noise = -(-chances(len(alike), rng, alike.device).clamp(1e-12, 1 - 1e-7).log()).log()  # Gumbel
    gone = torch.zeros(len(alike), dtype=torch.bool, device=alike.device)
    gone[(noise - alike).topk(int(lesson.edges * len(alike))).indices] = True
    x = graphs.x.clone()
    x[rows] = x[rows].masked_fill(hide | (chances(hide.numel(), rng, x.device).view_as(hide) < lesson.features), 0.0)
    return graphs.with_edges(~gone[graphs.pairs]).with_(x=x)


def chances(n: int, rng: torch.Generator, device: torch.device) -> Tensor:
    """Uniform in [0, 1): float [n]."""
    return torch.rand(n, generator=rng).to(device)
