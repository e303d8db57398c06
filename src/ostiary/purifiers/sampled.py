"""Votes over random subgraphs: what randomised smoothing of the edges has in common."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Annotated

import msgspec
import torch
from torch import Tensor

from ostiary.component import Positive
from ostiary.context import Context
from ostiary.evidence import Evidence
from ostiary.modality.base import Inputs
from ostiary.modality.graphs import Graphs, are_degrees, with_degrees
from ostiary.modality.nodes import Nodes, names, store
from ostiary.models.victim import Victim
from ostiary.models.votes import View, Voting
from ostiary.purifiers.certificate import Certificate, clopper_pearson
from ostiary.purifiers.certified import Certified

Share = Annotated[float, msgspec.Meta(gt=0.0, lt=1.0)]


class Sampled(Certified):
    """`samples`: random subgraphs that vote. `alpha`: how likely a certificate may be wrong. What it certifies is, as in the
    literature (Cohen et al., ICML 2019, arXiv:1902.02918), the vote of *all* subgraphs: on a changed graph that of `samples`
    may still come out otherwise by chance where it is close. `delivered` certifies the latter too, against whoever does not
    know the draws, by a margin of sqrt(2 ln(2 k / alpha) / samples) more (Hoeffding) and half of `alpha`. `retrain`: a model
    of one's own that sees a fresh subgraph of every graph in every batch; without it the given victim votes."""

    trains = False
    added = frozenset({"delivered"})
    samples: Positive = 1000
    alpha: Share = 0.001
    retrain: bool = True
    delivered: bool = False

    @abstractmethod
    def lead(self, first: Tensor, second: Tensor, inputs: Graphs) -> Tensor:
        """By how much the leading class leads the next, at least, once e pairs are flipped, for e = 0, 1, ...: float64 [n, e].
        first, second: float64 [n, 1], bounds on their shares before, from below and from above."""

    def needed(self) -> frozenset[str]:
        return frozenset({"train"}) if self.retrain else frozenset({"victim", "clean"})

    def cleanse(self, evidence: Evidence, ctx: Context) -> Victim:
        if self.retrain:
            return super().cleanse(evidence, ctx)
        return Voting([evidence.victim.clone()], self.view(ctx.key("votes"), are_degrees(store(evidence.clean.inputs))))

    def certify(self, votes: Tensor, inputs: Inputs) -> Certificate:
        """Certain as long as the leading class stays above all others."""
        k, alpha = votes.shape[1], self.alpha / (2 if self.delivered else 1)
        slack = math.sqrt(2 * math.log(2 * k / self.alpha) / self.samples) if self.delivered else 0.0
        prediction = (votes * k - torch.arange(k)).argmax(1)
        low, high = clopper_pearson(votes, votes.sum(1, keepdim=True), alpha / k)
        first = low.gather(1, prediction[:, None])
        second = high.scatter(1, prediction[:, None], 0.0).amax(1, keepdim=True).minimum(1 - first)
        margin = (self.lead(first, second, inputs) > slack + 1e-9).long().cumprod(1).sum(1) - 1  # rounding must not certify
        graphs = store(inputs)
        n = graphs.n_nodes[graphs.batch[inputs.roots]] if isinstance(inputs, Nodes) else graphs.n_nodes
        return Certificate(votes, prediction, margin.minimum(n * (n - 1) // 2), {"edges": 1}, self.alpha)


class RandomEdges(View):
    """View s: every node, edges that chance number s keeps, and those it adds. Both directions of an edge share their fate."""

    among = 2**62
    key: Tensor

    def __init__(self, samples: int, key: int, degrees: bool) -> None:
        super().__init__()
        self.count = samples
        self.register_buffer("key", torch.tensor(key))
        self.register_buffer("degrees", torch.tensor(degrees))

    @abstractmethod
    def keep(self, batch: Graphs, pairs: Tensor, which: Tensor) -> Tensor:
        """bool [E]; pairs: int64 [E], a number for each edge by the places of its nodes in their graph."""

    def gained(self, kept: Graphs, batch: Graphs, which: Tensor) -> Graphs:
        """What is left of the batch, with the edges that chance adds."""
        return kept

    def forward(self, batch: Inputs, which: Tensor) -> Inputs:
        if isinstance(batch, Graphs):
            return self.thinned(batch, batch.edge_index - batch.node_ptr[batch.edge_batch], which)
        numbers, copy = which.unique(return_inverse=True)  # nodes share a graph: a copy of it for every view
        graphs, k = batch.graphs, len(numbers)
        many = graphs.take(torch.arange(len(graphs), device=which.device).repeat(k))
        ends = names(batch).repeat(k)[many.edge_index]
        return Nodes.of(self.thinned(many, ends, numbers.repeat_interleave(len(graphs))), batch.roots + copy * len(graphs.x))

    def thinned(self, graphs: Graphs, ends: Tensor, which: Tensor) -> Graphs:
        kept = graphs.with_edges(self.keep(graphs, torch.minimum(*ends) * 2**31 + torch.maximum(*ends), which))
        found = self.gained(kept, graphs, which)
        return with_degrees(found) if bool(self.degrees) else found
