"""Prune."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
import torch.nn.functional as F

from ostiary.component import Rate
from ostiary.context import Context
from ostiary.data.dataset import Dataset
from ostiary.errors import InvalidInput
from ostiary.evidence import Evidence
from ostiary.modality.base import Inputs
from ostiary.modality.graphs import with_degrees
from ostiary.modality.nodes import Nodes, store
from ostiary.models.screened import Screen, screened
from ostiary.models.victim import Victim
from ostiary.purifiers.base import Purifier, emptied
from ostiary.triggers.generator import feature_kind


class Prune(Purifier, name="prune"):
    """Deletes the edges between nodes that are unlike each other, before the model sees a graph, before training, or both.

    Source: Dai et al. (UGBA), WWW 2023, arXiv:2303.01263, section 3.3; on graphs Zhang et al. (GCleaner), arXiv:2410.01272.
    The defender holds the model and a few clean samples, or with `when` train or both the training set. Edges whose ends have
    a cosine of at most `threshold` go (0.1: GCleaner; UGBA: Cora 0.1, Pubmed 0.2, Flickr 0.4, Arxiv 0.8). `by` auto compares
    features or, where they are a one-hot, whose cosines are 0 or 1, what the first layer makes of them: the given model's or,
    before training, that of one trained on the suspicious set. `drop_labels` (UGBA's Prune+LD): training leaves out nodes
    that lost an edge, and graphs that lost more than `share` of theirs (0.25: ours; some edge goes in almost every graph).
    """

    modalities = frozenset({"graph", "node"})
    trains = False
    threshold: float = 0.1
    by: Literal["auto", "features", "embedding"] = "auto"
    when: Literal["test", "train", "both"] = "test"
    drop_labels: bool = False
    share: Rate = 0.25

    def needed(self) -> frozenset[str]:
        return self.needs if self.when == "test" else frozenset({"train"})

    def refuse(self, evidence: Evidence) -> str:
        idle = self.drop_labels and self.when == "test"
        return "drop_labels works on a training set; set when to train or both" if idle else ""

    def rebuild(self, victim: Victim) -> Victim:
        return victim if self.when == "train" else screened(victim, Pruning(victim.clone(), self.threshold))

    def cleanse(self, evidence: Evidence, ctx: Context) -> Victim:
        data = evidence.clean if evidence.has("clean") else evidence.train
        kind = feature_kind(store(data.inputs))
        embedded = self.by == "embedding" or (self.by == "auto" and kind != "range")
        model = evidence.victim.clone() if evidence.has("victim") else ctx.surrogate(data) if embedded else ctx.fresh(data)
        screen = Pruning(model.eval(), self.threshold, embedded, kind == "degree")
        if evidence.has("victim"):
            return screened(evidence.victim, screen)
        victim = ctx.fit(self.pruned(data, screen), what="prune: retraining")
        return victim if self.when == "train" else screened(victim, screen)

    def pruned(self, train: Dataset, screen: Pruning) -> Dataset:
        after = screen.passed(train, screen.model)
        if not self.drop_labels:
            return after
        old, new = store(train.inputs), store(after.inputs)
        lost = old.n_edges - new.n_edges > self.share * old.n_edges
        if isinstance(train.inputs, Nodes):
            lost = (old.in_degree > new.in_degree)[train.inputs.roots]
        left = after.take((~lost).nonzero().flatten())
        if gone := emptied(train, left):
            raise InvalidInput(f"at threshold {self.threshold} all of class {gone} lose their label; lower it, or raise share")
        return left


class Pruning(Screen):
    """Batches without the edges between nodes whose cosine is at most `threshold`."""

    def __init__(self, model: Victim, threshold: float, embedded: bool = True, degrees: bool = False) -> None:
        super().__init__()
        self.model, self.threshold = model, threshold
        self.register_buffer("embedded", torch.tensor(embedded))
        self.register_buffer("degrees", torch.tensor(degrees))

    @torch.no_grad()
    def forward(self, batch: Inputs, victim: Victim) -> Inputs:
        graphs = store(batch)
        unit = F.normalize(self.model.layers(batch)[1][0] if bool(self.embedded) else graphs.x, dim=1)
        alike = torch.cat([(unit[a] * unit[b]).sum(1) for a, b in graphs.edge_index.split(2**18, dim=1)])
        found = graphs.with_edges(alike > self.threshold)
        found = with_degrees(found) if bool(self.degrees) else found
        return replace(batch, graphs=found) if isinstance(batch, Nodes) else found
