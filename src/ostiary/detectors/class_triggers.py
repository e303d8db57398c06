"""What a scan knows of one class: the triggers recovered for it, and how they fare on positions drawn anew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ostiary.component import Json
from ostiary.context import Context
from ostiary.data.dataset import Dataset
from ostiary.inversion import Recovered, Recovery, edges_within, likeness, placed
from ostiary.modality.graphs import Graphs
from ostiary.models.victim import Victim


@dataclass(frozen=True, eq=False)
class ClassTrigger:
    """A trigger of `nodes` nodes for one class. stamped: clean graphs of other classes, those in y, that carry it, each on
    positions it was not recovered on. margins: float [m], theirs. similarity: mean cosine of their embeddings; edges: mean
    edges within the trigger."""

    nodes: int
    found: Recovered
    stamped: Graphs
    y: Tensor
    margins: Tensor
    similarity: float
    edges: float

    @property
    def rate(self) -> float:
        """Share of those graphs that the trigger sends to its class."""
        return float((self.margins > 0).double().mean())

    def on(self, data: Dataset, seed: int) -> Graphs:
        """Other graphs with the trigger, on nodes drawn at random."""
        return self.found.on(data, Recovery(self.nodes).anywhere(data, seed))


def spread(clean: Dataset, goal: int, copies: int) -> Dataset:
    """`copies` of every clean graph of another class than `goal`, with ids of their own, so that positions differ."""
    rows = (clean.y != goal).nonzero().flatten().repeat(copies)
    return replace(clean.take(rows), ids=torch.arange(len(rows), device=rows.device))


def recovered(victim: Victim, clean: Dataset, goal: int, recovery: Recovery, copies: int, ctx: Context) -> ClassTrigger:
    """The trigger found on `copies` draws of positions, judged on as many new ones."""
    several = spread(clean, goal, copies)
    found = recovery.once(victim, several, recovery.anywhere(several, ctx.key("found")), goal, ctx, coarse=True)
    at = placed(several.inputs, recovery.anywhere(several, ctx.key("judged")))
    with torch.no_grad():
        stamped = found.stamp(several.inputs, at)
    logits, embedding = victim.embed(stamped)
    alike, edges = likeness(embedding), edges_within(stamped, at) / len(stamped)
    return ClassTrigger(recovery.nodes, found, stamped, several.y, margin(logits, goal), alike, edges)


def by_size(tries: Sequence[ClassTrigger], reached: float) -> dict[str, Any]:
    """What is said of the triggers of one class, smallest first; size needed: the least that succeeds at rate `reached`."""
    sizes = {str(t.nodes): {"rate": t.rate, "edges": t.edges, "similarity": t.similarity} for t in tries}
    return {"size needed": next((t.nodes for t in tries if t.rate >= reached), None), "nodes": sizes}


def sketch(trigger: ClassTrigger, clean: Dataset, ctx: Context) -> Json:
    """A clean graph of another class with the trigger on it, in the form that reports draw."""
    rows = (clean.y != trigger.found.goal).nonzero().flatten()
    before = clean.take(rows[clean.inputs.n_nodes[rows].argsort(stable=True)[len(rows) // 4]][None])  # small, not tiny
    host = torch.device("cpu")
    both = (clean.modality.move(inputs, host) for inputs in (before.inputs, trigger.on(before, ctx.key("drawn"))))
    return clean.modality.sketch(*both)[0]


def margin(logits: Tensor, goal: int) -> Tensor:
    """The logit of `goal` less the largest other: float [n]."""
    others = logits.clone()
    others[:, goal] = -torch.inf
    return logits[:, goal] - others.amax(1)
