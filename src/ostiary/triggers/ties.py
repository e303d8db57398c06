"""Edge flips whose scores tie: what is chosen among them must not hang on rounding, which the rest of a batch changes."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ostiary.devices import wide
from ostiary.models.edge_gradient import Flips

SPARE, MOST = 16, 1024  # more pairs than wanted, so that ties are seen; where all of these tie, eight times as many
TIE = 2e-5  # of the best score; rounding moves a score by some 1e-6 of it


def best(search: Callable[[Tensor], Flips], m: Tensor) -> Tensor:
    """The best m (int64 [G]) pairs of each graph, int64 [G, max m, 2]. search: how many of each graph -> the best of them."""
    spare = SPARE
    found = search(m + spare)
    while spare < MOST and undecided(found, m):
        spare *= 8
        found = search(m + spare)
    return settled(found, m)


def levels(found: Flips) -> Tensor:
    """0 for the best score of each graph, 1 for the next, and so on: float64 [G, k], infinite where there is no pair. By gaps,
    since a score may stand at the edge of any fixed step."""
    falls = found.scores.diff(dim=1).abs() > TIE * found.scores[:, :1].abs()
    return F.pad(wide(falls).cumsum(1), (1, 0)).masked_fill(found.pairs[:, :, 0] < 0, torch.inf)


def settled(found: Flips, m: Tensor) -> Tensor:
    """The best m (int64 [G]) pairs of each graph, int64 [G, max m, 2], in an order no rounding error can change: the scores
    of twin nodes tie, and then the lower node numbers come first."""
    level, pairs = levels(found), found.pairs
    for place in (1, 0, None):  # the last key counts most
        key = level if place is None else pairs[:, :, place]
        order = torch.argsort(key, dim=1, stable=True)
        pairs, level = pairs.gather(1, order[:, :, None].expand(-1, -1, 2)), level.gather(1, order)
    pairs = pairs[:, : int(m.amax()) if len(m) else 0]  # those looked at for ties alone would make the next search wider
    late = torch.arange(pairs.shape[1], device=pairs.device) >= m[:, None].to(pairs.device)
    return pairs.masked_fill(late[:, :, None], -1)


def undecided(found: Flips, m: Tensor) -> bool:
    """Whether in a graph pairs that were not found may tie with the last of the best m (int64 [G])."""
    level, m = levels(found), m.to(found.pairs.device)
    held = torch.isfinite(level)
    last = level.masked_fill(~held, -torch.inf).amax(1)
    ties = level.gather(1, (m - 1).clamp(min=0)[:, None])[:, 0] == last
    return bool((ties & (m > 0) & (held.sum(1) >= m + SPARE)).any())


def without(found: Flips, done: Tensor) -> Flips:
    """The pairs that are not among `done`, int64 [G, k, 2]; the others stand last, as -1."""
    known = (found.pairs[:, :, None] == done[:, None]).all(3).any(2)
    order = known.long().argsort(dim=1, stable=True)
    pairs = found.pairs.masked_fill(known[:, :, None], -1).gather(1, order[:, :, None].expand(-1, -1, 2))
    return Flips(pairs, found.scores.masked_fill(known, -torch.inf).gather(1, order))
