"""Graph networks that were made to resist perturbed graphs, on the read-outs of the standard ones."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ostiary.component import NonNegativeFloat, Rate
from ostiary.modality.graphs import Graphs
from ostiary.modality.sparse import bag_sum, row_products
from ostiary.models.graph_layers import Conv, neighbour_sum, weighted_degree
from ostiary.models.graph_nets import GraphArchitecture


class GuardConv(Conv):
    """Neighbours weighed by the cosine of their features and the node's own; those below `threshold` are left out.

    A layer that is not the first mixes in the weights that the graph's own features give, by a share that it learns.
    """

    def __init__(self, d_in: int, d_out: int, threshold: float, first: bool) -> None:
        super().__init__()
        self.threshold = threshold
        self.lin = nn.Linear(d_in, d_out, bias=False)
        self.bias = nn.Parameter(torch.zeros(d_out))
        self.memory = None if first else nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, graphs: Graphs) -> Tensor:
        near, own = self.weights(x, graphs)
        if self.memory is not None:
            kept, share = self.weights(graphs.x, graphs), self.memory.sigmoid()
            near, own = share * kept[0] + (1 - share) * near, share * kept[1] + (1 - share) * own
        h: Tensor = self.lin(x)
        near = near if graphs.edge_mask is None else near * graphs.edge_mask
        return bag_sum(h, graphs.adjacency, near) + own[:, None] * h + self.bias

    def weights(self, x: Tensor, graphs: Graphs) -> tuple[Tensor, Tensor]:
        """What a message counts, and a node itself; both together are 1 at each node: float [E] and [N]."""
        target, unit = graphs.edge_index[1], F.normalize(x, dim=1)
        alike = row_products(unit, unit, graphs.adjacency)
        there = (alike.detach() >= self.threshold).to(x.dtype)
        there = there if graphs.edge_weight is None else there * graphs.edge_weight
        alike = alike * there
        total, count = (alike.new_zeros(len(x)).index_add(0, target, t) for t in (alike, there))
        scale = count / (count + 1) / torch.where(total > 0, total, torch.ones_like(total))
        return alike * scale.index_select(0, target), 1 / (count + 1)


class GaussianConv(Conv):
    """A normal distribution for every node: means and variances of the neighbours, large variances counting less.

    Takes and gives rows of means and variances, one behind the other; the first layer takes plain features, the last gives
    a sample in training and the mean otherwise. The first adds `kl` times its divergence from N(0, 1) to any loss it is
    trained by.
    """

    def __init__(self, d_in: int, d_out: int, gamma: float, kl: float, first: bool, last: bool) -> None:
        super().__init__()
        self.gamma, self.kl, self.first, self.last = gamma, kl, first, last
        self.mean, self.variance = nn.Linear(d_in, d_out, bias=False), nn.Linear(d_in, d_out, bias=False)

    def forward(self, x: Tensor, graphs: Graphs) -> Tensor:
        means, variances = (x, x) if self.first else x.chunk(2, 1)
        mean, variance = F.elu(self.mean(means)), F.relu(self.variance(variances))
        if self.first and self.training and self.kl:
            mean = Penalised.apply(mean, self.kl * divergence(mean, variance))  # type: ignore[no-untyped-call]
        trust = (-self.gamma * variance).exp()
        degree = (weighted_degree(graphs) + 1)[:, None]
        mean = smoothed(mean * trust, degree.rsqrt(), graphs)
        variance = smoothed(variance * trust.square(), degree.reciprocal(), graphs)
        if not self.last:
            return torch.cat([mean, variance], 1)
        return mean + torch.randn_like(mean) * (variance + 1e-8).sqrt() if self.training else mean


def smoothed(h: Tensor, scale: Tensor, graphs: Graphs) -> Tensor:
    """scale (A + I) scale h."""
    h = scale * h
    return scale * (neighbour_sum(h, graphs) + h)


def divergence(mean: Tensor, variance: Tensor) -> Tensor:
    """KL(N(mean, variance) || N(0, 1)) but for a constant: means over units, summed over nodes. A scalar."""
    return 0.5 * (mean.square() + variance - (variance + 1e-8).log()).mean(1).sum()


class Penalised(torch.autograd.Function):
    """Passes a tensor on; whatever is differentiated through it gets the gradient of the penalty as well."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, penalty: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        return grad, grad.new_ones(())


class GNNGuard(GraphArchitecture, name="gnnguard"):
    """A graph convolutional network that attends to neighbours by the likeness of their features and drops unlike ones.

    Source: Zhang & Zitnik, NeurIPS 2020, arXiv:2006.08149. `threshold` 0.1 on cosines: authors' code. Differs from it:
    weights pass gradients and are not exponentiated (the paper has neither NumPy nor exponents); its second, learned pruning,
    off there and without a gradient to learn by, is left out. Differs from the paper: what deeper layers remember are the
    first layer's weights, also beyond the second."""

    threshold: Rate = 0.1

    def convs(self, *widths: int) -> list[Conv]:
        return [GuardConv(*size, self.threshold, first=i == 0) for i, size in enumerate(pairwise(widths))]


class RobustGCN(GraphArchitecture, name="robust-gcn"):
    """A graph convolutional network whose units are normal distributions; attention by variance absorbs perturbations.

    Source: Zhu, Zhang, Cui & Zhu, KDD 2019, doi.org/10.1145/3292500.3330851. Attention exp(-`gamma` variance), `gamma` 1 and
    `kl` 5e-4: authors' code. Differs from it: a linear layer on the sample and ReLU between layers, as in every network here;
    means, not samples, when it is asked."""

    gamma: NonNegativeFloat = 1.0
    kl: NonNegativeFloat = 5e-4

    def convs(self, *widths: int) -> list[Conv]:
        last = len(widths) - 2
        sizes = enumerate(pairwise(widths))
        return [GaussianConv(*size, self.gamma, self.kl, first=i == 0, last=i == last) for i, size in sizes]
