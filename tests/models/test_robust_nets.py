"""GNNGuard and RobustGCN against their formulas with dense matrices; soft edges; what their parts are for."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ostiary.component import build
from ostiary.modality.graphs import Graphs
from ostiary.modality.nodes import Nodes
from ostiary.models.edge_gradient import top_flips
from ostiary.models.robust_nets import GaussianConv, GuardConv, divergence
from ostiary.seeds import generator

NAMES = ["gnnguard", "robust-gcn"]


def graph(seed: int = 0, n: int = 7, width: int = 5) -> Graphs:
    """One undirected graph whose last node has no edge."""
    rng = generator(seed, "graph")
    upper = torch.triu(torch.rand(n - 1, n - 1, generator=rng) < 0.5, 1)
    edges = (upper | upper.T).nonzero().T
    return Graphs.build(torch.rand(n, width, generator=rng) - 0.3, edges, torch.tensor([n]))


def dense(g: Graphs) -> Tensor:
    """A[i, j]: 1 where j is joined to i."""
    return torch.zeros(len(g.x), len(g.x)).index_put((g.edge_index[1], g.edge_index[0]), torch.ones(g.edge_index.shape[1]))


def guarded(x: Tensor, a: Tensor, threshold: float) -> Tensor:
    """Equations 2 and 3 of the paper: attention of every pair, a node's own on the diagonal."""
    alike = F.cosine_similarity(x[:, None], x[None], dim=2) * a
    alike = torch.where(alike >= threshold, alike, 0)
    count = (alike > 0).sum(1, keepdim=True)
    total = alike.sum(1, keepdim=True)
    return alike / torch.where(total > 0, total, 1) * count / (count + 1) + torch.diag(1 / (count[:, 0] + 1))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_guard_layers_equal_the_paper(seed: int) -> None:
    g, a = graph(seed), dense(graph(seed))
    first, second = GuardConv(5, 4, 0.1, first=True), GuardConv(4, 3, 0.1, first=False)
    assert second.memory is not None
    with torch.no_grad():
        second.memory.fill_(0.7)
    h = first(g.x, g)
    one = guarded(g.x, a, 0.1)
    torch.testing.assert_close(h, one @ first.lin(g.x), atol=1e-5, rtol=1e-5)
    share = torch.tensor(0.7).sigmoid()
    two = share * one + (1 - share) * guarded(h, a, 0.1)
    torch.testing.assert_close(second(h, g), two @ second.lin(h), atol=1e-5, rtol=1e-5)


def test_guard_sees_nothing_of_an_unlike_neighbour_and_all_counts_sum_to_one() -> None:
    x = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.0, 0.0]])
    g = Graphs.build(x, torch.tensor([[1, 2, 3, 0, 0, 0], [0, 0, 0, 1, 2, 3]]), torch.tensor([4]))
    layer = GuardConv(2, 3, 0.1, first=True)
    near, own = layer.weights(g.x, g)
    assert near[g.edge_index[0] == 2].tolist() == near[g.edge_index[0] == 3].tolist() == [0.0]
    totals = own.index_add(0, g.edge_index[1], near)
    torch.testing.assert_close(totals, torch.ones(4))
    moved = g.with_(x=torch.cat([x[:2], 5 * x[2:]]))  # however large it is
    torch.testing.assert_close(layer(g.x, g)[0], layer(moved.x, moved)[0])


@pytest.mark.parametrize("seed", [0, 1])
def test_gaussian_layers_equal_the_paper(seed: int) -> None:
    g = graph(seed)
    a = dense(g) + torch.eye(len(g.x))
    degree = a.sum(1)
    half = torch.diag(degree.rsqrt()) @ a @ torch.diag(degree.rsqrt())
    whole = torch.diag(1 / degree) @ a @ torch.diag(1 / degree)
    first, last = GaussianConv(5, 4, 2.0, 0.1, True, False).eval(), GaussianConv(4, 3, 2.0, 0.1, False, True).eval()
    mean, variance = F.elu(g.x @ first.mean.weight.T), F.relu(g.x @ first.variance.weight.T)
    trust = (-2 * variance).exp()
    h = first(g.x, g)
    torch.testing.assert_close(h, torch.cat([half @ (mean * trust), whole @ (variance * trust**2)], 1))
    mean, variance = F.elu(h[:, :4] @ last.mean.weight.T), F.relu(h[:, 4:] @ last.variance.weight.T)
    torch.testing.assert_close(last(h, g), half @ (mean * (-2 * variance).exp()))


def test_the_last_gaussian_layer_samples_while_it_trains() -> None:
    g = graph()
    layer = GaussianConv(5, 4, 1.0, 0.0, True, True)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        draws = torch.stack([layer(g.x, g) for _ in range(4000)])
        one = layer(g.x, g)
    assert not torch.equal(one, draws[0])
    torch.testing.assert_close(draws.mean(0), layer.eval()(g.x, g), atol=0.05, rtol=0)
    assert torch.equal(layer(g.x, g), layer(g.x, g))


