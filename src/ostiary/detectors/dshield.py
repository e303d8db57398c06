"""DShield."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ostiary.component import Positive, PositiveFloat, Rate
from ostiary.context import Context
from ostiary.detectors.base import Detector, Findings
from ostiary.detectors.discrepancy import looked, outside, scaled, spans, unlearnt
from ostiary.detectors.outliers import anomaly
from ostiary.detectors.self_taught import Lesson, SelfTaught
from ostiary.evidence import Evidence
from ostiary.modality.graphs import Graphs
from ostiary.seeds import scoped

FEWEST = 4  # nodes of a class in which others can stand apart: authors' code


class DShield(Detector, name="dshield"):
    """Scores training nodes by how far from their class a model without labels, or the features it rests on, set them apart.

    Source: Yu et al., DShield, NDSS 2025, and its code. The defender holds the model and the training set. (1) An encoder
    learns from features and edges; views lack unlike edges and the features that speak for a node's label. (2) Within a
    class, pairs are as far apart as in the encoder or in the model's first layer, whichever is more (labels that were
    changed), and as their features that speak for the label are (labels that were not); both scaled to [0, 1], weighed by
    their spread and `balance`. (3) Nodes outside the one cluster of more than half the class that HDBSCAN finds are
    candidates. (4) A new model learns the others and unlearns them; those whose distance from their class in its first layer
    is an outlier (`cutoff` 3.5 median absolute deviations, made comparable to standard ones) are flagged. Use it with
    `retrain-without`, or with `rigbd`, which unlearns as the code does. `temperature`, shares of edges and features dropped,
    `balance`: authors' code; `epochs` 1000 there, one tenth here. Scores: below 1 what HDBSCAN takes in.

    Preset auto (ours, `by` median) stops at (2): a node scores as its median distance to its class does among theirs, in
    either matrix. Of one cluster HDBSCAN leaves out almost half of every class, poisoned or not (block model, seeds 10 to 12).

    Differs from the code: features are compared as they are, not after UMAP; gradients by features are those of all nodes at
    once, as there for large graphs; edges lose both directions; one round, since further ones change only what is drawn.
    """

    presets = {"paper": {"epochs": 1000}, "auto": {"by": "median"}}
    modalities = frozenset({"node"})
    needs = frozenset({"train", "victim"})
    about = "train"
    measure = "distance from its class"
    epochs: Positive = 100
    hidden: Positive = 64
    temperature: PositiveFloat = 0.4
    edges: Rate = 0.3
    features: Rate = 0.3
    balance: Rate = 0.5
    by: Literal["clusters", "median"] = "clusters"
    cutoff: PositiveFloat = 3.5

    def examine(self, evidence: Evidence, ctx: Context) -> Findings:
        train = evidence.train.move(ctx.device)
        near, speaks, sure = looked(evidence.victim, train)
        shown, places = train.inputs.x * speaks, train.inputs.roots
        own = self.taught(train.inputs.graphs, near, speaks, places[sure], ctx)
        scores, strange, stressed = torch.zeros_like(near[places, 0]), torch.zeros_like(sure), set[int]()
        for c in range(train.n_classes):
            mine = (sure & (train.y == c)).nonzero().flatten()
            if len(mine) >= FEWEST:
                at = places[mine]
                drift, stress = scaled(spans(own[at]).maximum(spans(near[at]))), scaled(spans(shown[at]))
                strange[mine], scores[mine] = self.apart(drift, stress)
                stressed |= {c} if bool(stress.std() > drift.std()) else set()
        if self.by == "clusters" and bool(strange.any()):
            for c in train.y[strange].unique().tolist():
                bad = strange & (train.y == c)
                scores[bad] = unlearnt(train, bad, sure & ~bad, shown if c in stressed else train.inputs.x, c, ctx)
            scores[strange] = 1 + anomaly(scores[strange]).abs()
            strange &= scores > 1 + self.cutoff
        return Findings(scores, strange, tuple(train.y[strange].unique().tolist()), {"flagged": int(strange.sum())})

    def apart(self, drift: Tensor, stress: Tensor) -> tuple[Tensor, Tensor]:
        """Of a class's rows, by two matrices of distances: which stand apart, bool [n]; how far they do, float [n]."""
        if self.by == "median":
            aside = torch.stack([anomaly(d.quantile(0.5, dim=1)) for d in (drift, stress)]).amax(0).clamp(min=0)
            return aside > self.cutoff, aside
        left, right = self.balance * drift.std(), (1 - self.balance) * stress.std()
        return outside((left * drift + right * stress) / (left + right).clamp(min=1e-12))

    def taught(self, graphs: Graphs, near: Tensor, speaks: Tensor, rows: Tensor, ctx: Context) -> Tensor:
        """What an encoder without labels makes of every node: float [N, hidden]."""
        with scoped(ctx.key("encoder"), "init"):
            encoder = SelfTaught(graphs.x.shape[1], self.hidden).to(ctx.device)
        unit, (source, target), pairs = F.normalize(near, dim=1), graphs.edge_index, graphs.pairs
        alike = near.new_zeros(len(pairs.unique())).index_copy(0, pairs, (unit[source] * unit[target]).sum(1))
        lesson = Lesson(self.epochs, temperature=self.temperature, edges=self.edges, features=self.features)
        encoder.teach(graphs, rows, alike, speaks[rows], lesson, ctx.rng("views"))
        return encoder.embed(graphs).detach()
