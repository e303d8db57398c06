"""The explanability score, for what flags graphs by it and for what then removes the explained edges."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from ostiary.component import Component, NonNegative, Rate
from ostiary.context import Context
from ostiary.data.dataset import Dataset
from ostiary.explainers.base import Explainer
from ostiary.explainers.fidelity import best_edges, edge_scores, fidelity
from ostiary.explainers.gnn_explainer import GNNExplainer
from ostiary.explainers.guided_backprop import GuidedBackprop
from ostiary.modality.graphs import Graphs, are_degrees
from ostiary.models.victim import Victim


@dataclass(frozen=True, eq=False)
class Scored:
    """scores: float [G]. edges: bool [E], those that explain."""

    scores: Tensor
    edges: Tensor


class Explanability(Component):
    """Options of the score.

    k: undirected edges of an explanation; 0 takes the `share` of a graph's edges, at least one. score: fid+ - fid-, or fid+
    alone. quantile: of the clean graphs' scores, above which a graph is suspicious; 1 is their maximum (paper).
    """

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {"share": 0.1, "score": "fid+ - fid-", "explainer": GNNExplainer(node_mask="none", lr=0.05)},
    }
    k: NonNegative = 0
    share: Rate = 0.2
    score: Literal["fid+", "fid+ - fid-"] = "fid+"
    quantile: Rate = 1.0
    explainer: Explainer = GuidedBackprop()

    def scored(self, victim: Victim, graphs: Graphs, ids: Tensor, ctx: Context, degrees: bool | None = None) -> Scored:
        """All graphs by one explanation of their classes; `ids` as in `Explainer.explain`, `degrees` as in `fidelity` (None: as
        these graphs show)."""
        degrees = are_degrees(graphs) if degrees is None else degrees
        classes = victim.predict(graphs).argmax(1)
        found = self.explainer.explain(victim, graphs, ctx, classes, ids)
        chosen = best_edges(graphs, edge_scores(graphs, found), self.k, self.share)
        plus, minus = fidelity(victim, graphs, chosen, classes, degrees)
        return Scored(plus if self.score == "fid+" else plus - minus, chosen)

    def threshold(self, scores: Tensor) -> float:
        """Of clean graphs' scores: one of them."""
        return float(scores.quantile(self.quantile, interpolation="higher"))


def together(data: Dataset, clean: Dataset) -> tuple[Graphs, Tensor]:
    """(graphs, ids) of both, one after the other, so that one explanation serves both."""
    return data.modality.join([data.inputs, clean.inputs]), torch.cat([data.ids, clean.ids])
