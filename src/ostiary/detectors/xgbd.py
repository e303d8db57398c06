"""Explanation-guided backdoor detection (XGBD)."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ostiary.component import NonNegative, NonNegativeFloat, Rate
from ostiary.context import Context
from ostiary.data.dataset import Dataset
from ostiary.detectors.base import Detector, Findings
from ostiary.evidence import Evidence
from ostiary.explainers.base import Explainer
from ostiary.explainers.fidelity import best_nodes, node_scores, only, touched, touching
from ostiary.explainers.guided_backprop import GuidedBackprop
from ostiary.explainers.subgraphx import SubgraphX
from ostiary.modality.graphs import Graphs, are_degrees, with_degrees
from ostiary.models.victim import Victim
from ostiary.training.flooding import Flooding


class XGBD(Detector, name="xgbd"):
    """Scores training graphs by how well a model trained on them finds the given label in that label's explanation alone.

    Source: Guan, Du & Liu, ECAI 2023, arXiv:2308.04406. The defender holds the training set and trains a helper model of
    the plan's architecture (`flooding`: level at which its loss is kept, 0 for none). The given label of every graph is
    explained, the best `nodes` and all edges that touch them are kept, and the graph scores minus the helper's
    cross-entropy of the label on what is kept: a trigger says its label without the rest of the graph. `nodes` 0: a fifth
    of the mean graph, the customary trigger, and 2 more (the authors' code adds 2 to the true trigger's size, which no
    defender knows). Features that count edges are counted anew. Flagged is the `isolate` share that scores highest, or what
    stands before the widest gap among the higher half of the scores (`cut`); 0.05 is the usual rate of poison, so that the
    default favours the defender where that is the rate.

    Preset `paper`: SubgraphX (minutes for a few hundred molecules) and raw scores. Defaults are ours, chosen on AIDS, seed
    10: guided backpropagation, and scores less the median of their label (`per_class`). Small graphs may all look like one
    class to a helper: there, every graph of the others scores low, poisoned or not.
    """

    presets = {"paper": {"explainer": SubgraphX(), "per_class": False}}
    modalities = frozenset({"graph"})
    needs = frozenset({"train"})
    about = "train"
    nodes: NonNegative = 0
    explainer: Explainer = GuidedBackprop()
    flooding: NonNegativeFloat = 0.0
    per_class: bool = True
    cut: Literal["share", "gap"] = "share"
    isolate: Rate = 0.05

    def examine(self, evidence: Evidence, ctx: Context) -> Findings:
        train = evidence.train
        hooks = [Flooding(self.flooding)] if self.flooding else []
        helper = ctx.within("helper").fit(train, hooks, what="training the helper model")
        logits = helper.predict(self.explained(helper, train, ctx))
        scores = -F.cross_entropy(logits, train.y, reduction="none")
        for c in train.y.unique().tolist() if self.per_class else ():
            scores[train.y == c] -= scores[train.y == c].median()
        flagged = torch.zeros(len(scores), dtype=torch.bool)
        flagged[scores.argsort(descending=True)[: self.suspicious(scores)]] = True
        return Findings(scores, flagged)

    def explained(self, helper: Victim, train: Dataset, ctx: Context) -> Graphs:
        """The part of every graph that explains its label."""
        graphs: Graphs = train.inputs
        found = self.explainer.explain(helper, graphs, ctx, train.y, train.ids)
        budget = self.nodes or 2 + round(len(graphs.x) / len(graphs) / 5)
        chosen = best_nodes(graphs, node_scores(graphs, found), budget)
        edges = touching(graphs, chosen)
        part = only(graphs, edges, chosen | touched(graphs, edges))
        return with_degrees(part) if are_degrees(graphs) else part

    def suspicious(self, scores: Tensor) -> int:
        """How many to flag."""
        if self.cut == "share":
            return round(self.isolate * len(scores))
        ranked = scores.sort(descending=True).values[: len(scores) // 2 + 1]
        return int((-ranked.diff()).argmax()) + 1 if len(ranked) > 1 else 0