def test_the_divergence_is_that_of_torch() -> None:
    mean, variance = torch.randn(6, 4, generator=generator(0, "m")), torch.rand(6, 4, generator=generator(0, "v")) + 0.1
    reference = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, variance.sqrt()), torch.distributions.Normal(torch.zeros(6, 4), torch.ones(6, 4))
    )
    torch.testing.assert_close(divergence(mean, variance) - 3, reference.mean(1).sum(), atol=1e-5, rtol=1e-5)


def test_the_divergence_joins_any_loss_in_training_alone() -> None:
    g = graph()
    layer = GaussianConv(5, 4, 1.0, 0.25, True, False)
    twin = copy.deepcopy(layer)
    twin.kl = 0.0
    layer(g.x, g).sum().backward()
    twin(g.x, g).sum().backward()
    mean, variance = F.elu(twin.mean(g.x)), F.relu(twin.variance(g.x))
    (0.25 * divergence(mean, variance)).backward()
    for ours, reference in zip(layer.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, reference.grad)
    layer.eval().zero_grad()
    twin.zero_grad()
    for either in (layer, twin):
        either(g.x, g).sum().backward()
    torch.testing.assert_close(layer.mean.weight.grad, twin.mean.weight.grad)


@pytest.mark.parametrize("name", NAMES)
def test_an_edge_of_weight_zero_is_no_edge(name: str) -> None:
    data = build("dataset", "toy-graphs").load(0).train
    victim = build("victim", {"name": name, "hidden": 8, "layers": 3}).make(data, 0).eval()
    g = data.inputs.take(torch.arange(4))
    keep = g.pairs % 3 > 0
    assert 0 < int(keep.sum()) < len(keep)
    weight = keep.float().requires_grad_()
    out = victim(g.with_(edge_weight=weight))
    torch.testing.assert_close(out, victim(Graphs.build(g.x, g.edge_index[:, keep], g.n_nodes)), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(victim(g.with_(edge_weight=torch.ones(len(keep)))), victim(g), atol=1e-5, rtol=1e-5)
    assert bool((torch.autograd.grad(out.square().sum(), weight)[0] != 0).any())


def test_a_masked_message_does_not_pass_and_degrees_stay() -> None:
    g = graph(1)
    shut = g.with_(edge_mask=torch.zeros(g.edge_index.shape[1]))
    guard, normal = GuardConv(5, 4, 0.1, first=True), GaussianConv(5, 4, 1.0, 0.0, True, True).eval()
    own = guard.weights(g.x, g)[1][:, None]
    torch.testing.assert_close(guard(g.x, shut), own * guard.lin(g.x))
    alone = F.elu(normal.mean(g.x)) * (-F.relu(normal.variance(g.x))).exp()
    torch.testing.assert_close(normal(g.x, shut), alone / (g.in_degree + 1)[:, None])
    assert not torch.allclose(guard(g.x, shut), guard(g.x, g))


@pytest.mark.parametrize("name", NAMES)
def test_flips_are_those_of_a_dense_matrix(name: str) -> None:
    """The best first-order flip, by finite differences of soft edges."""
    data = build("dataset", "toy-graphs").load(0).train
    victim = build("victim", {"name": name, "hidden": 8, "layers": 2}).make(data, 1).eval()
    g = data.inputs.take(torch.arange(1))
    flips = top_flips(victim, g, lambda logits, _: logits[:, 0].sum(), 1)
    n = len(g.x)
    ends = torch.tensor([(i, j) for j in range(n) for i in range(n) if i != j]).T
    whole = Graphs.build(g.x, ends, torch.tensor([n]))
    weight = dense(g)[whole.edge_index[1], whole.edge_index[0]].requires_grad_()
    slope = torch.autograd.grad(victim(whole.with_(edge_weight=weight))[0, 0], weight)[0]
    square = torch.zeros(n, n).index_put((whole.edge_index[1], whole.edge_index[0]), slope)
    gain = (2 * dense(g) - 1) * (square + square.T)
    torch.testing.assert_close(flips.scores[0, 0], torch.triu(gain, 1).max(), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_nodes_of_one_graph(name: str) -> None:
    """As a classifier of nodes, with two layers and dropout as the standard networks have there."""
    data = build("dataset", {"name": "sbm", "nodes": 60, "sizes": [1, 1], "edges": 100, "words": 12, "length": 4}).load(0)
    victim = build("victim", {"name": name, "hidden": 8}).make(data.train, 0).eval()
    assert isinstance(data.test.inputs, Nodes)
    assert victim(data.test.inputs).shape == (len(data.test), 2)
    assert len(victim.module.convs) == 2
