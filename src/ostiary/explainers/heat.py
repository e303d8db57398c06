"""Heat maps, of every layer by Grad-CAM or of the inputs by their gradients, differentiable, for graphs and images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ostiary.explainers.gnn_explainer import GNNExplainer
from ostiary.explainers.guided_backprop import GuidedBackprop
from ostiary.explainers.integrated_gradients import IntegratedGradients
from ostiary.explainers.masks import Masks
from ostiary.modality.base import Inputs
from ostiary.modality.graphs import Graphs, unit
from ostiary.modality.sparse import bag_sum, ranges
from ostiary.models.victim import Victim

HeatBy = Literal["grad-cam", "guided-backprop", "integrated-gradients", "gnn-explainer"]


def activation_maps(
    victim: Victim, batch: Inputs, classes: Tensor, *, create_graph: bool = False
) -> tuple[Tensor, list[Tensor]]:
    """(logits, one map per layer) of one forward pass, in the layers' own scale.

    Graphs: float [N], alpha_k the mean over a graph's nodes of d y_c / d F_kn, heat_n = ReLU(sum_k alpha_k F_kn).
    Images: float [n, h, w], likewise over places. Source: Selvaraju et al., ICCV 2017; on graphs Pope et al., CVPR 2019.
    """
    logits, layers = victim.layers(batch)
    score = logits.gather(1, classes[:, None]).sum()
    slopes = torch.autograd.grad(score, layers, create_graph=create_graph, allow_unused=True)
    found = []
    for features, slope in zip(layers, slopes, strict=True):
        slope = torch.zeros_like(features) if slope is None else slope
        if isinstance(batch, Graphs) and len(features) == len(batch.x):
            alpha = bag_sum(slope, batch.membership) / batch.n_nodes[:, None]
            found.append(torch.relu((alpha[batch.batch] * features).sum(1)))
        else:
            flat, rise = (t.reshape(*features.shape[:2], -1) for t in (features, slope))
            heat = torch.relu((rise.mean(2, keepdim=True) * flat).sum(1))
            found.append(heat.reshape(len(features), *features.shape[2:]))
    return logits, found


def node_masks(victim: Victim, graphs: Graphs, classes: Tensor, *, steps: int = 5, lr: float = 1.0) -> Tensor:
    """GNNExplainer's mask of each node, float [N] in (0, 1), after so many plain steps from one half, which are unrolled.

    Ours: its Adam, whose first step is a sign, would have no derivative. Edges are not masked; both defaults were not tuned.
    """
    masks, theta = Masks(graphs, "object", False), graphs.x.new_zeros(len(graphs.x), requires_grad=True)
    size, entropy = GNNExplainer().regulariser(masks, torch.ones_like(theta))
    for _ in range(steps):
        m = theta.sigmoid()
        said = victim(masks.masked(m))
        (slope,) = torch.autograd.grad(F.cross_entropy(said, classes, reduction="sum"), m, create_graph=True)
        theta = theta - lr * (slope + size - entropy * theta) * m * (1 - m)
    return theta.sigmoid()


_SCORED: dict[str, Callable[[Victim, Any, Tensor], Tensor]] = {
    "guided-backprop": GuidedBackprop().heat,
    "integrated-gradients": IntegratedGradients(steps=8, edges=False).heat,  # a pass per step, in every step of training
    "gnn-explainer": node_masks,  # of graphs only
}


def heat_maps(victim: Victim, batch: Inputs, classes: Tensor, by: HeatBy = "grad-cam") -> tuple[Tensor, list[Tensor]]:
    """(logits, maps); both keep their graph for a further derivative.

    by: grad-cam gives a map per layer, as GCleaner uses it (Eq. 10-13); the others score the inputs, one map.
    Graphs: float [N], unit L2 norm in each graph. Images: float [n, h * w], unit norm per image.
    """
    if by == "grad-cam":
        logits, maps = activation_maps(victim, batch, classes, create_graph=True)
    else:  # through ReLUs of its own or many copies, so the logits take a pass of theirs
        logits, maps = victim(batch), [_SCORED[by](victim, batch, classes)]
    found = []
    for heat in maps:
        if isinstance(batch, Graphs) and len(heat) == len(batch.x):
            found.append(unit(heat, batch))
        else:
            heat = heat.flatten(1)
            found.append(heat / (heat.square().sum(1, keepdim=True) + 1e-12).sqrt())
    return logits, found


def watched(batch: Inputs) -> Inputs:
    """The same inputs, such that layers have gradients even where neither they nor the victim's weights ask for one."""
    values = batch.x if isinstance(batch, Graphs) else batch
    values = values if values.requires_grad else values.detach().clone().requires_grad_()
    return batch.with_(x=values) if isinstance(batch, Graphs) else values


def of_old_nodes(heat: Tensor, after: Inputs, before: Inputs) -> Tensor:
    """Of node values of `after`, those of the nodes that `before` has; other values as they are."""
    grown = isinstance(after, Graphs) and len(heat) == len(after.x) != len(before.x)
    return heat[ranges(after.node_ptr[:-1], before.n_nodes)] if grown else heat
