"""Measures of explanations, for every graph at once: shape of the explaining subgraph, course of the explainer's loss."""

from __future__ import annotations

import torch
from torch import Tensor

from ostiary.explainers.fidelity import touched
from ostiary.modality.graphs import Graphs


def components(graphs: Graphs, edges: Tensor) -> Tensor:
    """Into how many pieces these edges (bool [E]) fall: int64 [G], 0 where there are none."""
    source, target = graphs.edge_index[:, edges]
    root, known = torch.arange(len(graphs.x)), None
    while known is None or not torch.equal(root, known):  # every node takes the smallest number that it can reach
        known = root
        root = root.scatter_reduce(0, target, root[source], "amin").scatter_reduce(0, source, root[target], "amin")
        root = root[root]
    roots = touched(graphs, edges) & (root == torch.arange(len(root)))
    return torch.bincount(graphs.batch[roots], minlength=len(graphs))


def degree_variance(graphs: Graphs, edges: Tensor, nodes: Tensor) -> Tensor:
    """Of the degrees that these nodes (bool [N]) have in these edges (bool [E]): float [G], 0 without nodes."""
    degree = torch.bincount(graphs.edge_index[1, edges], minlength=len(graphs.x)).to(graphs.x.dtype)[nodes]
    group, n = graphs.batch[nodes], len(graphs)
    count = torch.bincount(group, minlength=n).clamp(min=1)
    mean = degree.new_zeros(n).index_add(0, group, degree) / count
    return degree.new_zeros(n).index_add(0, group, (degree - mean[group]).square()) / count


def bend(losses: Tensor) -> tuple[Tensor, Tensor]:
    """(elbow, curvature) of loss curves, float [epochs, G] -> float [G] each, both axes scaled to [0, 1].

    The elbow is the epoch at which the curve lies furthest below the chord of its ends (Satopaa et al., 2011); the
    curvature is that of the parabola through the curve's first value, its value at the elbow and its last.
    A curve that is flat has its elbow at the end and no curvature.
    """
    epochs = len(losses)
    span = losses.amax(0) - losses.amin(0)
    curve = (losses - losses.amin(0)) / span.clamp(min=1e-12)
    t = torch.linspace(0, 1, epochs, dtype=losses.dtype)[:, None]
    below = curve[0] + t * (curve[-1] - curve[0]) - curve
    depth, at = below.max(0)
    elbow = t[at, 0]
    flat = (span < 1e-12) | (depth <= 0)
    curvature = 2 * depth / (elbow * (1 - elbow)).clamp(min=1e-12)
    return torch.where(flat, 1.0, elbow), torch.where(flat, 0.0, curvature)
