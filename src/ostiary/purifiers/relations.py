"""Relation maps between the layers of a graph network, and how far two sets of them are apart (GraphNAD)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ostiary.modality.graphs import Graphs, unit


def node_weights(graphs: Graphs, degree: str) -> Tensor:
    """Each node's weight from its degree, itself counted: float [N] (sum: the degree, inv: one over it, none: 1).

    Attention and relations are normalised per graph, so the paper's division by the graph's total cancels.
    """
    own = graphs.in_degree.to(graphs.x.dtype) + 1
    return {"sum": own, "inv": 1 / own, "none": torch.ones_like(own)}[degree]


def padded(values: Tensor, graphs: Graphs) -> Tensor:
    """Rows of nodes, float [N, d], as float [G, most nodes, d] with zeros where a graph has fewer."""
    most, width = int(graphs.n_nodes.max()) if len(graphs) else 0, values.shape[1]
    shift = torch.arange(len(graphs), device=values.device) * most - graphs.node_ptr[:-1]
    place = torch.arange(len(values), device=values.device) + shift[graphs.batch]
    return values.new_zeros(len(graphs) * most, width).index_copy(0, place, values).view(len(graphs), most, width)


def directions(width: int, n: int, rng: torch.Generator, like: Tensor) -> Tensor:
    """Random unit directions as columns: float [width, n]."""
    return F.normalize(torch.randn(width, n, generator=rng, dtype=like.dtype), dim=0).to(like.device)


def slices(
    layers: Sequence[Tensor], pairs: Sequence[tuple[int, int]], along: Sequence[Tensor], graphs: Graphs, weight: Tensor
) -> list[Tensor]:
    """Of each pair of layers, the rows of its relation map along directions (float [d', n] per pair): float [G, n, d].

    The map, [d, d'], says how much channels of one and of the other are high at the same nodes. layers: float [N, d] each;
    columns are weighted (float [N]) and brought to unit norm in each graph. The map itself is not made: A' (B u) is less
    work than (A' B) u, and the first product needs no padding.
    """
    units = [unit(weight[:, None] * h, graphs) for h in layers]
    wide = {i: padded(units[i], graphs) for i in {i for i, _ in pairs}}
    return [padded(units[j] @ u, graphs).transpose(1, 2) @ wide[i] for (i, j), u in zip(pairs, along, strict=True)]


def sliced_distance(a: Tensor, b: Tensor) -> Tensor:
    """Mean over graphs of the squared sliced Wasserstein-2 distance between points that are given by their places along
    the same directions, float [G, directions, points]."""
    return (ordered(a) - ordered(b)).square().mean()


def ordered(values: Tensor) -> Tensor:
    """In ascending order along the last axis. On a CPU NumPy sorts short rows several times faster than torch."""
    if values.device.type != "cpu":
        return values.sort(-1).values
    if not values.requires_grad:
        return torch.from_numpy(np.sort(values.numpy(), axis=-1))
    return values.gather(-1, torch.from_numpy(np.argsort(values.detach().numpy(), axis=-1)))
