"""Relation maps between the layers of a graph network, and how far two sets of them are apart (GraphNAD)."""

from __future__ import annotations

from collections.abc import Sequence

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
    place = torch.arange(len(values), device=values.device) - graphs.node_ptr[graphs.batch]
    most = int(graphs.n_nodes.max()) if len(graphs) else 0
    return values.new_zeros(len(graphs), most, values.shape[1]).index_put((graphs.batch, place), values)


def relation_maps(layers: Sequence[Tensor], pairs: Sequence[tuple[int, int]], graphs: Graphs, weight: Tensor) -> list[Tensor]:
    """Of each pair of layers, float [G, d, d']: how much channels of one and of the other are high at the same nodes.

    layers: float [N, d] each; columns are weighted (float [N]) and brought to unit norm in each graph.
    """
    units = [padded(unit(weight[:, None] * h, graphs), graphs) for h in layers]
    return [units[i].transpose(1, 2) @ units[j] for i, j in pairs]


def sliced_distance(a: Tensor, b: Tensor, directions: int, rng: torch.Generator) -> Tensor:
    """Mean over graphs of the squared sliced Wasserstein-2 distance between the rows of two maps, float [G, d, d'].

    directions: how many random unit directions the rows are projected on; all graphs share them.
    """
    along = F.normalize(torch.randn(a.shape[2], directions, generator=rng, dtype=a.dtype), dim=0).to(a.device)
    one, two = ((along.t() @ rows.transpose(1, 2)).sort(2).values for rows in (a, b))  # sorted faster as the last axis
    return (one - two).square().mean()
