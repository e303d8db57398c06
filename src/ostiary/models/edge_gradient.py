"""The derivative of a graph model's loss by every present and absent edge, and the pairs whose flip lowers it most.

Victims made of our own layers (`graph_layers`) need one forward and one backward pass and then products of a few columns
per node (`edge_terms`); memory grows with the number of nodes, not with its square. Exact for GCN, GIN, GraphSAGE and GAT:
equal to automatic differentiation by a dense adjacency matrix, degrees and softmax included. Under max pooling nodes that
tie share the gradient; where rounding parts twins that ought to tie, the larger takes it all, with a dense matrix as here.
GraphSAGE takes the mean over max(1, degree) neighbours, so an edge into a node without any is judged by what the whole
edge adds to that mean (a faint edge would already replace all of it, an infinite slope).

Any other module goes through complete graphs whose absent edges have weight 0. That is exact where the module takes
`edge_weight` so that an edge of weight 0 is no edge (PyG's GCNConv), or sums its messages (PyG's GINConv). PyG layers
that take means or attention over neighbours and no weight still count the faded edges: their derivatives belong to the
complete graph and are a guess, which is logged as a warning. Of a module that calls our layers, what else it reads from
the edges is not seen.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from ostiary.errors import InvalidInput
from ostiary.modality.graphs import Graphs
from ostiary.modality.sparse import ranges
from ostiary.models.edge_terms import Loss, Term, terms
from ostiary.models.victim import Victim

PADDED = 600  # graphs up to this many nodes are padded to a common size; larger ones are searched tile by tile
ENTRIES = 1 << 18  # pairs in one padded batch: about what the cache holds
TILE = (256, 2048)  # rows and columns of a tile, for the same reason


@dataclass(frozen=True, eq=False)
class Flips:
    """Undirected pairs to flip, the best first.

    pairs: int64 [G, m, 2], node numbers of the store, the smaller first; -1 where a graph has fewer.
    scores: float [G, m], how much each flip lowers the loss to first order; -inf where there is no pair.
    """

    pairs: Tensor
    scores: Tensor


def top_flips(victim: Victim, graphs: Graphs, loss: Loss, m: int | Tensor, *, positive_only: bool = False) -> Flips:
    """For each graph the m undirected pairs whose flip lowers the loss most to first order.

    Score of i < j: (2A - 1)_ij (dL/dA_ij + dL/dA_ji). Never a self-loop; a pair stored in one direction only counts as
    present. Nothing is drawn: equal scores stand in any, but a fixed, order.

    Args:
        loss: (logits [G, k], features [G, d]) -> scalar, the sum of every graph's own loss.
        m: pairs per graph, one number or int64 [G].
        positive_only: leave out pairs whose flip would not lower the loss.
    """
    _check(graphs)
    moved = victim.modality.move(graphs, victim.device)
    wanted = torch.as_tensor(m, dtype=torch.int64, device=victim.device)
    least, width = (int(wanted.min()), int(wanted.max())) if wanted.numel() else (0, 0)
    if least < 0:
        raise InvalidInput(f"m is {least} for a graph; expected 0 or more pairs")
    if wanted.ndim and len(wanted) != len(graphs):
        raise InvalidInput(f"m holds {len(wanted)} numbers for {len(graphs)} graphs; give one per graph, or one for all")
    wanted = wanted.expand(len(graphs))
    pairs = moved.node_ptr.new_full((len(graphs), width, 2), -1)
    scores = moved.x.new_full((len(graphs), width), -torch.inf)
    found = terms(victim, moved, loss) if width and len(graphs) else []
    small = (wanted > 0) & (moved.n_nodes <= PADDED)
    for rows in _batches(moved, small):
        best, at = _search_padded(found, moved, rows, width)
        scores[rows, : best.shape[1]], pairs[rows, : best.shape[1]] = best, at
    for g in ((wanted > 0) & ~small).nonzero().flatten().tolist():
        best, at = _search_tiles(found, moved, g, int(wanted[g]))
        scores[g, : len(best)], pairs[g, : len(best)] = best, at
    out = torch.arange(width, device=victim.device) >= wanted[:, None]
    out = out | (scores <= (0 if positive_only else -torch.inf))
    pairs, scores = pairs.masked_fill(out[:, :, None], -1), scores.masked_fill(out, -torch.inf)
    return Flips(pairs.to(graphs.x.device), scores.to(graphs.x.device))


def flip(graphs: Graphs, pairs: Tensor) -> Graphs:
    """The graphs with these undirected pairs flipped, each in both directions: absent ones added, present ones removed.

    pairs: int64 [..., 2], node numbers of the store; -1 is passed over, and a pair named twice is flipped once. New
    edges get an edge_attr of zeros.
    """
    _check(graphs)
    n = len(graphs.x)
    low, high = _ends(pairs.reshape(-1, 2).T)
    key = (low * n + high)[(low >= 0) & (low < high)].unique()
    low, high = _ends(graphs.edge_index)
    present = low * n + high
    keep = torch.isin(present, key, invert=True)
    new = key[torch.isin(key, present, invert=True)]
    low, high = new // max(1, n), new % max(1, n)
    added = torch.stack([torch.cat([low, high]), torch.cat([high, low])])
    return graphs.with_edges(keep).with_added(added)


def pair_gradient(victim: Victim, graphs: Graphs, loss: Loss) -> list[Tensor]:
    """Per graph dL/dA, float [n, n]: row i, column j is the edge j -> i, so row i receives. The diagonal is 0."""
    _check(graphs)
    moved = victim.modality.move(graphs, victim.device)
    found = terms(victim, moved, loss)
    spans = [slice(*p) for p in pairwise(moved.node_ptr.tolist())]
    return [_total(t.fall(s, s) for t in found).neg().fill_diagonal_(0).to(graphs.x.device) for s in spans]


def _check(graphs: Graphs) -> None:
    if graphs.edge_weight is not None or graphs.edge_mask is not None:
        raise InvalidInput("edges are flipped in whole, and the graphs carry edge_weight or edge_mask; leave these out")


def _ends(pairs: Tensor) -> tuple[Tensor, Tensor]:
    """(smaller, larger) of int64 [2, E]; many times faster than amin and amax."""
    return torch.minimum(*pairs), torch.maximum(*pairs)


def _total(parts: Iterable[Tensor]) -> Tensor:
    first, *rest = parts
    for other in rest:
        first = first.add_(other)
    return first


def _batches(graphs: Graphs, chosen: Tensor) -> list[Tensor]:
    """The chosen graphs, by size, in batches of about ENTRIES pairs after padding."""
    sizes, order = graphs.n_nodes.sort(stable=True)
    order, sizes = order[chosen[order]], sizes[chosen[order]]
    cost = (sizes**2).cumsum(0) // ENTRIES
    return list(order.split(cost.unique_consecutive(return_counts=True)[1].tolist()))


def _search_padded(found: list[Term], graphs: Graphs, rows: Tensor, m: int) -> tuple[Tensor, Tensor]:
    """(scores [B, k], pairs [B, k, 2]) of a batch of graphs, k <= m."""
    sizes, first = graphs.n_nodes[rows], graphs.node_ptr[rows]
    n = int(sizes.max())
    step = torch.arange(n, device=rows.device)
    nodes = first[:, None] + torch.minimum(step, (sizes[:, None] - 1).clamp(min=0))  # padding repeats the last node
    score = _total(t.fall(nodes, nodes) for t in found)
    score = score + score.mT
    edges = ranges(graphs.edge_ptr[rows], graphs.n_edges[rows])
    batch = torch.arange(len(rows), device=rows.device).repeat_interleave(graphs.n_edges[rows])
    low, high = _ends(graphs.edge_index[:, edges] - first[batch])
    at = (batch * n + low) * n + high
    flat = score.view(-1)
    flat[at] = -flat[at]  # both directions name the same entry: all are read before any is written
    score.masked_fill_((step[:, None] >= step) | (step >= sizes[:, None])[:, None], -torch.inf)
    best, at = score.flatten(1).topk(min(m, n * n))
    return best, torch.stack([at // max(1, n), at % max(1, n)], 2) + first[:, None, None]


def _search_tiles(found: list[Term], graphs: Graphs, g: int, m: int) -> tuple[Tensor, Tensor]:
    """(scores [k], pairs [k, 2]) of one large graph, k <= m: tiles of the upper triangle, and only what beats the m best."""
    start, n = int(graphs.node_ptr[g]), int(graphs.n_nodes[g])
    edges = graphs.edge_index[:, int(graphs.edge_ptr[g]) : int(graphs.edge_ptr[g + 1])] - start
    low, high = _ends(edges)
    low, order = low.sort()
    high = high[order]
    best, at = graphs.x.new_empty(0), edges.new_empty(0)
    height, width = TILE
    for top in range(0, n if m else 0, height):
        bottom = min(top + height, n)
        here = slice(*torch.searchsorted(low, low.new_tensor([top, bottom])).tolist())
        for left in range(top, n, width):
            right = min(left + width, n)
            a, b = slice(start + top, start + bottom), slice(start + left, start + right)
            tile = _total(t.both(a, b) for t in found)
            mine = (high[here] >= left) & (high[here] < right)
            r, c = low[here][mine] - top, high[here][mine] - left
            tile[r, c] = -tile[r, c]
            if left < bottom:  # the tile holds part of the diagonal
                part = tile[:, : bottom - left]
                part.masked_fill_(torch.ones_like(part, dtype=torch.bool).tril_(top - left), -torch.inf)
            best, at = _merge(best, at, tile, (top, left, n), m)
    return best, torch.stack([at // n, at % n], 1) + start


def _merge(best: Tensor, at: Tensor, tile: Tensor, place: tuple[int, int, int], m: int) -> tuple[Tensor, Tensor]:
    """The m best so far, sorted, and their flat positions, once the tile is looked through."""
    least = best[-1] if len(best) == m else best.new_tensor(-torch.inf)
    rows = (tile.amax(1) > least).nonzero().flatten()  # mostly none
    if not len(rows):
        return best, at
    values, kept = tile[rows].flatten().topk(min(m, len(rows) * tile.shape[1]))
    top, left, n = place
    position = (rows[kept // tile.shape[1]] + top) * n + kept % tile.shape[1] + left
    values, kept = torch.cat([best, values]).topk(min(m, len(best) + len(values)))
    return values, torch.cat([at, position])[kept]
