"""Motif-BA."""

from __future__ import annotations

from typing import Literal

import torch

from ostiary.attacks.base import PoisoningAttack
from ostiary.component import Rate
from ostiary.context import Context
from ostiary.data.dataset import Dataset
from ostiary.modality.motifs import MOTIFS, count_motifs
from ostiary.triggers.positions.asked import Impact
from ostiary.triggers.positions.base import Position
from ostiary.triggers.subgraph import Subgraph, mounted

COUNTED = 1000  # graphs: enough to tell rare from common


class MotifBA(PoisoningAttack, name="motif-ba"):
    """Mounts a motif that is rare in the clean data on the nodes that a shadow model misses most.

    Source: Zheng, Xiong, Chen, Ma & Huang, IEEE TCSS 2023, arXiv:2210.13710. The adversary controls training data and
    trains a shadow model (`surrogate`). `motif`: M31 path, M32 triangle, M41 path, M42 star, M43 cycle, M44 triangle with
    a tail, M45 two triangles, M46 clique; auto takes the rarest on four nodes: held by the fewest graphs, then the one
    with fewest occurrences, then the one with most edges. `position`: of the 10 nodes of highest degree those without
    whose edges the shadow model's outputs change most (paper). Rate 10 %: paper.

    Differs from the authors' code: the motif is chosen by its count (theirs is fixed to M44), only sources are poisoned,
    without replacement, and the victim's batches are ordinary ones (theirs force 5 poisoned graphs into each).
    """

    modalities = frozenset({"graph"})
    rate: Rate = 0.1
    motif: Literal["auto", "M31", "M32", "M41", "M42", "M43", "M44", "M45", "M46"] = "auto"
    position: Position = Impact()

    def make_trigger(self, train: Dataset, ctx: Context) -> Subgraph:
        motif = rarest(train, ctx.rng("motif")) if self.motif == "auto" else self.motif
        edges = MOTIFS[motif]
        size = 1 + max(map(max, edges))
        return mounted(Subgraph(size=size, edges=edges, position=self.position), train, self.attacker(ctx))


def rarest(train: Dataset, rng: torch.Generator) -> str:
    """The motif on four nodes that is rarest in (a sample of) the data."""
    rows = torch.randperm(len(train), generator=rng)[:COUNTED]
    counts = count_motifs(train.inputs.take(rows))
    holders, total = (counts > 0).sum(0).tolist(), counts.sum(0).tolist()
    order = {m: (holders[i], total[i], -len(MOTIFS[m])) for i, m in enumerate(MOTIFS) if m.startswith("M4")}
    return min(order, key=lambda m: order[m])
