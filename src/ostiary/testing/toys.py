"""One-second data and victims, made once per process, and modules whose forward has argument names of its own."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ostiary.attacks.base import Poisoned
from ostiary.component import build
from ostiary.context import Context
from ostiary.data.dataset import Splits
from ostiary.evidence import Evidence
from ostiary.modality.base import Inputs, Modality
from ostiary.modality.graphs import Graphs
from ostiary.modality.nodes import Nodes
from ostiary.models.base import Architecture
from ostiary.models.victim import Victim
from ostiary.training.trainer import Trainer

MODALITIES = ("graph", "image", "node")
_DATA = {
    "graph": {"name": "toy-graphs", "n": 160, "test_rate": 0.4},
    "image": {"name": "toy-images", "n": 160, "test_rate": 0.4},
    "node": {
        **{"name": "sbm", "nodes": 160, "sizes": [1, 1, 1], "edges": 300, "words": 40, "length": 8, "signal": 0.6},
        **{"test_rate": 0.4, "clean_rate": 0.1},
    },
}
_NETS = {
    "graph": {"name": "gin", "hidden": 16, "layers": 2},
    "image": {"name": "preact-resnet", "width": 8, "blocks": [1, 1]},
    "node": {"name": "gcn", "hidden": 16},
}
_ATTACKS = {
    "graph": {"name": "sub-ba", "size": 4, "density": 1.0, "rate": 0.1},
    "image": {"name": "badnets", "rate": 0.1},
    "node": {"name": "sba", "features": "gen", "rate": 0.1},
}
_TRAINERS = {"node": Trainer(lr=0.02, epochs=60, batch_size=200)}


class OddGraphNet(nn.Module):
    """Made of PyG's own layers; every argument is keyword-only and none has a name that Ostiary offers."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        from torch_geometric.nn import GINConv

        def mlp(d: int) -> nn.Module:
            return nn.Sequential(nn.Linear(d, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 16))

        self.steps = nn.ModuleList([GINConv(mlp(width)), GINConv(mlp(16))])
        self.verdict = nn.Linear(16, classes)

    def forward(self, *, knots: Tensor, links: Tensor, owner: Tensor, owners: int) -> Tensor:
        for step in self.steps:
            knots = step(knots, links).relu()
        return self.verdict(knots.new_zeros(owners, knots.shape[1]).index_add(0, owner, knots))  # type: ignore[no-any-return]


class OddNodeNet(nn.Module):
    """PyG's layers, a row of logits per node, and argument names of its own."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        from torch_geometric.nn import SAGEConv

        self.steps = nn.ModuleList([SAGEConv(width, 16), SAGEConv(16, 16)])
        self.verdict = nn.Linear(16, classes)

    def forward(self, *, knots: Tensor, links: Tensor) -> Tensor:
        for step in self.steps:
            knots = step(knots, links).relu()
        return self.verdict(knots)  # type: ignore[no-any-return]


class OddImageNet(nn.Module):
    """A small convolutional network with one keyword-only argument."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.look = nn.Sequential(nn.Conv2d(channels, 8, 3, 1, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.AvgPool2d(2))
        self.again = nn.Sequential(nn.Conv2d(8, 16, 3, 1, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveMaxPool2d((6, 1)))
        self.verdict = nn.Linear(96, classes)

    def forward(self, *, pictures: Tensor) -> Tensor:
        return self.verdict(self.again(self.look(pictures - 0.5)).flatten(1))  # type: ignore[no-any-return]


def call_odd(module: nn.Module, batch: Inputs) -> Tensor:
    """The `forward=` that a Victim needs for the odd modules."""
    if isinstance(batch, Graphs):
        return module(knots=batch.x, links=batch.edge_index, owner=batch.batch, owners=len(batch))  # type: ignore[no-any-return]
    if isinstance(batch, Nodes):
        return module(knots=batch.x, links=batch.edge_index)[batch.roots]  # type: ignore[no-any-return]
    return module(pictures=batch)  # type: ignore[no-any-return]


class OddForward(Architecture):
    """Not registered: the odd module that suits the data."""

    modalities = frozenset(MODALITIES)

    def module(self, data: Mapping[str, Any]) -> nn.Module:
        classes = int(data["classes"])
        if "channels" in data:
            return OddImageNet(int(data["channels"]), classes)
        return (OddNodeNet if data.get("level") == "node" else OddGraphNet)(int(data["width"]), classes)

    def wrap(self, module: nn.Module, modality: Modality) -> Victim:
        return Victim(module, modality, forward=call_odd)


@functools.cache
def splits(modality: str) -> Splits:
    """About 100 training, 50 test and 20 clean samples."""
    found: Splits = build("dataset", _DATA[modality]).load(0)
    return found


def context(modality: str, *, odd: bool = False) -> Context:
    """Seed 0, a small architecture (with an odd forward if asked) and a trainer of one second."""
    if modality not in _NETS:
        return Context()
    net = OddForward() if odd else build("victim", _NETS[modality])
    return Context(0, architecture=net, trainer=_TRAINERS.get(modality, Trainer(lr=0.01, epochs=15, batch_size=32)))


@functools.cache
def poisoned(modality: str) -> Poisoned:
    """A clique on random nodes, a white corner, or new nodes, on a tenth of the training set."""
    found: Poisoned = build("attack", _ATTACKS[modality]).poison(splits(modality), context(modality).within("attack"))
    return found


@functools.cache
def _trained(modality: str, odd: bool) -> Victim:
    return context(modality, odd=odd).fit(poisoned(modality).splits.train)


def victim(modality: str, *, odd: bool = False) -> Victim:
    """A backdoored victim; a copy of its own for every caller."""
    return _trained(modality, odd).clone()


def evidence(modality: str, *, odd: bool = False) -> Evidence:
    """Everything a defender may hold; a third of `incoming` carries the trigger."""
    parts, marked = poisoned(modality).splits, poisoned(modality).triggered
    few = marked.take(torch.arange(len(parts.test) // 2).clamp(max=len(marked) - 1).unique())
    mixed = parts.modality.join([parts.test.inputs, few.inputs])
    n = len(parts.test) + len(few)
    incoming = replace(parts.test, inputs=mixed, y=torch.zeros(n, dtype=torch.int64), ids=torch.arange(n))
    return Evidence(victim(modality, odd=odd), parts.train, parts.clean, incoming)
