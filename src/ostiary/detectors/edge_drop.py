"""How far a model's answers move when edges go at random: what RIGBD scores, and the network without self-loops it trains."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from ostiary.console import progress
from ostiary.data.dataset import Dataset
from ostiary.modality.base import Inputs
from ostiary.modality.graphs import Graphs, are_degrees, with_degrees
from ostiary.modality.nodes import Nodes, store
from ostiary.models.graph_layers import Conv, neighbour_sum, weighted_degree
from ostiary.models.graph_nets import GraphArchitecture
from ostiary.models.victim import Victim
from ostiary.seeds import uniform

BUDGET = 2**23  # entries of x that are copied at a time


def sway(victim: Victim, data: Dataset, passes: int, rate: float, seed: int, keep_last: bool = True) -> tuple[Tensor, Tensor]:
    """Sum over passes of KL(whole || thinned) of every input, float64 [n], and the logits on the whole data, [n, k]."""
    inputs, n = data.inputs, len(data)
    nodes = isinstance(inputs, Nodes)
    graphs = store(inputs)
    ids = torch.arange(len(graphs)) if nodes else data.ids  # an input's draws do not depend on the others
    logits = victim.predict(inputs)
    before = logits.double().log_softmax(1)
    total, degrees = torch.zeros(n, dtype=torch.float64), are_degrees(graphs)
    for draws in torch.arange(passes).split(max(1, BUDGET // max(1, graphs.x.numel()))):
        many: Inputs = thinned(graphs, ids, draws, rate, seed, keep_last)
        many = with_degrees(many) if degrees else many
        if nodes:
            shift = len(graphs.x) * torch.arange(len(draws))[:, None]
            many = Nodes.of(many, (inputs.roots + shift).flatten())
        after = victim.predict(many).double().log_softmax(1).view(len(draws), n, -1)
        total += (before.exp() * (before - after)).sum((0, 2))
        progress("dropping edges", (int(draws[-1]) + 1) / passes)
    return total, logits


def thinned(graphs: Graphs, ids: Tensor, draws: Tensor, rate: float, seed: int, keep_last: bool = True) -> Graphs:
    """A copy of all graphs for every one of `draws` (int64 [K]), in each of which an undirected edge is missing with
    probability `rate`; with `keep_last` a node that would lose its last edge keeps all of them. ids: int64 [G], names of
    the graphs."""
    g, k = len(graphs), len(draws)
    many = graphs.take(torch.arange(g).repeat(k))
    local = many.edge_index - many.node_ptr[many.edge_batch]
    key = (ids.repeat(k)[many.edge_batch] << 42) + (torch.minimum(*local) << 21) + torch.maximum(*local)
    keep = uniform(seed, key, draws.repeat_interleave(g)[many.edge_batch]) >= rate
    if keep_last:
        left = torch.bincount(many.edge_index[:, keep].flatten(), minlength=len(many.x))
        keep |= (left == 0)[many.edge_index].any(0)
    return many.with_edges(keep)


class LooplessConv(Conv):
    """D^-1/2 A D^-1/2 X W + b: a node sees its neighbours, not itself."""

    def __init__(self, d_in: int, d_out: int) -> None:
        super().__init__()
        self.lin = nn.Linear(d_in, d_out, bias=False)
        self.bias = nn.Parameter(torch.zeros(d_out))

    def forward(self, x: Tensor, graphs: Graphs) -> Tensor:
        scale = weighted_degree(graphs).clamp(min=1).rsqrt()[:, None]
        return scale * neighbour_sum(scale * self.lin(x), graphs) + self.bias


class Loopless(GraphArchitecture):
    """A graph convolutional network without self-loops. Not registered: only a means of detection."""

    def convs(self, *widths: int) -> list[Conv]:
        return [LooplessConv(a, b) for a, b in pairwise(widths)]
