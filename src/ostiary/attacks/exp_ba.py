"""Exp-BA."""

from __future__ import annotations

from typing import Literal

from ostiary.attacks.base import PoisoningAttack
from ostiary.attacks.random_graphs import erdos_renyi, trigger_size
from ostiary.component import NonNegative, Rate
from ostiary.context import Context
from ostiary.data.dataset import Dataset
from ostiary.explainers.base import Explainer
from ostiary.explainers.gnn_explainer import GNNExplainer
from ostiary.triggers.base import Trigger
from ostiary.triggers.positions.asked import Explained
from ostiary.triggers.positions.structure import RandomNodes
from ostiary.triggers.subgraph import Subgraph, mounted


class ExpBA(PoisoningAttack, name="exp-ba"):
    """Mounts a random subgraph on the nodes that an explainer finds most, or least, important.

    Source: Xu, Xue & Picek, WiseML 2021, arXiv:2104.03674; most and least compared by Xu, Abad & Picek, IJCNN 2023,
    arXiv:2304.04028. The adversary controls training data and trains a model of their own (`surrogate`). `position`: most
    (as GCleaner's tables use it) or least. `test_position`: explained, as in training, or random (what the authors' code
    does). `explainer`: GNNExplainer, edge masks only, lr 0.05: at PyG's 0.01 the ranking is hardly better than chance.
    `size`: trigger nodes; 0 means 20 % of the mean graph size (paper). `density` 0.8: authors' code. Rate 5 %: GCleaner
    (authors' code: 20 %).

    Differs from the authors' code: importance is computed here (theirs is read from files that are not published), and
    test positions are explained.
    """

    modalities = frozenset({"graph"})
    rate: Rate = 0.05
    size: NonNegative = 0
    density: Rate = 0.8
    position: Literal["most", "least"] = "most"
    test_position: Literal["explained", "random"] = "explained"
    explainer: Explainer = GNNExplainer(node_mask="none", lr=0.05)

    def make_trigger(self, train: Dataset, ctx: Context) -> Subgraph:
        size = self.size or trigger_size(train)
        position = Explained(end=self.position, explainer=self.explainer)
        edges = erdos_renyi(size, self.density, ctx.rng("subgraph"))
        return mounted(Subgraph(size=size, edges=edges, position=position), train, self.attacker(ctx))

    def at_test(self, trigger: Trigger) -> Trigger | None:
        if self.test_position == "explained":
            return None
        return trigger.replace(position=RandomNodes(), architecture=None, described={}, state={})
