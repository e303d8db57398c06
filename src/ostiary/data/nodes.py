"""Node classification: a seeded block model, and the Planetoid citation graphs."""

from __future__ import annotations

import re
from dataclasses import replace

import torch
from torch import Tensor

from ostiary.component import NonNegative, Positive, PositiveFloat, Rate, build
from ostiary.data.cache import cached, pyg_root
from ostiary.data.dataset import Dataset, Splits
from ostiary.data.source import DataSource
from ostiary.errors import InvalidInput
from ostiary.modality.graphs import Graphs
from ostiary.modality.nodes import Nodes, firsts, induced
from ostiary.seeds import generator


class NodeSource(DataSource):
    """One graph whose nodes are the samples. Inductive: the training part is cut out of the graph, so that no test or clean
    node is seen in training; test nodes are judged in the whole graph (as UGBA does), and clean ones in the graph without
    test nodes, so that no defence sees what it is measured on."""

    modalities = frozenset({"node"})

    def part(self, splits: Splits) -> Splits:
        return inductive(splits)


def inductive(splits: Splits) -> Splits:
    """The same, with the training part in a graph of its own, and the clean part in one of it and of the training part.
    Nodes that are of no part, as those without a label, stay in all graphs."""
    train, clean, test = splits.train.inputs, splits.clean.inputs, splits.test.inputs
    around = torch.ones(len(train.x), dtype=torch.bool)
    around[torch.cat([train.roots, clean.roots, test.roots])] = False
    others = around.nonzero().flatten()
    alone = induced(replace(train, roots=torch.cat([train.roots, others])))
    known = induced(replace(train, roots=torch.cat([train.roots, clean.roots, others])))
    held = replace(splits.clean, inputs=replace(known, roots=known.roots[len(train) : len(train) + len(clean)]))
    own = replace(splits.train, inputs=replace(alone, roots=alone.roots[: len(train)]))
    return splits.with_part("train", own).with_part("clean", held)


class SBM(NodeSource, name="sbm"):
    """A stochastic block model with words as features; made by seeded code, by default the size of Cora.

    `nodes` in classes of the `sizes` given (relative; Cora's), `edges` undirected ones of which `homophily` join nodes of
    one class (Cora: 0.81), otherwise at random. Features are bags of `words`: each node draws `length` words (Cora's mean
    is 18), a share `signal` of them from the favourites of its class, the rest from words common to all.
    """

    nodes: Positive = 2708
    sizes: tuple[PositiveFloat, ...] = (351, 217, 418, 818, 426, 298, 180)
    edges: Positive = 5278
    homophily: Rate = 0.81
    words: Positive = 1433
    length: Positive = 20
    signal: Rate = 0.06
    made_with: NonNegative = 0  # seed of the data themselves

    def read(self) -> tuple[Dataset, Tensor | None]:
        rng = generator(self.made_with, "sbm")
        share = torch.tensor(self.sizes, dtype=torch.float64)
        last = (share.cumsum(0) / share.sum() * self.nodes).round().long()
        y = torch.searchsorted(last, torch.arange(self.nodes), right=True)
        pairs = _pairs(y, self.edges, self.homophily, rng)
        x = _bags(y, self.words, self.length, self.signal, rng)
        graph = Graphs.build(x, torch.cat([pairs, pairs.flip(0)], 1), torch.tensor([self.nodes]))
        return Dataset.of(Nodes.of(graph), y, build("modality", "node")), None


class Planetoid(NodeSource, name="planetoid"):
    """Cora, CiteSeer or PubMed as of Yang, Cohen & Salakhutdinov, ICML 2016, arXiv:1603.08861, by its name in `set`.

    Read once through PyG's `Planetoid` from OSTIARY_DATA/planetoid (a folder of its name, with `raw` in it) or the
    network, then from the user's cache folder. Its raw files are pickles, which can run code when read: they are only
    read with `unpickle`. The public split is not used: it trains on 20 nodes per class.
    """

    set: str = "Cora"
    unpickle: bool = False

    def read(self) -> tuple[Dataset, Tensor | None]:
        if not re.fullmatch(r"[A-Za-z]+", self.set):
            raise InvalidInput(f"'{self.set}' is no name of a Planetoid data set; they are Cora, CiteSeer and PubMed")
        held = cached(f"planetoid/{self.set.lower()}.safetensors", self._raw)
        graph = Graphs.build(held["x"], held["edge_index"], torch.tensor([len(held["x"])]))
        return Dataset.of(Nodes.of(graph), held["y"], build("modality", "node")), None

    def _raw(self) -> dict[str, Tensor]:
        if not self.unpickle:
            raise InvalidInput(
                f"the raw files of Planetoid's {self.set} are pickles, which can run code when they are read; set "
                "unpickle: true if you trust where they come from (needed once)"
            )
        return _from_pyg(self.set)


def _pairs(y: Tensor, n: int, homophily: float, rng: torch.Generator) -> Tensor:
    """`n` different undirected pairs (or as many as come of enough draws): int64 [2, n]."""
    keys = torch.zeros(0, dtype=torch.int64)
    order = y.argsort(stable=True)
    start = torch.searchsorted(y[order], y)  # of each node's class
    size = torch.bincount(y)[y]
    for _ in range(100):
        a = torch.randint(0, len(y), (n,), generator=rng)
        place = (torch.rand(n, generator=rng) * size[a]).long()
        near = order[start[a] + place]
        far = order[(start[a] + size[a] + (torch.rand(n, generator=rng) * (len(y) - size[a])).long()) % len(y)]
        b = torch.where(torch.rand(n, generator=rng) < homophily, near, far)
        drawn = (torch.minimum(a, b) * len(y) + torch.maximum(a, b))[a != b]
        keys = torch.cat([keys, drawn])
        first = torch.zeros(len(keys), dtype=torch.bool)
        first[firsts(keys)[1]] = True
        keys = keys[first][:n]
        if len(keys) == n:
            break
    return torch.stack([keys // len(y), keys % len(y)])


def _bags(y: Tensor, words: int, length: int, signal: float, rng: torch.Generator) -> Tensor:
    """Binary bags of words: float [n, words]. How often a word occurs falls with its rank (Zipf), which is shuffled anew
    for the favourites of each class."""
    common = 1 / (torch.arange(words) + 10.0)
    common = common[torch.randperm(words, generator=rng)] / common.sum()
    x = torch.zeros(len(y), words)
    for c in range(int(y.max()) + 1):
        own = (1 / (torch.arange(words) + 1.0))[torch.randperm(words, generator=rng)]
        rows = (y == c).nonzero().flatten()
        mixed = (1 - signal) * common + signal * own / own.sum()
        drawn = torch.multinomial(mixed.expand(len(rows), words), length, replacement=True, generator=rng)
        x[rows] = x[rows].scatter(1, drawn, 1.0)
    return x


def _from_pyg(name: str) -> dict[str, Tensor]:
    """PyG's own reading of the set."""
    from torch_geometric.datasets import Planetoid as Reader

    with pyg_root("Planetoid", name) as root:
        data = Reader(str(root), name, force_reload=True)[0]
    edges = data.edge_index[:, data.edge_index[0] != data.edge_index[1]]  # layers add self-loops where they want them
    return {"x": data.x.float(), "edge_index": edges, "y": data.y.long()}
