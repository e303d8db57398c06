"""Removal of explained edges (ED at test time)."""

from __future__ import annotations

import torch
from torch import Tensor

from ostiary.context import Context
from ostiary.detectors.explanability import Explanability, Scored
from ostiary.evidence import Evidence
from ostiary.explainers.fidelity import only
from ostiary.modality.graphs import Graphs, are_degrees, with_degrees
from ostiary.models.screened import Screen, screened
from ostiary.models.victim import Victim
from ostiary.purifiers.base import Purifier


class Removal(Screen):
    """Takes the explaining edges out of every graph that scores above the threshold. All graphs are explained under one
    key, so that what happens to a graph depends on the graph alone."""

    threshold: Tensor
    seed: Tensor
    degrees: Tensor

    def __init__(self, method: Explanability) -> None:
        super().__init__()
        self.method = method
        self.register_buffer("threshold", torch.tensor(0.0))
        self.register_buffer("seed", torch.tensor(0))
        self.register_buffer("degrees", torch.tensor(False))  # features are counted anew where edges have gone

    def scored(self, victim: Victim, graphs: Graphs) -> Scored:
        plain = graphs.with_(x=graphs.x.detach(), edge_weight=None, edge_mask=None)
        ids = torch.zeros(len(graphs), dtype=torch.int64)
        plain = victim.modality.move(plain, torch.device("cpu"))
        return self.method.scored(victim, plain, ids, Context(int(self.seed)), bool(self.degrees))

    def forward(self, batch: Graphs, victim: Victim) -> Graphs:
        found = self.scored(victim, batch)
        flagged = found.scores > self.threshold.cpu()
        keep = ~(found.edges & flagged[batch.edge_batch.cpu()]).to(batch.x.device)
        left = only(batch, keep)
        return with_degrees(left) if bool(self.degrees) else left


class EDRemoval(Explanability, Purifier, name="ed-removal"):
    """Predicts suspicious graphs again without the edges that explain the first prediction; the model stays as it is.

    Source: Jiang & Li, 2022, arXiv:2209.02902, as Meguro et al. (ICISSP 2024, section 5) describe it; score, threshold,
    options and preset `paper` are those of the detector `ed`. The defender holds the model and a few clean graphs. Every
    graph that comes in is explained and, if it scores above the threshold, loses its explaining edges; features that count
    edges are counted anew. It costs an explanation per batch. Differs: random starts of an explainer are the same for all
    graphs; an explainer that learns from all graphs at once is refused.
    """

    modalities = frozenset({"graph"})
    trains = False

    def refuse(self, evidence: Evidence) -> str:
        if not self.explainer.apart:
            return f"explainer '{self.explainer.name}' judges a graph by what comes with it; use another, such as gnn-explainer"
        return ""

    def rebuild(self, victim: Victim) -> Victim:
        return screened(victim, Removal(self))

    def cleanse(self, evidence: Evidence, ctx: Context) -> Victim:
        screen, graphs = Removal(self), evidence.clean.inputs
        screen.seed.fill_(ctx.key("explanation"))
        screen.degrees.fill_(are_degrees(graphs))
        screen.threshold.fill_(self.threshold(screen.scored(evidence.victim, graphs).scores))
        victim = screened(evidence.victim, screen)
        victim.notes["threshold"] = float(screen.threshold)
        return victim
