"""Purifiers whose predictions come with a proof: no change within a radius turns them."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, final

import torch
from torch import Generator, Tensor

from ostiary.context import Context
from ostiary.data.dataset import Dataset
from ostiary.errors import InvalidInput
from ostiary.evidence import Evidence
from ostiary.modality.base import Inputs
from ostiary.modality.graphs import Graphs, are_degrees
from ostiary.modality.nodes import Nodes, store
from ostiary.models.victim import Victim
from ostiary.models.votes import View, Voting, Whole, ballots
from ostiary.purifiers.base import Purifier
from ostiary.purifiers.certificate import Certificate
from ostiary.training.hooks import TrainHook
from ostiary.training.trainer import TrainState

TAKES = "it takes undirected graphs without self-loops; store every edge once in both directions"


class Certified(Purifier):
    """Trains `members()` models, each on its share of the training set and on random views of it; all vote on all views."""

    modalities = frozenset({"graph"})
    needs = frozenset({"train"})
    splits_edges: ClassVar[bool] = True  # whether what a vote sees, and so the proof, depends on single edges

    def members(self) -> int:
        return 1

    def shares(self, train: Dataset, ctx: Context) -> list[Tensor]:
        """The rows each member is trained on."""
        return [torch.arange(len(train))]

    def view(self, key: int = 0, degrees: bool = False) -> View:
        """degrees: node features are a one-hot of the degree, to be counted again."""
        return Whole()

    @abstractmethod
    def certify(self, votes: Tensor, inputs: Inputs) -> Certificate:
        """What `votes` (int64 [n, k]) on `inputs` prove."""

    @final
    def radius(self, victim: Victim, inputs: Inputs) -> Certificate:
        """The victim's predictions on `inputs` with what is certain of them. victim: what `purify` gave. Raises InvalidInput
        for graphs of which nothing can be."""
        if why := self.unproven(inputs):
            raise InvalidInput(f"no certificate for these graphs: {why}")
        return self.certify(ballots(victim.predict(inputs)), inputs)

    def rebuild(self, victim: Victim) -> Victim:
        return Voting([victim.clone() for _ in range(self.members())], self.view())

    def refuse(self, evidence: Evidence) -> str:
        held = (evidence.train if evidence.has("train") else evidence.clean).inputs
        return self.unproven(held)

    def unproven(self, inputs: Inputs) -> str:
        """Why nothing can be proven for `inputs`, or nothing."""
        return TAKES if self.splits_edges and isinstance(inputs, Graphs | Nodes) and not simple(store(inputs)) else ""

    def cleanse(self, evidence: Evidence, ctx: Context) -> Victim:
        train = evidence.train
        degrees = isinstance(train.inputs, Graphs | Nodes) and are_degrees(store(train.inputs))
        view = self.view(ctx.key("votes"), degrees)
        members = [
            _member(train.take(rows), view, ctx.within(f"member {i}"), f"{self.name}: model {i + 1} of {self.members()}")
            for i, rows in enumerate(self.shares(train, ctx))
        ]
        return Voting(members, view)


def simple(graphs: Graphs) -> bool:
    """Whether every edge is stored once in both directions, and none leads from a node to itself."""
    ends = graphs.edge_index
    pairs = ends[0] * max(1, len(graphs.x)) + ends[1]
    return graphs.symmetric and bool((ends[0] != ends[1]).all()) and len(pairs.unique()) == len(pairs)


def _member(part: Dataset, view: View, ctx: Context, what: str) -> Victim:
    """A function of the part alone. BatchNorm cannot train on one sample: such a part leaves its model as it began."""
    return ctx.fit(part, [OnViews(view, ctx.rng("views"))], what=what) if len(part) > 1 else ctx.fresh(part)


class OnViews(TrainHook):
    """Every batch shows a fresh view of each of its inputs, or of the graph that they share."""

    def __init__(self, view: View, rng: Generator) -> None:
        self.view, self.rng = view, rng

    def on_batch(self, state: TrainState, batch: Inputs, y: Tensor, rows: Tensor) -> tuple[Inputs, Tensor]:
        drawn = self.view.draw(len(y), self.rng)
        return self.view(batch, drawn[:1].expand(len(y)) if isinstance(batch, Nodes) else drawn), y
