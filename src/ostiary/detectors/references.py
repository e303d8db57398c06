"""Networks of the defender's own, of a victim's make, that never met its trigger."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ostiary.context import Context
from ostiary.data.dataset import Dataset
from ostiary.detectors.lessons import lessons_of, varied
from ostiary.modality.graphs import Graphs, with_degrees
from ostiary.models.victim import Victim
from ostiary.seeds import scoped
from ostiary.training.hooks import TrainHook
from ostiary.training.trainer import Trainer, TrainState
from ostiary.triggers.generator import feature_kind


@dataclass(frozen=True)
class Answers(TrainHook):
    """Draws a student to the answers a teacher gave: float [n, classes], one row per graph of the training data."""

    said: Tensor

    def loss(self, state: TrainState, batch: Graphs, y: Tensor, rows: Tensor) -> Tensor:
        unit = self.said.std().clamp(min=1e-6)
        return F.smooth_l1_loss(state.victim(batch) / unit, self.said[rows].to(batch.x.device) / unit)


class Labels(TrainHook):
    """Teaches the labels, smoothed, so that what was seen often is not answered to ever more strongly."""

    def loss(self, state: TrainState, batch: Graphs, y: Tensor, rows: Tensor) -> Tensor:
        return F.cross_entropy(state.victim(batch), y, label_smoothing=0.1)


@dataclass(frozen=True)
class School:
    """Teaches `count` networks of the victim's make from scratch, for `epochs`, on about `size` graphs made of clean ones."""

    victim: Victim
    clean: Dataset
    count: int
    size: int
    epochs: int

    def by_answers(self, ctx: Context) -> list[Victim]:
        """What the victim answers on graphs of all sorts: they share its shortcuts, and what it says of nodes of every kind."""
        found = []
        for i in range(self.count):
            own = ctx.within(f"reference {i}")
            graphs = lessons_of(self.clean, self.size, own.rng("lessons"))
            lessons = replace(self.clean, inputs=graphs, y=torch.zeros(len(graphs), dtype=torch.int64))
            found.append(self.taught(lessons, Answers(self.victim.predict(graphs)), own))
        return found

    def by_labels(self, ctx: Context) -> list[Victim]:
        """What the clean graphs are: they know what the task itself makes of a structure, and nothing of the victim, with whose
        answers comes part of a backdoor (DHFR, Sub-BA: a clique led a victim and six networks taught its answers alike)."""
        copies, found = max(1, math.ceil(self.size / len(self.clean))), []
        for i in range(self.count):
            own = ctx.within(f"reference of labels {i}")
            graphs = self.clean.modality.join(varied(self.clean, copies, own.rng("lessons")))
            graphs = with_degrees(graphs) if feature_kind(self.clean.inputs) == "degree" else graphs
            found.append(self.taught(replace(self.clean, inputs=graphs, y=self.clean.y.repeat(copies)), Labels(), own))
        return found

    def taught(self, lessons: Dataset, hook: TrainHook, ctx: Context) -> Victim:
        lessons = replace(lessons, ids=torch.arange(len(lessons.inputs)))
        trainer = Trainer(lr=0.01, epochs=self.epochs, schedule="cosine")
        student = untrained(self.victim, ctx.key("weights"))
        return trainer.fit(student, lessons, ctx.key("order"), [hook], what="teaching a reference")


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
