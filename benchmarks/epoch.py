"""One training epoch of a GIN, batch 64: batches by index from one store against PyG's DataLoader, and fetching alone."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import Sampler
from torch_geometric.data import Data
from torch_geometric.loader import DataLoader

from common import cpu_seconds, one_thread, report, tu
from explainer import PyGNet, twin
from ostiary.component import build
from ostiary.data.dataset import Dataset
from ostiary.seeds import generator
from ostiary.training.trainer import Trainer, TrainState

BATCH, RATE, SEED = 64, 0.005, 0
WIDTH, LAYERS = 64, 3
EPOCHS = 20


class OurOrder(Sampler[int]):
    """Draws as our trainer does, so that both sides see the same batches."""

    def __init__(self, n: int) -> None:
        self.n, self.rng = n, generator(SEED, "order")

    def __len__(self) -> int:
        return self.n

    def __iter__(self) -> Iterator[int]:
        return iter(torch.randperm(self.n, generator=self.rng).tolist())


class PyGTraining:
    """The usual loop."""

    def __init__(self, module: nn.Module, graphs: list[Data]) -> None:
        self.module = module
        self.loader = DataLoader(graphs, BATCH, sampler=OurOrder(len(graphs)))
        self.optimizer = torch.optim.Adam(module.parameters(), lr=RATE)

    def epoch(self) -> float:
        self.module.train()
        total, batches = 0.0, 0
        for data in self.loader:
            self.optimizer.zero_grad()
            loss = F.cross_entropy(self.module(data.x, data.edge_index, data.batch), data.y)
            loss.backward()
            self.optimizer.step()
            total, batches = total + loss.item(), batches + 1
        return total / batches


def with_labels(data: Dataset) -> list[Data]:
    graphs = data.inputs.to_pyg()
    for graph, y in zip(graphs, data.y, strict=True):
        graph.y = y[None]
    return graphs


def fetch(data: Dataset) -> None:
    for rows in torch.randperm(len(data)).split(BATCH):
        data.modality.take(data.inputs, rows)


def drain(loader: DataLoader) -> None:
    for _ in loader:
        pass


def main() -> None:
    one_thread()
    splits, name = tu("AIDS")
    data = splits.train
    trainer = Trainer(lr=RATE, batch_size=BATCH)
    victim = build("victim", {"name": "gin", "layers": LAYERS, "hidden": WIDTH}).make(data, SEED)
    state = trainer.start(victim, data, SEED)
    theirs = PyGTraining(twin(victim, PyGNet("GIN", data.inputs.x.shape[1], data.n_classes)), with_labels(data))
    curves: tuple[list[float], list[float]] = [], []
    epochs = cpu_seconds(
        lambda: curves[0].append(theirs.epoch()), lambda: curves[1].append(our_epoch(trainer, state)), repeats=EPOCHS
    )
    shuffled = DataLoader(theirs.loader.dataset, BATCH, shuffle=True)
    fetching = cpu_seconds(lambda: drain(shuffled), lambda: fetch(data), repeats=EPOCHS)

    graphs = data.inputs
    print(f"{name}: {len(data)} graphs, {len(graphs.x) / len(data):.1f} nodes and", end=" ")
    print(f"{graphs.edge_index.shape[1] / len(data):.1f} edges each; GIN, {LAYERS} layers of {WIDTH}, batches of {BATCH}")
    print("CPU milliseconds per epoch on one thread\n")
    print(f"{'':16} {'PyG':>8} {'Ostiary':>8} {'ratio':>6}")
    rows = [("fetching", fetching), ("whole epoch", epochs), ("without fetching", [e - f for e, f in zip(epochs, fetching)])]
    for label, (pyg, own) in rows:
        print(f"{label:16} {pyg * 1e3:8.1f} {own * 1e3:8.1f} {pyg / own:6.1f}")
    print(f"\nMean loss of each epoch\n{'epoch':>5} {'PyG':>10} {'Ostiary':>10} {'difference':>11}")
    for i, (a, b) in enumerate(zip(*curves, strict=True), 1):
        print(f"{i:5} {a:10.6f} {b:10.6f} {abs(a - b):11.1e}")
    print(f"largest difference {max(abs(a - b) for a, b in zip(*curves, strict=True)):.1e}\n")
    report("fetch", fetching[0] / fetching[1], 10)
    report("epoch", epochs[0] / epochs[1], 1.7)


def our_epoch(trainer: Trainer, state: TrainState) -> float:
    trainer.run_epoch(state)
    return state.loss


if __name__ == "__main__":
    main()
