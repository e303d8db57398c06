"""Sub-BA."""

from __future__ import annotations

from ostiary.attacks.base import PoisoningAttack
from ostiary.attacks.random_graphs import Model, random_graph, trigger_size
from ostiary.component import NonNegative, Positive, Rate
from ostiary.context import Context
from ostiary.data.dataset import Dataset
from ostiary.triggers.positions.base import Position
from ostiary.triggers.positions.structure import RandomNodes
from ostiary.triggers.subgraph import Subgraph, mounted


class SubBA(PoisoningAttack, name="sub-ba"):
    """Mounts one random subgraph on nodes of relabelled training graphs.

    Source: Zhang, Jia, Wang & Gong, SACMAT 2021, arXiv:2006.11165. The adversary controls training data only.
    `model`: Erdos-Renyi (paper's default), ws (Watts-Strogatz) or ba (Barabasi-Albert). `size`: trigger nodes; 0 means
    20 % of the mean graph size, at least 2 (paper). `density`: edge probability, for ws that of rewiring (paper: 0.8);
    1 gives a clique. `degree`: of ws and ba (paper: 3 to 4). `position`: random nodes (paper); degree and dense are
    variants of the authors' code. Rate 5 %: paper.

    Differs from the authors' code as the paper itself does: an Erdos-Renyi trigger is drawn again until it is connected
    (where density > ln size / size), node positions are fresh for every graph, graphs are drawn without replacement,
    and degree features are made again from the final edges.
    """

    modalities = frozenset({"graph"})
    rate: Rate = 0.05
    size: NonNegative = 0
    model: Model = "er"
    density: Rate = 0.8
    degree: Positive = 4
    position: Position = RandomNodes()

    def make_trigger(self, train: Dataset, ctx: Context) -> Subgraph:
        size = self.size or trigger_size(train)
        edges = random_graph(self.model, size, self.density, self.degree, ctx.rng("subgraph"))
        return mounted(Subgraph(size=size, edges=edges, position=self.position), train, self.attacker(ctx))
