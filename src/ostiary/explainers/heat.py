"""Grad-CAM heat maps of every layer, differentiable, for graphs and images."""

from __future__ import annotations

import torch
from torch import Tensor

from ostiary.modality.base import Inputs
from ostiary.modality.graphs import Graphs
from ostiary.modality.sparse import bag_sum
from ostiary.models.victim import Victim


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


def heat_maps(victim: Victim, batch: Inputs, classes: Tensor) -> tuple[Tensor, list[Tensor]]:
    """(logits, one map per layer) of one forward pass; both keep their graph for a further derivative.

    Graphs: float [N], unit L2 norm in each graph, as GCleaner uses it (Eq. 10-13). Images: float [n, h * w], unit norm
    per image.
    """
    logits, maps = activation_maps(victim, batch, classes, create_graph=True)
    found = []
    for heat in maps:
        if isinstance(batch, Graphs) and len(heat) == len(batch.x):
            norm = heat.new_zeros(len(batch)).index_add(0, batch.batch, heat.square())
            found.append(heat / (norm + 1e-12).sqrt()[batch.batch])
        else:
            heat = heat.flatten(1)
            found.append(heat / (heat.square().sum(1, keepdim=True) + 1e-12).sqrt())
    return logits, found


def watched(batch: Inputs) -> Inputs:
    """The same inputs, such that layers have gradients even where neither they nor the victim's weights ask for one."""
    values = batch.x if isinstance(batch, Graphs) else batch
    values = values if values.requires_grad else values.detach().clone().requires_grad_()
    return batch.with_(x=values) if isinstance(batch, Graphs) else values
