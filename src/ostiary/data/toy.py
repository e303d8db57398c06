"""Seeded synthetic data: offline, learnable in a second, for tests and first steps."""

from __future__ import annotations

import torch
from torch import Tensor

from ostiary.component import NonNegative, Positive, Rate, build
from ostiary.data.dataset import Dataset
from ostiary.data.source import DataSource
from ostiary.modality.graphs import Graphs
from ostiary.seeds import generator


class ToyGraphs(DataSource, name="toy-graphs"):
    """Random trees and sparse graphs whose class decides the mix of node kinds; made by seeded code."""

    modalities = frozenset({"graph"})
    clean_rate: Rate = 0.1
    n: Positive = 200
    n_classes: Positive = 2
    made_with: NonNegative = 0  # seed of the data themselves

    def read(self) -> tuple[Dataset, Tensor | None]:
        rng = generator(self.made_with, "toy-graphs")
        y = torch.arange(self.n) % self.n_classes
        n_nodes = torch.randint(8, 16, (self.n,), generator=rng)
        kinds, edges, start = [], [], 0
        for label, n in zip(y.tolist(), n_nodes.tolist(), strict=True):
            weights = torch.ones(self.n_classes + 2)
            weights[label] = 4.0
            kinds.append(torch.multinomial(weights, n, replacement=True, generator=rng))
            parents = (torch.rand(n - 1, generator=rng) * torch.arange(1, n)).long()
            edges.append(torch.stack([parents, torch.arange(1, n)]) + start)
            start += n
        x = torch.nn.functional.one_hot(torch.cat(kinds), self.n_classes + 2).float()
        pairs = torch.cat(edges, 1)
        graphs = Graphs.build(x, torch.cat([pairs, pairs.flip(0)], 1), n_nodes)
        return Dataset.of(graphs, y, build("modality", "graph")), None


class ToyImages(DataSource, name="toy-images"):
    """Noisy images of bars whose place is the class; made by seeded code."""

    modalities = frozenset({"image"})
    clean_rate: Rate = 0.1
    n: Positive = 300
    n_classes: Positive = 4
    size: Positive = 12
    channels: Positive = 3
    made_with: NonNegative = 0

    def read(self) -> tuple[Dataset, Tensor | None]:
        rng = generator(self.made_with, "toy-images")
        y = torch.arange(self.n) % self.n_classes
        images = 0.3 * torch.rand(self.n, self.channels, self.size, self.size, generator=rng)
        rows = 1 + y * max(1, (self.size - 3) // self.n_classes)
        images[torch.arange(self.n), :, rows, 1:-4] += 0.6
        images = (images * 255).round() / 255  # as image files hold them
        return Dataset.of(images, y, build("modality", "image")), None
