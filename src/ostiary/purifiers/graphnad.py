"""GraphNAD."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from ostiary.component import NonNegativeFloat, Positive, PositiveFloat
from ostiary.context import Context
from ostiary.errors import BadSpec
from ostiary.evidence import Evidence
from ostiary.modality.graphs import Graphs
from ostiary.models.victim import Victim, evaluating
from ostiary.purifiers.base import FineTuning, Purifier
from ostiary.purifiers.distillation import attention, distilled
from ostiary.purifiers.relations import directions, node_weights, sliced_distance, slices


class GraphNAD(FineTuning, Purifier, name="graphnad"):
    """Distils a fine-tuned teacher's node attention, and how its layers relate, into the backdoored student.

    Source: Zhang et al., Fine-tuning is Not Fine, 2025, arXiv:2501.05835. The defender holds the model and a few clean
    graphs (paper: 3 %). Attention of a layer: degree times sum over channels of |activation|^p, of unit norm in each
    graph; `alpha` weighs the sum over layers of its squared distance. The relation map of two layers: inner products of
    their degree-weighted channels, of unit norm in each graph; `beta` weighs the sum over `pairs` of layers of the
    squared sliced Wasserstein-2 distance between maps, along `directions` random directions drawn anew each step. A
    weight of 0 switches its term off, `ce` the cross-entropy. `degree`: sum weighs nodes by their degree, inv by one
    over it. p 2, alpha and beta 1: paper (preset `paper`), as is the use of all layers.

    Differs: written from a summary of the paper (no code was published), so normalisation, weights, directions and pairs
    are reconstructed; `teacher_epochs` and `epochs` 30, Adam at 5e-3 and frozen BatchNorm statistics are those of plain
    fine-tuning here. The relations of a single layer do not exist: such a victim is refused unless `beta` is 0.
    """

    modalities = frozenset({"graph"})
    presets = {"paper": {"p": 2.0, "alpha": 1.0, "beta": 1.0, "degree": "sum", "pairs": "all"}}
    p: PositiveFloat = 2.0
    alpha: NonNegativeFloat = 1.0
    beta: NonNegativeFloat = 1.0
    degree: Literal["sum", "inv", "none"] = "sum"
    pairs: Literal["all", "adjacent"] = "all"
    directions: Positive = 50
    ce: bool = True
    teacher_epochs: Positive = 30
    epochs: Positive = 30

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.ce or self.alpha or self.beta):
            raise BadSpec("purifier 'graphnad' has no loss to train by; switch on ce, or set alpha or beta above 0")

    def refuse(self, evidence: Evidence) -> str:
        """Every layer must have a row per node, and relations need two of them."""
        victim, few = evidence.victim, evidence.clean.inputs.take(torch.arange(2))
        with torch.no_grad(), evaluating(victim):
            batch = victim.modality.move(few, victim.device)
            _, layers = victim.layers(batch)
        if any(h.ndim != 2 or len(h) != len(batch.x) for h in layers):
            return "it compares layers with one row per node, which a stage of the victim has not; name others as stages="
        if self.beta and len(layers) < 2:
            return "relations need two layers and the victim has one; set beta=0 for attention alone"
        return ""

    def cleanse(self, evidence: Evidence, ctx: Context) -> Victim:
        clean = evidence.clean
        teaching, learning = (self.trainer(ctx, clean, n) for n in (self.teacher_epochs, self.epochs))
        apart = partial(self.apart, rng=ctx.rng("directions"))
        return distilled(evidence, ctx, teaching, learning, apart, self.ce)

    def apart(self, student: Sequence[Tensor], teacher: Sequence[Tensor], graphs: Graphs, *, rng: torch.Generator) -> Tensor:
        """alpha L_AD + beta L_RC of layers, float [N, d] each."""
        weight, total = node_weights(graphs, self.degree), student[0].new_zeros(())
        if self.alpha:
            for a, b in zip(student, teacher, strict=True):
                gap = attention(a, graphs, self.p, weight) - attention(b, graphs, self.p, weight)
                total = total + self.alpha * gap.square().sum() / len(graphs)
        if self.beta:
            n = len(student)
            pairs = [(i, j) for i in range(n) for j in range(i + 1, n) if self.pairs == "all" or j == i + 1]
            along = [directions(student[j].shape[1], self.directions, rng, student[j]) for _, j in pairs]
            both = (slices(layers, pairs, along, graphs, weight) for layers in (student, teacher))
            total = total + self.beta * torch.stack([sliced_distance(a, b) for a, b in zip(*both, strict=True)]).sum()
        return total
