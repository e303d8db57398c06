"""Pairs of a graph's nodes, drawn without looking at each."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ostiary.devices import exact
from ostiary.modality.graphs import Graphs
from ostiary.modality.sparse import pointer
from ostiary.seeds import uniform

AT_ONCE = 32


def absent(graphs: Graphs, chance: float, seed: int, ids: Tensor) -> Tensor:
    """Each pair of nodes of one graph that no edge joins, with this chance: both directions of each, int64 [2, e], nodes
    numbered as in the store. ids: int64 [G]; what is drawn depends on the seed, a graph and its id alone.

    From hit to hit, in the order of the pairs, it is geometrically far, so that hits are drawn and not pairs.
    """
    near = exact(graphs.edge_index.device)
    n, ids = graphs.n_nodes.to(near), ids.to(near)
    size, hits, draw = n * (n - 1) // 2, [n.new_zeros(2, 0)], 0
    going = (size > 0).nonzero().flatten()  # graphs whose end is not reached: a large one does not hold up the others
    at = torch.full_like(going, -1)
    while len(going):
        left = 1 - uniform(seed, ids[going, None], torch.arange(draw, draw + AT_ONCE, device=near))
        places = at[:, None] + ((left.log() / math.log1p(-chance)).floor().long() + 1).cumsum(1)
        row, column = (places < size[going, None]).nonzero(as_tuple=True)
        hits.append(torch.stack([going[row], places[row, column]]))
        on = places[:, -1] < size[going]
        going, at, draw = going[on], places[on, -1], draw + AT_ONCE
    owner, place = torch.cat(hits, 1)
    new, held, many = pointer(n)[owner] + torch.stack(pair(place, n[owner])), graphs.edge_index.to(near), max(1, len(graphs.x))
    new = new[:, ~torch.isin(new[0] * many + new[1], held[0] * many + held[1])]
    return torch.cat([new, new.flip(0)], 1).to(graphs.edge_index.device)


def pair(place: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
    """The pair low < high of n nodes at this place, where (0, 1), (0, 2), ..., (1, 2), ... are counted from 0: int64 all."""

    def before(low: Tensor) -> Tensor:
        return low * (2 * n - low - 1) // 2

    odd = 2 * n - 1
    low = ((odd - (odd * odd - 8 * place).double().sqrt()) / 2).floor().long()
    low = low - (before(low) > place).long()
    low = low + (before(low + 1) <= place).long()  # whatever rounding lost
    return low, place - before(low) + low + 1
