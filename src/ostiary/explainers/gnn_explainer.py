"""GNNExplainer."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from ostiary.component import NonNegativeFloat, Positive, PositiveFloat
from ostiary.console import progress
from ostiary.context import Context
from ostiary.errors import BadSpec
from ostiary.explainers.base import Attribution, Explainer
from ostiary.explainers.masks import Masks
from ostiary.modality.graphs import Graphs
from ostiary.models.graph_layers import fold_norms
from ostiary.models.victim import Victim


class GNNExplainer(Explainer, name="gnn-explainer"):
    """Learns soft masks on edges and node features that keep the prediction and little else.

    Source: Ying, Bourgeois, You, Zitnik & Leskovec, NeurIPS 2019, arXiv:1903.03894. Needs gradients of the model.
    `node_mask`: one entry per node and feature (attributes), one per node (object) or none. `edge_mask`: one entry per
    directed edge. Loss: cross-entropy of the class + `edge_size` * sum of the edge mask + `node_feat_size` * mean of
    the node mask + `edge_ent` and `node_feat_ent` * their mean entropies. Defaults, `epochs` and the `lr` of Adam
    included: PyG 2.8's `GNNExplainer`. `chunk`: graphs at once; our choice, the fastest on molecules.

    Equals PyG's run graph by graph from the same initial masks: graphs share no parameter and Adam is elementwise, so
    the sum of the graphs' losses optimises each alone. Differs from it: initial masks follow from the seed and the
    graph's id; the 1e-15 inside its entropy's logarithm is left out.
    `losses` are the cross-entropies of the class, without the regularisers.
    Nodes score the mean of their features' masks; without a node mask, `by_degree` of the edge mask.
    At the defaults the masks stay near their random start: the best 30 % of edges of two seeds overlap by a third (AIDS,
    toy graphs), hardly above chance; raise `lr` (0.05) or `epochs` where the ranking itself matters.
    """

    modalities = frozenset({"graph"})
    epochs: Positive = 100
    lr: PositiveFloat = 0.01
    node_mask: Literal["attributes", "object", "none"] = "attributes"
    edge_mask: bool = True
    edge_size: NonNegativeFloat = 0.005
    edge_ent: NonNegativeFloat = 1.0
    node_feat_size: NonNegativeFloat = 1.0
    node_feat_ent: NonNegativeFloat = 0.1
    chunk: Positive = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.node_mask == "none" and not self.edge_mask:
            raise BadSpec("explainer 'gnn-explainer' has no mask to learn; switch on node_mask or edge_mask")

    def attribute(self, victim: Victim, inputs: Graphs, classes: Tensor, ids: Tensor, ctx: Context) -> Attribution:
        victim, parts, curves = victim.clone(), [], []
        fold_norms(victim)
        for rows in torch.arange(len(inputs)).tensor_split(math.ceil(len(inputs) / self.chunk)):
            graphs = victim.modality.move(victim.modality.take(inputs, rows), victim.device)
            masks = Masks(graphs, self.node_mask, self.edge_mask)
            theta = masks.initial(ids[rows].to(victim.device), ctx.key("gnn-explainer"))
            m, losses = self.optimise(victim, masks, classes[rows].to(victim.device), theta)
            parts.append(masks.scores(m))
            curves.append(losses.cpu())
            progress("explaining", (int(rows[-1]) + 1) / len(inputs))
        nodes, edges, features = (None if p[0] is None else torch.cat(p).cpu() for p in zip(*parts, strict=True))
        return Attribution(nodes, edges, features, losses=torch.cat(curves, 1))

    def optimise(self, victim: Victim, masks: Masks, classes: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
        """(every mask entry after the last epoch, float [P]; the graphs' cross-entropies in each, float [epochs, G]), from
        `theta`, float [P], the entries' first values before the sigmoid."""
        theta, mean, square = theta.clone(), torch.zeros_like(theta), torch.zeros_like(theta)
        size = entropy = hard = torch.zeros_like(theta)  # PyG's first step knows no hard mask, hence no regulariser
        curve = []
        for epoch in range(1, self.epochs + 1):
            m = theta.sigmoid()
            losses, slope = masks.gradient(victim, m, classes)
            curve.append(losses)
            grad = (slope + size - entropy * theta) * m * (1 - m)  # entropy of sigmoid(t): slope -t, no logarithm
            mean.lerp_(grad, 0.1)
            square.mul_(0.999).addcmul_(grad, grad, value=0.001)
            root = square.sqrt().div_(math.sqrt(1 - 0.999**epoch)).add_(1e-8)
            theta.addcdiv_(mean, root, value=-self.lr / (1 - 0.9**epoch))
            if epoch == 1:
                hard = (slope != 0).to(theta.dtype)
                size, entropy = self.regulariser(masks, hard)
        return theta.sigmoid() * hard, torch.stack(curve)

    def regulariser(self, masks: Masks, hard: Tensor) -> tuple[Tensor, Tensor]:
        """(size, entropy) coefficient of each mask entry; means are over the hard entries of its own graph."""
        n = hard.new_zeros(2 * len(masks.graphs)).index_add_(0, masks.group, hard).clamp_(min=1)
        share, e = hard / n[masks.group], masks.n_edges
        size = torch.cat([self.edge_size * hard[:e], self.node_feat_size * share[e:]])
        return size, torch.cat([self.edge_ent * share[:e], self.node_feat_ent * share[e:]])
