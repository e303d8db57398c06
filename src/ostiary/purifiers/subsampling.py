"""Randomised subsampling."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ostiary.devices import exact
from ostiary.modality.graphs import Graphs
from ostiary.models.votes import View
from ostiary.purifiers.sampled import RandomEdges, Sampled, Share
from ostiary.seeds import derive, uniform


class Subsampling(Sampled, name="subsampling"):
    """Trains on and votes over random subsets of each graph's node pairs, with a certificate for flipped pairs.

    Source: Zhang, Jia, Wang & Gong, Backdoor attacks to graph neural networks, SACMAT 2021, arXiv:2006.11165, section 5. The
    defender holds the training set, or with `retrain` off the model and a few clean graphs. Of the N = n (n - 1) / 2 pairs of
    a graph, edges or not, k = floor(`kappa` N) are kept (0.1: authors' code), so that the number of edges kept is
    hypergeometric; all other pairs are cleared and degree features counted again. A subset shows one of e flipped pairs
    with probability 1 - C(N - e, k) / C(N, k): certified where the bounds of the leading class and the next (Clopper &
    Pearson, two-sided at `alpha` over the classes) lie further apart than twice that. `samples` 1000 (enough for alpha
    0.001; the usual 10,000 costs ten times the time).

    Differs from the authors' code, which judges one subset, without vote or certificate. A certificate for the model
    as trained, not for the training set.
    """

    kappa: Share = 0.1

    def view(self, key: int = 0, degrees: bool = False) -> View:
        return PairSubsets(self.kappa, self.samples, key, degrees)

    def lead(self, first: Tensor, second: Tensor, inputs: Graphs) -> Tensor:
        return first - second - 2 * self.change(inputs)

    def change(self, inputs: Graphs) -> Tensor:
        """The probability that a subset shows any of e flipped pairs; no share moves by more: float64 [n, e]."""
        n = inputs.n_nodes.cpu() * (inputs.n_nodes.cpu() - 1) // 2
        k = chosen(n, self.kappa)
        part = float((k[k > 0] / n[k > 0]).min()) if bool((k > 0).any()) else 1.0
        most = 2 if part == 1 else math.ceil(math.log(0.5) / math.log(1 - part)) + 2  # from here on above one half
        e = torch.arange(most)
        hidden = log_choose(n[:, None] - e, k[:, None]) - log_choose(n, k)[:, None]
        return torch.where(k[:, None] > 0, 1 - hidden.exp(), 0.0)


class PairSubsets(RandomEdges):
    """A uniformly random subset of k of a graph's pairs, of which only the edges matter: first how many, then which."""

    def __init__(self, kappa: float, samples: int, key: int, degrees: bool) -> None:
        super().__init__(samples, key, degrees)
        self.kappa = kappa

    def keep(self, batch: Graphs, pairs: Tensor, which: Tensor) -> Tensor:
        key, near = int(self.key), exact(which.device)
        owner, pairs, which = (v.to(near) for v in (batch.edge_batch, pairs, which))
        kept = self.number(batch, uniform(derive(key, "number"), which))
        order = (owner + uniform(key, pairs, which[owner])).argsort()  # an edge's directions adjoin
        rank = torch.empty_like(order)
        rank[order] = torch.arange(len(order), device=near) - batch.edge_ptr.to(near)[owner]
        return (rank < 2 * kept[owner]).to(batch.x.device)

    def number(self, batch: Graphs, chance: Tensor) -> Tensor:
        """How many edges fall into the subset, where the hypergeometric distribution reaches `chance`: int64 [G]."""
        held = torch.stack([batch.n_nodes, batch.n_edges // 2]).to(chance.device)
        kinds, at = held.unique(dim=1, return_inverse=True)
        nodes, edges = kinds[:, :, None]
        n = nodes * (nodes - 1) // 2
        k, m = chosen(n, self.kappa), torch.arange(int(edges.max()) + 1, device=edges.device)
        mass = (log_choose(edges, m) + log_choose(n - edges, k - m) - log_choose(n, k)).exp()
        steps = mass.cumsum(1).clamp(max=1.0)
        steps[:, -1] = 2.0  # whatever rounding lost
        shift = 2.0 * torch.arange(len(steps), device=steps.device)[:, None] + steps
        found: Tensor = torch.searchsorted(shift.flatten(), 2.0 * at + chance, right=True) - at * len(m)
        return found.minimum(held[1])


def chosen(pairs: Tensor, kappa: float) -> Tensor:
    """floor(kappa N), unmoved by rounding: int64."""
    return (pairs.double() * kappa + 1e-9).floor().long()


def log_choose(n: Tensor, k: Tensor) -> Tensor:
    """log of n over k, -inf where there is no such subset: float64."""
    n, k = torch.broadcast_tensors(n.double(), k.double())
    found = (n + 1).lgamma() - (k + 1).lgamma() - (n - k + 1).lgamma()
    return torch.where((k >= 0) & (k <= n), found, -torch.inf)
