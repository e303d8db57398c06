"""Message-passing layers whose sums run as embedding bags; equal to PyG's layers of the same name (tests show it).

Every layer takes soft edges: `edge_weight` says how much an edge exists (it enters degrees and attention),
`edge_mask` how much of its message passes. Inside `recording()` every layer notes where edges enter, from which
`models.edge_gradient` finds the derivative of a loss by edges that are not there.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import fuse_linear_bn_eval

from ostiary.modality.graphs import Graphs
from ostiary.modality.sparse import bag_sum


def _times(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else a if b is None else a * b


@dataclass(frozen=True, eq=False)
class Attended:
    """One attention layer: out[i] = sum over j of exp(leaky_relu(to[j] + at[i]) - total[i]) h[j], self-loop included.

    h, out: float [N, heads, width]; to, at, total (the logarithm of the softmax's denominator): float [N, heads].
    """

    h: Tensor
    to: Tensor
    at: Tensor
    total: Tensor
    out: Tensor


@dataclass(frozen=True, eq=False)
class Tape:
    """Every place where a forward pass looked at the edges. `summed`, `out` and the degrees can be differentiated by."""

    sums: list[tuple[Tensor, Tensor]] = field(default_factory=list)  # (rows, summed): float [N, d] each
    degrees: list[Tensor] = field(default_factory=list)  # float [N]
    attended: list[Attended] = field(default_factory=list)


_tape: ContextVar[Tape | None] = ContextVar("_tape", default=None)


@contextmanager
def recording() -> Iterator[Tape]:
    """Inside, our layers write down where edges enter."""
    tape = Tape()
    token = _tape.set(tape)
    try:
        yield tape
    finally:
        _tape.reset(token)


def _tracked(x: Tensor) -> Tensor:
    return x if x.requires_grad else x.requires_grad_()


def weighted_degree(graphs: Graphs) -> Tensor:
    """Sum of the weights of the edges into each node: float [N]."""
    if graphs.edge_weight is None:
        degree = graphs.in_degree.to(graphs.x.dtype)
    else:
        zeros = graphs.edge_weight.new_zeros(len(graphs.x))
        degree = zeros.index_add(0, graphs.edge_index[1], graphs.edge_weight)
    if tape := _tape.get():
        tape.degrees.append(_tracked(degree))
    return degree


def neighbour_sum(h: Tensor, graphs: Graphs) -> Tensor:
    """Sum of the rows of each node's sources, by edge_weight and edge_mask: float [N, d]."""
    summed = bag_sum(h, graphs.adjacency, _times(graphs.edge_weight, graphs.edge_mask))
    if tape := _tape.get():
        tape.sums.append((h.detach(), _tracked(summed)))
    return summed


class Conv(nn.Module, ABC):
    """Base of the layers."""

    @abstractmethod
    def forward(self, x: Tensor, graphs: Graphs) -> Tensor:
        """float [N, d_in] -> [N, d_out]."""


class GCNConv(Conv):
    """D^-1/2 (A + I) D^-1/2 X W + b. Kipf & Welling, ICLR 2017, arXiv:1609.02907."""

    def __init__(self, d_in: int, d_out: int) -> None:
        super().__init__()
        self.lin = nn.Linear(d_in, d_out, bias=False)
        self.bias = nn.Parameter(torch.zeros(d_out))

    def forward(self, x: Tensor, graphs: Graphs) -> Tensor:
        scale = (weighted_degree(graphs) + 1).rsqrt()[:, None]
        h: Tensor = scale * self.lin(x)
        return scale * (neighbour_sum(h, graphs) + h) + self.bias


class GINConv(Conv):
    """MLP((1 + eps) x_i + sum of neighbours), eps = 0. Xu et al., ICLR 2019, arXiv:1810.00826."""

    def __init__(self, d_in: int, d_out: int, norm: bool = True) -> None:
        super().__init__()
        between = (nn.BatchNorm1d(d_out), nn.ReLU()) if norm else (nn.ReLU(),)
        self.mlp = nn.Sequential(nn.Linear(d_in, d_out), *between, nn.Linear(d_out, d_out))

    def forward(self, x: Tensor, graphs: Graphs) -> Tensor:
        # the first Linear commutes with the sum: sum the narrower side
        lin, *rest = self.mlp
        assert isinstance(lin, nn.Linear)
        if lin.in_features > lin.out_features:
            h = F.linear(x, lin.weight)
            h = h + neighbour_sum(h, graphs) + lin.bias
            for layer in rest:
                h = layer(h)
            return h
        out: Tensor = self.mlp(x + neighbour_sum(x, graphs))
        return out


class SAGEConv(Conv):
    """W_l mean of neighbours + b + W_r x_i. Hamilton et al., NeurIPS 2017, arXiv:1706.02216."""

    def __init__(self, d_in: int, d_out: int) -> None:
        super().__init__()
        self.lin_l = nn.Linear(d_in, d_out)
        self.lin_r = nn.Linear(d_in, d_out, bias=False)

    def forward(self, x: Tensor, graphs: Graphs) -> Tensor:
        degree = weighted_degree(graphs)
        degree = torch.where(degree > 0, degree, torch.ones_like(degree))
        out: Tensor = self.lin_l(neighbour_sum(x, graphs) / degree[:, None]) + self.lin_r(x)
        return out


class GATConv(Conv):
    """Attention over neighbours and the node itself, heads concatenated. Velickovic et al., ICLR 2018, arXiv:1710.10903.

    A soft edge enters the softmax as weight * exp(score).
    """

    def __init__(self, d_in: int, d_out: int, heads: int) -> None:
        super().__init__()
        self.heads, self.width = heads, d_out // heads
        self.lin = nn.Linear(d_in, self.width * heads, bias=False)
        self.att_src = nn.Parameter(torch.empty(heads, self.width))
        self.att_dst = nn.Parameter(torch.empty(heads, self.width))
        self.bias = nn.Parameter(torch.zeros(self.width * heads))
        for p in (self.att_src, self.att_dst):
            nn.init.xavier_uniform_(p)

    def forward(self, x: Tensor, graphs: Graphs) -> Tensor:
        heads, width = self.heads, self.width
        bags = graphs.adjacency.looped.repeated(heads)  # head by head, so that all of them are one sum
        h: Tensor = self.lin(x)
        ends = torch.cat([torch.block_diag(*self.att_src), torch.block_diag(*self.att_dst)])
        to, at = (ends @ h.T).view(2, -1)
        score = F.leaky_relu(to.index_select(0, bags.column) + at.index_select(0, bags.row), 0.2)
        top = torch.segment_reduce(score.detach(), "max", offsets=bags.offsets)
        near = (score - top.index_select(0, bags.row)).exp()
        if graphs.edge_weight is not None:
            near = near * self._by_entry(graphs.edge_weight, graphs)
        total = near.new_zeros(top.shape).index_add(0, bags.row, near)
        alpha = near / total.index_select(0, bags.row)
        if graphs.edge_mask is not None:
            alpha = alpha * self._by_entry(graphs.edge_mask, graphs)
        h = h.view(-1, heads, width)
        out = bag_sum(h.transpose(0, 1).reshape(-1, width), bags, alpha).view(heads, -1, width).transpose(0, 1)
        if tape := _tape.get():
            to, at, logs = (t.detach().view(heads, -1).T for t in (to, at, top + total.log()))
            tape.attended.append(Attended(h.detach(), to, at, logs, _tracked(out)))
        return out.flatten(1) + self.bias

    def _by_entry(self, edges: Tensor, graphs: Graphs) -> Tensor:
        """A number per edge as one per entry of every head; a node's own entry exists and passes wholly."""
        at = graphs.edge_index[1] + torch.arange(len(edges), device=edges.device)
        return edges.new_ones(len(edges) + len(graphs.x)).index_copy(0, at, edges).repeat(self.heads)


def pool(x: Tensor, graphs: Graphs, how: str = "sum") -> Tensor:
    """Node rows to one row per graph, `how` in sum, mean, max (ties share the gradient evenly): float [G, d]."""
    if how == "max":
        zeros = x.new_zeros(len(graphs), x.shape[1])
        return zeros.scatter_reduce(0, graphs.batch[:, None].expand_as(x), x, "amax", include_self=False)
    summed = bag_sum(x, graphs.membership)
    return summed / graphs.n_nodes.clamp(min=1)[:, None] if how == "mean" else summed


def fold_norms(module: nn.Module) -> None:
    """Fold, in place, each BatchNorm1d that follows a Linear in a Sequential into it: equal in evaluation mode."""
    for block in [m for m in module.modules() if type(m) is nn.Sequential]:
        for i, (lin, norm) in enumerate(itertools.pairwise(block)):
            plain = not any(m._forward_hooks or m._forward_pre_hooks for m in (lin, norm))  # hooks would be lost
            if plain and type(lin) is nn.Linear and type(norm) is nn.BatchNorm1d and norm.running_var is not None:
                block[i], block[i + 1] = fuse_linear_bn_eval(lin, norm), nn.Identity()
