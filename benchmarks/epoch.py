"""One training epoch of a GIN, and fetching its batches alone: by index from one store against PyG's DataLoader."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import Sampler
from torch_geometric.data import Data, InMemoryDataset
from torch_geometric.loader import DataLoader

from common import cpu_seconds, inside, one_thread, report, tu
from explainer import LAYERS, WIDTH, PyGNet, twin
from ostiary.component import build
from ostiary.data.dataset import Dataset
from ostiary.models.graph_nets import GraphNet
from ostiary.models.victim import Victim
from ostiary.seeds import generator
from ostiary.training.trainer import Trainer, TrainState

BATCH, RATE, SEED = 64, 0.005, 0
EPOCHS, EXACT = 20, 5  # epochs measured; epochs compared in float64


def collated(graphs: list[Data]) -> InMemoryDataset:
    """What TUDataset is: one store that hands out one graph after the other."""
    found = InMemoryDataset()
    found.data, found.slices = found.collate(graphs)
    return found


class OurOrder(Sampler[int]):
    """Draws as our trainer does, so that all sides see the same batches."""

    def __init__(self, n: int) -> None:
        self.n, self.rng = n, generator(SEED, "order")

    def __len__(self) -> int:
        return self.n

    def __iter__(self) -> Iterator[int]:
        return iter(torch.randperm(self.n, generator=self.rng).tolist())


class PyGTraining:
    """The usual loop."""

    def __init__(self, victim: Victim, graphs: list[Data] | InMemoryDataset) -> None:
        net = PyGNet("GIN", graphs[0].x.shape[1], inside(victim, GraphNet).head.out_features)
        self.module: nn.Module = twin(victim, net.to(graphs[0].x.dtype))
        self.loader = DataLoader(graphs, BATCH, sampler=OurOrder(len(graphs)))
        self.optimizer = torch.optim.Adam(self.module.parameters(), lr=RATE)
        self.curve: list[float] = []

    def epoch(self) -> None:
        self.module.train()
        total = 0.0
        for data in self.loader:
            self.optimizer.zero_grad()
            out = self.module(data.x, data.edge_index, data.batch)
            loss = F.cross_entropy(out.float(), data.y)  # as our trainer does; nothing happens to float32
            loss.backward()
            self.optimizer.step()
            total += loss.item()
        self.curve.append(total / len(self.loader))

    def fetch(self) -> None:
        for _ in self.loader:
            pass


class OurTraining:
    """The same through the trainer."""

    def __init__(self, victim: Victim, data: Dataset) -> None:
        self.trainer = Trainer(lr=RATE, batch_size=BATCH)
        self.state: TrainState = self.trainer.start(victim, data, SEED)
        self.curve: list[float] = []

    def epoch(self) -> None:
        self.trainer.run_epoch(self.state)
        self.curve.append(self.state.loss)

    def fetch(self) -> None:
        data = self.state.data
        for rows in torch.randperm(len(data)).split(BATCH):
            data.modality.take(data.inputs, rows)


def with_labels(data: Dataset) -> list[Data]:
    graphs: list[Data] = data.inputs.to_pyg()
    for graph, y in zip(graphs, data.y, strict=True):
        graph.y = y[None]
    return graphs


def largest(a: list[float], b: list[float]) -> float:
    return max(abs(x - y) for x, y in zip(a, b, strict=True))


def exact(victim: Victim, data: Dataset) -> float:
    """The largest difference between the curves in float64, where rounding has no time to grow."""
    data = replace(data, inputs=data.inputs.with_(x=data.inputs.x.double()))
    victim = victim.clone().double()
    sides = PyGTraining(victim, with_labels(data)), OurTraining(victim, data)
    for _ in range(EXACT):
        for side in sides:
            side.epoch()
    return largest(sides[0].curve, sides[1].curve)


def main() -> None:
    one_thread()
    splits, name = tu("AIDS")
    data = splits.train.take(torch.arange(len(splits.train) // BATCH * BATCH))  # PyG would make a batch of what is left over
    victim = build("victim", {"name": "gin", "layers": LAYERS, "hidden": WIDTH}).make(data, SEED)
    difference = exact(victim, data)
    graphs = with_labels(data)
    stored, listed, ours = PyGTraining(victim, collated(graphs)), PyGTraining(victim, graphs), OurTraining(victim, data)
    sides = stored, listed, ours
    epoch = cpu_seconds(*(side.epoch for side in sides), repeats=EPOCHS)
    fetch = cpu_seconds(*(side.fetch for side in sides), repeats=EPOCHS)

    nodes, edges = len(data.inputs.x) / len(data), data.inputs.edge_index.shape[1] / len(data)
    print(f"{name}: {len(data)} graphs, {nodes:.1f} nodes and {edges:.1f} edges each; GIN, {LAYERS} layers of {WIDTH}")
    print(f"CPU milliseconds per epoch of batches of {BATCH} on one thread, median of {EPOCHS}, and how many times ours\n")
    print(f"{'':12} {'PyG dataset':>16} {'PyG list':>16} {'Ostiary':>8}")
    for label, (a, b, own) in (("fetching", fetch), ("whole epoch", epoch)):
        print(f"{label:12} {a * 1e3:9.1f} ({a / own:4.1f}) {b * 1e3:9.1f} ({b / own:4.1f}) {own * 1e3:8.1f}")
    print(f"\nMean loss of each epoch\n{'epoch':>5} {'PyG':>10} {'Ostiary':>10} {'difference':>11}")
    for i, (a, b) in enumerate(zip(stored.curve, ours.curve, strict=True), 1):
        print(f"{i:5} {a:10.6f} {b:10.6f} {abs(a - b):11.1e}")
    print(f"largest difference {largest(stored.curve, ours.curve):.1e}; in float64, {EXACT} epochs, {difference:.1e}\n")
    report("fetch", fetch[0] / fetch[2], 10)
    report("epoch", epoch[0] / epoch[2], 1.7)


if __name__ == "__main__":
    main()
