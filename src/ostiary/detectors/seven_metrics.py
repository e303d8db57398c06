"""Seven metrics of an explanation."""

from __future__ import annotations

from typing import Annotated

import msgspec
import torch
from torch import Tensor

from ostiary.component import NonNegative, Rate
from ostiary.context import Context
from ostiary.detectors.base import Findings, InputDetector
from ostiary.detectors.explanability import together
from ostiary.detectors.explanation_metrics import bend, components, degree_variance
from ostiary.evidence import Evidence
from ostiary.explainers.fidelity import best_edges, confidence, edge_scores, fidelity, touched
from ostiary.explainers.gnn_explainer import GNNExplainer
from ostiary.modality.graphs import Graphs, are_degrees
from ostiary.models.victim import Victim

METRICS = (
    *("prediction confidence", "explainability", "connectivity", "subgraph degree variance"),
    *("degree variance", "elbow", "curvature"),
)


class SevenMetrics(InputDetector, name="seven-metrics"):
    """Lets seven measures of one explanation vote on each graph.

    Source: Downer, Wang & Wang, 2024, arXiv:2403.18136. The defender holds the model and a few clean graphs. From one run
    of GNNExplainer on the predicted class, whose best `k` edges (0: the `share`) make a subgraph: the class's probability;
    fid+ - fid-; into how many pieces the subgraph falls; the variance of degrees in it, and in the whole graph; elbow and
    curvature of the explainer's loss. A graph is flagged when at least `votes` of the seven vote (paper: 2 to 4).

    The paper's text was not at hand, so formulas, thresholds and `share` are ours: elbow and curvature as in `bend`, of the
    explainer's cross-entropy without its regularisers, whose course depends on the graph's size; a measure votes when it is
    further from the clean graphs' median than the `quantile` of them, on either side, since the side to which a trigger
    shifts it depends on data and attack (seen on AIDS, seed 10). The score is the number of votes plus, below 1, the share
    of clean graphs nearer the median, over all seven.
    """

    modalities = frozenset({"graph"})
    needs = frozenset({"victim", "clean"})
    votes: Annotated[int, msgspec.Meta(ge=1, le=7)] = 2
    quantile: Rate = 0.95
    k: NonNegative = 0
    share: Rate = 0.25
    explainer: GNNExplainer = GNNExplainer()

    def examine(self, evidence: Evidence, ctx: Context) -> Findings:
        data, clean = self.suspects(evidence), evidence.clean
        found = self.measures(evidence.victim, *together(data, clean), ctx)
        far = (found - found[:, len(data) :].median(1, keepdim=True).values).abs()
        here, usual = far[:, : len(data)].contiguous(), far[:, len(data) :].sort(1).values.contiguous()
        cast = here > usual.quantile(self.quantile, 1, keepdim=True, interpolation="higher")
        nearer = torch.searchsorted(usual, here).double().mean(0) / (len(clean) + 1)
        votes = cast.sum(0)
        info = {"votes of each": dict(zip(METRICS, cast.sum(1).tolist(), strict=True))}
        return Findings(votes + nearer, votes >= self.votes, info=info)

    def measures(self, victim: Victim, graphs: Graphs, ids: Tensor, ctx: Context) -> Tensor:
        """float [7, G], in the order of METRICS."""
        classes = victim.predict(graphs).argmax(1)
        found = self.explainer.explain(victim, graphs, ctx, classes, ids)
        assert found.losses is not None
        edges = best_edges(graphs, edge_scores(graphs, found), self.k, self.share)
        plus, minus = fidelity(victim, graphs, edges, classes, are_degrees(graphs))
        every_edge, every_node = torch.ones_like(edges), torch.ones(len(graphs.x), dtype=torch.bool)
        found_in_graphs = (
            components(graphs, edges),
            degree_variance(graphs, edges, touched(graphs, edges)),
            degree_variance(graphs, every_edge, every_node),
        )
        rows = (confidence(victim, graphs, classes), plus - minus, *found_in_graphs, *bend(found.losses))
        return torch.stack([row.double() for row in rows])
