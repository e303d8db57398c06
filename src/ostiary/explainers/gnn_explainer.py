"""GNNExplainer."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ostiary.component import Positive, PositiveFloat
from ostiary.console import progress
from ostiary.context import Context
from ostiary.errors import BadSpec
from ostiary.explainers.base import Attribution, Explainer
from ostiary.modality.graphs import Graphs
from ostiary.modality.sparse import bag_sum
from ostiary.models.graph_layers import folded
from ostiary.models.soft_edges import applied
from ostiary.models.victim import Victim
from ostiary.seeds import uniform


class GNNExplainer(Explainer, name="gnn-explainer"):
    """Learns soft masks over edges and node features that keep the prediction with as little as possible.

    Source: Ying, Bourgeois, You, Zitnik & Leskovec, NeurIPS 2019, arXiv:1903.03894. Needs the model's gradients.
    `node_mask`: one mask per node and feature (attributes), per node (object) or none; `edge_mask`: one per directed
    edge. Loss: cross-entropy + `edge_size` * sum of edge masks + `node_feat_size` * mean of node masks + `edge_ent`
    and `node_feat_ent` * mean entropies. Defaults, `epochs` and `lr` (of Adam) included: PyG 2.6's `GNNExplainer`.
    `chunk`: graphs optimised at once; 128 fit the cache.

    Equal to PyG's, run graph by graph, for equal initial masks, post-processing included: the graphs share no
    parameter and Adam is elementwise, so the sum of their losses optimises each by itself. Differs from PyG:
    initial masks depend on the seed and on a graph's place in the inputs alone; the EPS of 1e-15 in its entropy is 0.
    Nodes score the mean of their feature masks; without a node mask, see `node_scores`.
    """

    modalities = frozenset({"graph"})
    epochs: Positive = 100
    lr: PositiveFloat = 0.01
    node_mask: Literal["attributes", "object", "none"] = "attributes"
    edge_mask: bool = True
    edge_size: float = 0.005
    edge_ent: float = 1.0
    node_feat_size: float = 1.0
    node_feat_ent: float = 0.1
    chunk: Positive = 128

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.node_mask == "none" and not self.edge_mask:
            raise BadSpec("gnn-explainer has no mask to learn; give node_mask or edge_mask")

    def attribute(self, victim: Victim, inputs: Graphs, classes: Tensor, ctx: Context) -> Attribution:
        victim, parts = folded(victim), []
        for rows in torch.arange(len(inputs)).tensor_split(math.ceil(len(inputs) / self.chunk)):
            graphs = victim.modality.move(victim.modality.take(inputs, rows), victim.device)
            masks = Masks(self, graphs)
            theta = masks.initial(rows, ctx.key("gnn-explainer"))
            parts.append(masks.scores(self.optimise(victim, masks, classes[rows].to(victim.device), theta)))
            progress("explaining", (int(rows[-1]) + 1) / len(inputs))
        columns = ([p[i] for p in parts] for i in range(3))
        return Attribution(*(None if c[0] is None else torch.cat(c) for c in columns))
