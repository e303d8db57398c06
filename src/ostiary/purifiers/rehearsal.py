"""Nodes that lead a node classifier to a class, recovered and unlearned in turn, as a hook on the training loop."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ostiary.console import progress
from ostiary.context import Context
from ostiary.data.dataset import Dataset
from ostiary.devices import wide
from ostiary.modality.nodes import Nodes
from ostiary.models.victim import Victim, evaluating, without_gradients
from ostiary.purifiers.distillation import distance
from ostiary.purifiers.misleading import Maker, Means
from ostiary.seeds import scoped
from ostiary.training.hooks import TrainHook
from ostiary.training.trainer import TrainState

GROWTH = 1.05  # of the reach, a step


class Rehearsal(TrainHook):
    """Keeps a student's answers what a frozen teacher's were: at nodes that carry new ones made to mislead it as it is now,
    and on the graph as it was. data: the nodes that get them, all in one graph."""

    def __init__(self, means: Means, teacher: Victim, data: Dataset, ctx: Context) -> None:
        self.means, self.data, self.goals = means, data, list(range(data.n_classes))
        self.whole, self.rng = Nodes.of(data.inputs.graphs), ctx.rng("wishes")
        with torch.no_grad(), evaluating(teacher):
            self.answers = teacher(self.whole)
        with scoped(ctx.key("maker"), "init"):
            self.net = Maker(means, data.inputs.x.shape[1], data.n_classes).to(data.inputs.x.device)
        self.kept: dict[str, Tensor] = {}  # the last weights under which answers stayed the same
        self.optimizer = torch.optim.Adam(self.net.parameters(), means.lr)

    def recover(self, victim: Victim, steps: int) -> list[float]:
        """Per class the share of the nodes of other classes that new nodes, after so many steps, lead there."""
        for step in range(steps):
            self.mislead(victim)
            progress("recovering new nodes", (step + 1) / steps)
        with torch.no_grad(), evaluating(victim):
            return [self.reached(victim, goal) for goal in range(self.data.n_classes)]

    def reached(self, victim: Victim, goal: int) -> float:
        rows = self.data.take((self.data.y != goal).nonzero().flatten())
        if not len(rows):
            return 0.0
        said = victim(self.marked(rows.inputs, torch.full_like(rows.y, goal))).argmax(1)
        return float(wide(said == goal).mean())

    def wished(self) -> Tensor:
        """A class for every node that is not its own, of those under suspicion: int64 [n]; -1 where there is none."""
        y = self.data.y
        scores = torch.rand(len(y), len(self.goals), generator=self.rng).to(y.device)
        goals = torch.tensor(self.goals, device=y.device)
        scores = scores.masked_fill(goals == y[:, None], -1.0)
        best = scores.max(1)
        return torch.where(best.values < 0, -1, goals[best.indices])

    def marked(self, nodes: Nodes, goal: Tensor, *, soft: bool = False) -> Nodes:
        return nodes.attach(*self.net(nodes.x[nodes.roots], goal), soft=soft)

    def mislead(self, victim: Victim) -> None:
        """One step of the maker against the victim."""
        goal = self.wished()
        at = (goal >= 0).nonzero().flatten()
        with evaluating(victim), without_gradients(victim):
            loss = F.cross_entropy(victim(self.marked(self.data.inputs.take(at), goal[at], soft=True)), goal[at])
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()

    def on_epoch(self, state: TrainState) -> None:
        for _ in range(self.means.steps):
            self.mislead(state.victim)

    def loss(self, state: TrainState, batch: Nodes, y: Tensor, rows: Tensor) -> Tensor:
        goal = self.wished()
        nodes = self.data.inputs.take((goal >= 0).nonzero().flatten())
        with torch.no_grad():
            marked = self.marked(nodes, goal[goal >= 0])
        with evaluating(state.victim):  # no dropout: answers are compared
            now = state.victim(self.whole)
            loss = distance(state.victim(marked), self.answers[nodes.roots])
        same = float(wide(now.argmax(1) == self.answers.argmax(1)).mean())
        if same >= self.means.agree:
            self.kept = {k: v.detach().clone() for k, v in state.victim.state_dict().items()}
        self.net.reach *= GROWTH if same >= self.means.agree else 1 / GROWTH
        return loss + self.means.retain * distance(now, self.answers)

    def on_end(self, state: TrainState) -> None:
        if self.kept:
            state.victim.load_state_dict(self.kept)
