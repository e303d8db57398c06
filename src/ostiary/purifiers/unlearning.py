"""Unlearning of recovered triggers by distillation (GCleaner, Eq. 9 and 14), as a hook on the training loop."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ostiary.context import Context
from ostiary.data.dataset import Dataset
from ostiary.explainers.heat import HeatBy, heat_maps
from ostiary.inversion import Recovered, Recovery, placed
from ostiary.modality.graphs import Graphs
from ostiary.models.victim import Victim
from ostiary.purifiers.distillation import distance, per_graph
from ostiary.training.hooks import TrainHook
from ostiary.training.trainer import TrainState


@dataclass(frozen=True)
class Weights:
    """Of the four terms; 0 leaves a term out. copies: varied graphs per clean graph and step. by: how heat is found."""

    unlearn: float
    retain: float
    heat: float
    vary: float
    copies: int
    by: HeatBy = "grad-cam"


@dataclass(eq=False)
class Unlearning(TrainHook):
    """Draws a student's answers with and without the trigger together, and both to a frozen teacher's on clean graphs.

    known: triggers recovered on `places` (int64 [n, nodes]); each step uses two of all known. Every `every` epochs they are
    recovered again, from the student; with `anywhere`, every other time at random nodes instead. A class not reached at rate
    `flag` then, at either, is done with; after the last, what is left of the `rounds` is passed in one, in longer strides.
    """

    teacher: Victim
    clean: Dataset
    recovery: Recovery
    known: list[Recovered]
    places: Tensor
    weights: Weights
    flag: float
    rounds: int
    every: int
    anywhere: bool
    ctx: Context
    gone: int = 0

    def __post_init__(self) -> None:
        # not `folded`, nor asked once for all: the slope of a distance does not care that only rounding keeps it from zero
        self.teacher, self.recovery = self.teacher.clone().requires_grad_(False), replace(self.recovery, restarts=1)
        self.goals, self.at, self.rng = [f.goal for f in self.known], self.places, self.ctx.rng("unlearning")

    def on_epoch(self, state: TrainState) -> None:
        round_, start = divmod(state.epoch, self.every)
        if round_ and not start and self.goals:
            own = self.ctx.within(f"round {round_}")
            ways = [bool(round_ % 2), not round_ % 2] if self.anywhere else [False]
            self.goals = [g for g in self.goals if any(self.reached(state.victim, g, way, own) for way in ways)]
            if not self.goals:
                state.stride = self.rounds - round_
        odd = self.anywhere and self.gone % 2
        self.at = self.recovery.anywhere(self.clean, self.ctx.key(f"epoch {self.gone}")) if odd else self.places
        self.gone += 1

    def reached(self, student: Victim, goal: int, anywhere: bool, ctx: Context) -> bool:
        """Whether a trigger recovered anew, at random nodes or at the first places, still works; it is known from now on."""
        at = self.recovery.anywhere(self.clean, ctx.key("positions")) if anywhere else self.places
        self.known.append(self.recovery.of(student, self.clean, at, goal, ctx))
        return not self.recovery.by_class or self.known[-1].rate >= self.flag

    def loss(self, state: TrainState, batch: Graphs, y: Tensor, rows: Tensor) -> Tensor:
        student, w = state.victim, self.weights
        plain, heat = self.answer(student, batch, y)
        loss = w.retain * distance(plain, self.teacher(batch))
        used = torch.randperm(len(self.known), generator=self.rng)[:2].tolist()
        for i in used:
            stamped = self.known[i].stamp(batch, placed(batch, self.at[rows]))
            marked, marked_heat = self.answer(student, stamped, y)
            loss = loss + w.unlearn / len(used) * distance(marked, plain)
            for a, b in zip(marked_heat, heat, strict=True):
                loss = loss + w.heat / len(used) * per_graph(a - b, batch)
        if w.vary and w.copies:
            modality = state.data.modality
            more = modality.vary(modality.take(batch, torch.arange(len(y), device=y.device).repeat(w.copies)), self.rng)
            loss = loss + w.vary * distance(student(more), self.teacher(more))
        return loss

    def answer(self, student: Victim, batch: Graphs, y: Tensor) -> tuple[Tensor, list[Tensor]]:
        return heat_maps(student, batch, y, self.weights.by) if self.weights.heat else (student(batch), [])
