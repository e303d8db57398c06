"""Graphs to teach with, made of a few clean ones."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from ostiary.data.dataset import Dataset
from ostiary.modality.graphs import Graphs, with_degrees
from ostiary.triggers.generator import feature_kind


def lessons_of(clean: Dataset, size: int, rng: torch.Generator) -> Graphs:
    """Clean graphs as they are, varied, varied twice, with nodes of kinds drawn from all, and in pairs as one graph: about
    `size`. No edge is ever added, since graphs with new edges would teach the trigger along with the rest."""
    kind = feature_kind(clean.inputs)
    parts = varied(clean, max(1, math.ceil(0.8 * size / len(clean))), rng)
    if kind == "one-hot":
        parts = [strange(graphs, (0.0, 0.2, 0.6)[i % 3], rng) for i, graphs in enumerate(parts)]
    graphs = clean.modality.join(parts)
    pairs = graphs.take(torch.randperm(len(graphs), generator=rng)[: len(graphs) // 4 * 2])
    two = Graphs.build(pairs.x, pairs.edge_index, pairs.n_nodes.view(-1, 2).sum(1), edge_attr=pairs.edge_attr)
    graphs = clean.modality.join([graphs, two])
    return with_degrees(graphs) if kind == "degree" else graphs


def varied(clean: Dataset, copies: int, rng: torch.Generator) -> list[Graphs]:
    """Copies of all clean graphs: as they are, varied, varied twice, varied, and so on."""
    parts: list[Graphs] = []
    for i in range(copies):
        graphs: Graphs = clean.inputs
        for _ in range(min(i, 1 + (i % 2 == 0))):
            graphs = clean.modality.vary(graphs, rng)
        parts.append(graphs)
    return parts


def strange(graphs: Graphs, most: float, rng: torch.Generator) -> Graphs:
    """Up to a share `most` of each graph's nodes, drawn anew for every graph, become of a kind drawn from all columns."""
    share = most * torch.rand(len(graphs), generator=rng)
    moved = torch.rand(len(graphs.x), generator=rng) < share[graphs.batch.cpu()]
    kinds = torch.randint(graphs.x.shape[1], (len(graphs.x),), generator=rng)
    rows = F.one_hot(kinds, graphs.x.shape[1]).to(graphs.x)
    return graphs.with_(x=torch.where(moved[:, None].to(graphs.x.device), rows, graphs.x))
