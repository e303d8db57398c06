"""How much a loss falls per edge, as terms that give any block of node pairs without an N x N autograd graph.

An edge j -> i enters our layers in three places. In a sum of neighbours out_i += h_j, so its derivative is <G_i, h_j>
with G the gradient of `out`; it adds one to a degree, whose gradient is c_i; it enters a softmax, see `Attention`. The
derivative of the loss is the sum over all layers. One backward pass gives every G and c.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from ostiary.console import log
from ostiary.errors import InvalidInput, Unsupported
from ostiary.modality.graph import is_message_passing
from ostiary.modality.graphs import Graphs
from ostiary.modality.sparse import pointer, ranges
from ostiary.models.graph_layers import GATConv, GCNConv, GINConv, SAGEConv, Tape, recording
from ostiary.models.victim import Victim, evaluating, without_gradients

Loss = Callable[[Tensor, Tensor], Tensor]
Rows = Tensor | slice  # nodes of the store: int64 [..., n] or a range

RECORDED = frozenset({GCNConv, GINConv, SAGEConv, GATConv})
DENSE_EDGES = 1 << 17  # edges of complete graphs in one forward pass: fits the cache at usual widths


class Term(ABC):
    @abstractmethod
    def fall(self, target: Rows, source: Rows) -> Tensor:
        """-dL/dA of the edge source -> target, for all pairs of the two: float [..., t, s]."""

    def both(self, a: slice, b: slice) -> Tensor:
        """The same for both directions together: float [a, b]."""
        return self.fall(a, b) + self.fall(b, a).mT


def _rows(x: Tensor, rows: Rows) -> Tensor:
    if isinstance(rows, slice):
        return x[rows]
    return x.index_select(0, rows.flatten()).view(*rows.shape, -1)  # several times faster than x[rows]


@dataclass(frozen=True, eq=False)
class LowRank(Term):
    """<left_i, right_j>: all sums and degrees of all layers in one product. left, right: float [N, R]."""

    left: Tensor
    right: Tensor

    def fall(self, target: Rows, source: Rows) -> Tensor:
        return _rows(self.left, target) @ _rows(self.right, source).mT

    def both(self, a: slice, b: slice) -> Tensor:
        one, other = self._stacked
        return one[a] @ other[b].mT

    @cached_property
    def _stacked(self) -> tuple[Tensor, Tensor]:
        return torch.cat([self.left, self.right], 1), torch.cat([self.right, self.left], 1)


@dataclass(frozen=True, eq=False)
class Attention(Term):
    """alpha_ij (<G_i, h_j> - <G_i, out_i>), summed over heads: what one more summand does to a softmax's mean.

    alpha_ij is the attention that j would get from i at the present denominator. Not of low rank, but found from
    numbers per node. grad, h: float [heads, N, width]; own, to, at, total: float [heads, N].
    """

    grad: Tensor
    h: Tensor
    own: Tensor
    to: Tensor
    at: Tensor
    total: Tensor

    def fall(self, target: Rows, source: Rows) -> Tensor:
        heads = []
        for grad, h, own, to, at, total in zip(self.grad, self.h, self.own, self.to, self.at, self.total, strict=True):
            score = F.leaky_relu(at[target][..., :, None] + to[source][..., None, :], 0.2, inplace=True)
            alpha = score.sub_(total[target][..., :, None]).clamp_(max=80).exp_()  # an infinity times 0 would be NaN
            heads.append((_rows(grad, target) @ _rows(h, source).mT).sub_(own[target][..., :, None]).mul_(alpha))
        return torch.stack(heads).sum(0)


@dataclass(frozen=True, eq=False)
class Dense(Term):
    """Every entry, computed before. values: float [sum of n squared], graph by graph, by target and then source.

    start: where a target's values begin; local: a node's number in its graph: int64 [N].
    """

    values: Tensor
    start: Tensor
    local: Tensor

    def fall(self, target: Rows, source: Rows) -> Tensor:
        return self.values[self.start[target][..., :, None] + self.local[source][..., None, :]]


def terms(victim: Victim, graphs: Graphs, loss: Loss) -> list[Term]:
    """The terms whose sum is -dL/dA, on the victim's device."""
    layers = [m for m in victim.module.modules() if is_message_passing(m)]
    if graphs.x.requires_grad:
        graphs = graphs.with_(x=graphs.x.detach())
    with evaluating(victim), without_gradients(victim), torch.enable_grad():
        own = bool(layers) and all(type(m) in RECORDED for m in layers)
        return (own and _recorded(victim, graphs, loss)) or [_dense(victim, graphs, loss)]


