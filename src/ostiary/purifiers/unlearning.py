"""Unlearning of recovered triggers by distillation (GCleaner, Eq. 9 and 14), as a hook on the training loop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ostiary.context import Context
from ostiary.data.dataset import Dataset
from ostiary.explainers.heat import HeatBy, heat_maps
from ostiary.inversion import Recovered, Recovery, folded, placed
from ostiary.modality.graphs import Graphs
from ostiary.models.victim import Victim
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


class Unlearning(TrainHook):
    """Draws a student's answers with and without the trigger together, and both to a frozen teacher's on clean graphs.

    first: the triggers known at the start, recovered on `places` (int64 [n, nodes]); each step uses two of all known. Every
    `every` epochs they are recovered again, from the student; with `anywhere`, every other time at random nodes instead.
    Where none is then reached at rate `flag`, at either, the rest of the `rounds` is passed in one, in longer strides.
    """

    def __init__(
        self,
        teacher: Victim,
        clean: Dataset,
        recovery: Recovery,
        first: Sequence[Recovered],
        places: Tensor,
        weights: Weights,
        *,
        flag: float,
        rounds: int,
        every: int,
        anywhere: bool,
        ctx: Context,
    ) -> None:
        self.teacher, self.clean, self.weights, self.ctx = folded(teacher), clean, weights, ctx
        with torch.no_grad():
            self.target = self.teacher(clean.inputs)
        self.recovery = replace(recovery, restarts=1)
        self.known, self.goals, self.flag = list(first), [f.goal for f in first], flag
        self.places, self.at, self.rounds, self.every, self.anywhere = places, places, rounds, every, anywhere
        self.stride, self.gone, self.rng = 1, 0, ctx.rng("unlearning")

    def on_epoch(self, state: TrainState) -> None:
        round_, start = divmod(state.epoch, self.every)
        if round_ and not start and self.stride == 1:
            own = self.ctx.within(f"round {round_}")
            ways = [bool(round_ % 2), not round_ % 2] if self.anywhere else [False]
            if not any(self.reached(state.victim, way, own) for way in ways):
                self.stride = self.rounds - round_
        odd = self.anywhere and self.gone % 2
        self.at = self.recovery.anywhere(self.clean, self.ctx.key(f"epoch {self.gone}")) if odd else self.places
        self.gone += 1
        state.epoch += self.stride - 1  # of a schedule, its end comes sooner

    def reached(self, student: Victim, anywhere: bool, ctx: Context) -> bool:
        """Whether triggers recovered anew, at random nodes or at the first places, still work; they are known from now on."""
        at = self.recovery.anywhere(self.clean, ctx.key("positions")) if anywhere else self.places
        found = [self.recovery.of(student, self.clean, at, goal, ctx) for goal in self.goals]
        self.known += found
        return not self.recovery.by_class or any(f.rate >= self.flag for f in found)

    def loss(self, state: TrainState, batch: Graphs, y: Tensor, rows: Tensor) -> Tensor:
        student, w = state.victim, self.weights
        plain, heat = self.answer(student, batch, y)
        loss = w.retain * distance(plain, self.target[rows])
        used = torch.randperm(len(self.known), generator=self.rng)[:2].tolist()
        for i in used:
            stamped = self.known[i].stamp(batch, placed(batch, self.at[rows]))
            marked, marked_heat = self.answer(student, stamped, y)
            loss = loss + w.unlearn / len(used) * distance(marked, plain)
            for a, b in zip(marked_heat, heat, strict=True):
                loss = loss + w.heat / len(used) * per_graph(a - b, batch)
        if w.vary:
            modality = state.data.modality
            more = modality.vary(modality.take(batch, torch.arange(len(y), device=y.device).repeat(w.copies)), self.rng)
            with torch.no_grad():
                target = self.teacher(more)
            loss = loss + w.vary * distance(student(more), target)
        return loss

    def answer(self, student: Victim, batch: Graphs, y: Tensor) -> tuple[Tensor, list[Tensor]]:
        return heat_maps(student, batch, y, self.weights.by) if self.weights.heat else (student(batch), [])


def distance(a: Tensor, b: Tensor) -> Tensor:
    """Mean over rows of the L2 distance."""
    return ((a - b).square().sum(1) + 1e-12).sqrt().mean()


def per_graph(values: Tensor, graphs: Graphs) -> Tensor:
    """Mean over graphs of the L2 norm of a node vector [N]."""
    sums = values.new_zeros(len(graphs)).index_add(0, graphs.batch, values.square())
    return (sums + 1e-12).sqrt().mean()
