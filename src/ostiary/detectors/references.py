"""Networks of the defender's own that answer as a victim does on clean graphs, and never met its trigger."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ostiary.context import Context
from ostiary.data.dataset import Dataset
from ostiary.modality.graphs import Graphs
from ostiary.models.victim import Victim
from ostiary.seeds import scoped
from ostiary.training.hooks import TrainHook
from ostiary.training.trainer import Trainer, TrainState
from ostiary.triggers.generator import feature_kind
from ostiary.triggers.subgraph import with_degrees


@dataclass(frozen=True)
class Answers(TrainHook):
    """Draws a student to the answers a teacher gave: float [n, classes], one row per graph of the training data."""

    said: Tensor

    def loss(self, state: TrainState, batch: Graphs, y: Tensor, rows: Tensor) -> Tensor:
        unit = self.said.std().clamp(min=1e-6)
        return F.smooth_l1_loss(state.victim(batch) / unit, self.said[rows].to(batch.x.device) / unit)


def references(victim: Victim, clean: Dataset, count: int, size: int, epochs: int, ctx: Context) -> list[Victim]:
    """`count` networks of the victim's make, taught from scratch by its answers on about `size` graphs made of clean ones."""
    found = []
    trainer = Trainer(lr=0.01, epochs=epochs, schedule="cosine")
    for i in range(count):
        own = ctx.within(f"reference {i}")
        lessons = replace(clean, inputs=lessons_of(clean, size, own.rng("lessons")))
        n = len(lessons.inputs)
        lessons = replace(lessons, y=torch.zeros(n, dtype=torch.int64), ids=torch.arange(n))
        said = victim.predict(lessons.inputs)[0]
        student = untrained(victim, own.key("weights"))
        found.append(trainer.fit(student, lessons, own.key("order"), [Answers(said)], what="teaching a reference"))
    return found


def untrained(victim: Victim, seed: int) -> Victim:
    """A copy with weights drawn anew; weights of layers that cannot draw their own are shuffled."""
    fresh = victim.clone()
    with scoped(seed, "untrained"), torch.no_grad():
        for module in fresh.module.modules():
            again: Any = getattr(module, "reset_parameters", None)
            if callable(again):
                again()
                continue
            for p in module.parameters(recurse=False):
                p.copy_(p.flatten()[torch.randperm(p.numel()).to(p.device)].view_as(p))
    for p in fresh.module.parameters():
        p.requires_grad_(True)
    return fresh


def lessons_of(clean: Dataset, size: int, rng: torch.Generator) -> Graphs:
    """Clean graphs as they are, varied, varied twice, with nodes of kinds drawn from all, and in pairs as one graph: about
    `size`. No edge is ever added, since graphs with new edges would teach the trigger along with the rest."""
    copies = max(1, math.ceil(0.8 * size / len(clean)))
    kind, parts = feature_kind(clean.inputs), []
    for i in range(copies):
        graphs: Graphs = clean.inputs
        for _ in range(min(i, 1 + (i % 2 == 0))):
            graphs = clean.modality.vary(graphs, rng)
        parts.append(strange(graphs, (0.0, 0.2, 0.6)[i % 3], rng) if kind == "one-hot" else graphs)
    graphs = clean.modality.join(parts)
    pairs = graphs.take(torch.randperm(len(graphs), generator=rng)[: len(graphs) // 4 * 2])
    two = Graphs.build(pairs.x, pairs.edge_index, pairs.n_nodes.view(-1, 2).sum(1), edge_attr=pairs.edge_attr)
    graphs = clean.modality.join([graphs, two])
    return with_degrees(graphs) if kind == "degree" else graphs


def strange(graphs: Graphs, most: float, rng: torch.Generator) -> Graphs:
    """Up to a share `most` of each graph's nodes, drawn anew for every graph, become of a kind drawn from all columns."""
    share = most * torch.rand(len(graphs), generator=rng)
    moved = torch.rand(len(graphs.x), generator=rng) < share[graphs.batch.cpu()]
    kinds = torch.randint(graphs.x.shape[1], (len(graphs.x),), generator=rng)
    rows = F.one_hot(kinds, graphs.x.shape[1]).to(graphs.x)
    return graphs.with_(x=torch.where(moved[:, None].to(graphs.x.device), rows, graphs.x))
