"""Positions that the attacker's own model gives."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ostiary.component import Positive
from ostiary.context import Context
from ostiary.errors import BadSpec
from ostiary.explainers.base import Explainer
from ostiary.explainers.gnn_explainer import GNNExplainer
from ostiary.explainers.masks import by_degree
from ostiary.modality.graphs import Graphs, counts_degrees, with_degrees
from ostiary.models.victim import Victim
from ostiary.triggers.positions.base import Ranked, per_graph
from ostiary.triggers.positions.structure import Degree


class Explained(Ranked, name="explained"):
    """The nodes that an explainer finds most (or least) important for what the attacker's model says of the graph.

    Default: GNNExplainer's edge mask, summed at nodes over ln(1 + degree) (XGBD's rule), with lr 0.05 for PyG's 0.01,
    at which the mask hardly leaves its random start. Raises BadSpec for an explainer that judges a graph by its batch.
    """

    asks = True
    end: Literal["most", "least"] = "most"
    explainer: Explainer = GNNExplainer(node_mask="none", lr=0.05)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.explainer.apart:
            raise BadSpec(
                f"explainer '{self.explainer.name}' judges a graph by what comes with it, and positions may not depend on "
                "other graphs; use another, such as gnn-explainer"
            )

    def score(self, graphs: Graphs, ids: Tensor, seed: int, model: Victim | None) -> Tensor:
        assert model is not None
        seen = self.explainer.explain(model, graphs, Context(seed=seed), ids=ids)
        found = seen.nodes
        if found is None and seen.edges is not None:
            found = by_degree(graphs, seen.edges)  # not their sum, by which hubs would come first whatever the explainer says
        assert found is not None
        return found if self.end == "most" else -found


class Impact(Ranked, name="impact"):
    """The nodes whose edges the attacker's model misses most: mean squared change of its outputs without them.

    Features that are degrees are counted anew without them. Of the `candidates` nodes of highest degree (Motif-BA: 10); the
    others follow in order of degree.
    """

    asks = True
    candidates: Positive = 10

    def score(self, graphs: Graphs, ids: Tensor, seed: int, model: Victim | None) -> Tensor:
        assert model is not None
        best = Degree().choose(graphs, self.candidates, ids, seed)
        most = 1 + per_graph(graphs.in_degree, graphs, "amax")[graphs.batch]
        missed = torch.full_like(most, -1.0)
        before, degrees = model.predict(graphs), counts_degrees(graphs)[graphs.batch, None]  # no graph decides for others
        for at in best.unbind(1):
            at = at[at >= 0]
            keep = ~torch.isin(graphs.edge_index, at).any(0)
            left = graphs.with_edges(keep)
            left = left.with_(x=torch.where(degrees, with_degrees(left).x, left.x)) if bool(degrees.any()) else left
            after = model.predict(left)
            missed[at] = (after - before).square().mean(1).to(missed)[graphs.batch[at]]
        unit = per_graph(missed, graphs, "amax").clamp(min=1e-30)[graphs.batch]
        return torch.where(missed < 0, graphs.in_degree / most - 1, missed / unit)
