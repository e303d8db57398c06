"""ER-CLBA."""

from __future__ import annotations

from ostiary.attacks.base import CleanLabelAttack, PoisoningAttack
from ostiary.attacks.random_graphs import erdos_renyi, trigger_size
from ostiary.component import NonNegative, Rate
from ostiary.context import Context
from ostiary.data.dataset import Dataset
from ostiary.triggers.subgraph import Subgraph, mounted


class ERCLBA(CleanLabelAttack, PoisoningAttack, name="er-clba"):
    """Mounts a random subgraph on training graphs of the target class and leaves their labels as they are.

    Source: Xu & Picek, CCS 2022 poster, doi.org/10.1145/3548606.3563531. The adversary controls training data. `select`:
    targets that the attacker's own model (`surrogate`) calls rightly, the rule of Meguro et al., ICISSP 2024; the
    original takes any (select: random). `size`: trigger nodes; 0 means 20 % of the mean graph size (paper). `density`
    0.8 and rate 10 %: paper.

    Differs from the authors' code: node positions are fresh for every graph.
    """

    modalities = frozenset({"graph"})
    size: NonNegative = 0
    density: Rate = 0.8

    def make_trigger(self, train: Dataset, ctx: Context) -> Subgraph:
        size = self.size or trigger_size(train)
        edges = erdos_renyi(size, self.density, ctx.rng("subgraph"))
        return mounted(Subgraph(size=size, edges=edges), train, self.attacker(ctx))
