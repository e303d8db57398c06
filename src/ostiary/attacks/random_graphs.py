"""Random trigger subgraphs: edges among `size` nodes, and the size that papers take."""

from __future__ import annotations

import math
from typing import Literal

import torch

from ostiary.data.dataset import Dataset

Edges = tuple[tuple[int, int], ...]
Model = Literal["er", "ws", "ba"]


def trigger_size(train: Dataset, share: float = 0.2) -> int:
    """`share` of the mean number of nodes, at least 2 (20 %: Sub-BA and GCleaner)."""
    return max(2, int(share * train.inputs.x.shape[0] / len(train)))


def random_graph(model: Model, size: int, density: float, degree: int, rng: torch.Generator) -> Edges:
    """An Erdos-Renyi, Watts-Strogatz or Barabasi-Albert graph; of one node it has no edge."""
    if size == 1:
        return ()
    if model == "er":
        return erdos_renyi(size, density, rng)
    return watts_strogatz(size, degree, density, rng) if model == "ws" else barabasi_albert(size, degree, rng)


def erdos_renyi(size: int, density: float, rng: torch.Generator) -> Edges:
    """Every edge with probability `density`; connected where that is to be expected, else at least not empty."""
    pairs = torch.combinations(torch.arange(size))
    for _ in range(1000):
        drawn = pairs[torch.rand(len(pairs), generator=rng) < density]
        edges = tuple((i, j) for i, j in drawn.tolist())
        connected = _connected(size, edges)
        if edges and (connected or density <= math.log(size) / size):
            return edges
    return tuple((i, i + 1) for i in range(size - 1))


def watts_strogatz(size: int, degree: int, rewire: float, rng: torch.Generator) -> Edges:
    """A ring in which each node knows its `degree` nearest (rounded down to even, at least 2), ends rewired with
    probability `rewire` to a node not yet joined. Watts & Strogatz, Nature 1998."""
    half = max(1, min(degree, size - 1) // 2)
    found = {tuple(sorted((i, (i + k) % size))) for k in range(1, half + 1) for i in range(size) if size > 1}
    for edge in sorted(found):
        free = [n for n in range(size) if n != edge[0] and tuple(sorted((edge[0], n))) not in found]
        if free and float(torch.rand(1, generator=rng)) < rewire:
            found.remove(edge)
            found.add(tuple(sorted((edge[0], free[int(torch.randint(len(free), (1,), generator=rng))]))))
    return tuple(sorted((a, b) for a, b in found))


def barabasi_albert(size: int, degree: int, rng: torch.Generator) -> Edges:
    """Nodes arrive one by one and join `degree` others, chosen in proportion to their degree, from a star of
    `degree` + 1 nodes on. Barabasi & Albert, Science 1999."""
    m = max(1, min(degree, size - 1))
    found = [(0, i) for i in range(1, m + 1)]
    for new in range(m + 1, size):
        weight = torch.bincount(torch.tensor(found).flatten(), minlength=new).float()
        chosen = torch.multinomial(weight, m, generator=rng)
        found += [(int(old), new) for old in chosen.sort()[0]]
    return tuple(sorted(found))


def _connected(size: int, edges: Edges) -> bool:
    reached, before = {0}, 0
    while len(reached) > before:
        before = len(reached)
        reached |= {n for edge in edges if set(edge) & reached for n in edge}
    return len(reached) == size


def flip_budget(train: Dataset) -> int:
    """The mean number of edges of an Erdos-Renyi trigger of 20 % of the mean graph size and density 0.8, at least 1."""
    size = round(0.2 * len(train.inputs.x) / len(train))
    return max(1, round(0.8 * size * (size - 1) / 2))