def _value(loss: Loss, logits: Tensor, features: Tensor) -> Tensor:
    value = loss(logits, features)
    if value.ndim or not value.requires_grad:
        raise InvalidInput(
            f"the loss gave shape {tuple(value.shape)}, {'with' if value.requires_grad else 'without'} a gradient; expected "
            "a scalar computed from the logits or features"
        )
    return value


def _recorded(victim: Victim, graphs: Graphs, loss: Loss) -> list[Term]:
    with recording() as tape:
        logits, features = victim.both(graphs)
    places = [out for _, out in tape.sums] + [a.out for a in tape.attended] + tape.degrees
    if not places:  # the module has such layers and uses none
        return []
    falls = torch.autograd.grad(-_value(loss, logits, features), places, materialize_grads=True)
    return _terms(tape, list(falls))


def _terms(tape: Tape, falls: list[Tensor]) -> list[Term]:
    n_sums, n_attended = len(tape.sums), len(tape.attended)
    sums, attended, degrees = falls[:n_sums], falls[n_sums : n_sums + n_attended], falls[n_sums + n_attended :]
    found: list[Term] = []
    left, right = sums, [h for h, _ in tape.sums]
    if degrees:
        left = [*left, torch.stack(degrees).sum(0)[:, None]]
        right = [*right, torch.ones_like(left[-1])]
    if left:
        found.append(LowRank(torch.cat(left, 1), torch.cat(right, 1)))
    for layer, grad in zip(tape.attended, attended, strict=True):
        by_head = (grad, layer.h, (grad * layer.out.detach()).sum(2), layer.to, layer.at, layer.total)
        found.append(Attention(*(t.transpose(0, 1).contiguous() for t in by_head)))
    return found


def _dense(victim: Victim, graphs: Graphs, loss: Loss) -> Dense:
    """Through complete graphs whose edges exist with weight 1 or 0, in pieces; the loss is differentiated once."""
    out = [t.to(victim.device).requires_grad_() for t in victim.embed(graphs)]
    pushes = torch.autograd.grad(-_value(loss, *out), out, materialize_grads=True)
    cost = (graphs.n_nodes**2).cumsum(0)
    parts = (cost // DENSE_EDGES).unique_consecutive(return_counts=True)[1]
    pieces = torch.arange(len(graphs), device=cost.device).split(parts.tolist())
    found = [_dense_part(victim, graphs.take(rows), [p[rows] for p in pushes]) for rows in pieces]
    values, logits = (torch.cat(f) for f in zip(*found, strict=True))
    asked = out[0].detach()
    if bool((logits - asked).abs().max() > 1e-3 * asked.abs().max()):
        log.warning("an edge of weight 0 acts in %s: its edge gradients are a guess", type(victim.module).__name__)
    per_node = graphs.n_nodes[graphs.batch]
    local = torch.arange(len(graphs.x), device=cost.device) - graphs.node_ptr[graphs.batch]
    return Dense(values, pointer(per_node)[:-1], local)


def _dense_part(victim: Victim, graphs: Graphs, pushes: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Of these graphs the entries, float [sum of n squared], and the logits at which they were found."""
    per_node, first = graphs.n_nodes[graphs.batch], graphs.node_ptr[graphs.batch]
    nodes = torch.arange(len(graphs.x), device=graphs.x.device)
    target, source = nodes.repeat_interleave(per_node), ranges(first, per_node)
    at = pointer(per_node)[graphs.edge_index[1]] + graphs.edge_index[0] - first[graphs.edge_index[1]]
    there = graphs.x.new_zeros(len(target)).index_add_(0, at, graphs.x.new_ones(len(at)))  # an edge stored twice counts 2
    attr = None
    if graphs.edge_attr is not None:
        attr = graphs.edge_attr.new_zeros(len(target), graphs.edge_attr.shape[1])
        attr[at] = graphs.edge_attr
    keep = (target != source) | (there > 0)
    edges, weight = torch.stack([source, target])[:, keep], there[keep].requires_grad_()
    attr = None if attr is None else attr[keep]
    whole = Graphs.build(graphs.x, edges, graphs.n_nodes, edge_attr=attr, edge_weight=weight)
    logits, features = victim.both(whole)
    moved = [(t, push) for t, push in zip((logits, features), pushes, strict=True) if t.requires_grad]
    if not moved:
        raise Unsupported(f"neither logits nor features of {type(victim.module).__name__} pass a gradient to the edges")
    outs, by = zip(*moved, strict=True)  # features before the first layer know no edge
    slope = torch.autograd.grad(outs, weight, by, materialize_grads=True)[0]
    return torch.zeros_like(there).masked_scatter_(keep, slope), logits.detach()
