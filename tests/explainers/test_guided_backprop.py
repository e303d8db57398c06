"""Guided backpropagation: by hand, for every way to write a ReLU, and against captum."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric import nn as pyg

from ostiary.context import Context
from ostiary.explainers.guided_backprop import GuidedBackprop, GuidedReLU
from ostiary.modality.graphs import Graphs
from ostiary.models.victim import Victim
from ostiary.testing import toys


def changed(x: Tensor, change: Callable[[Tensor], object]) -> Tensor:
    """`x` after a change in place, whatever that returns."""
    change(x)
    return x


WAYS: dict[str, Callable[[Tensor], Tensor]] = {
    "module": nn.ReLU(),
    "module in place": nn.ReLU(inplace=True),
    "F.relu": F.relu,
    "F.relu by name": lambda x: F.relu(input=x, inplace=False),
    "F.relu in place": lambda x: changed(x, lambda y: F.relu(y, True)),
    "F.relu_": lambda x: changed(x, F.relu_),
    "torch.relu": torch.relu,
    "torch.relu_": lambda x: changed(x, torch.relu_),
    "method": lambda x: x.relu(),
    "method in place": lambda x: changed(x, lambda y: y.relu_()),
}


@pytest.mark.parametrize("way", WAYS)
def test_one_relu_by_hand(way: str) -> None:
    """f = -relu(x0) + relu(x1) + relu(x2) / 2 + x3: only a positive gradient into an active ReLU passes."""
    x = torch.tensor([1.0, 2.0, -1.0, 5.0], requires_grad=True)
    with GuidedReLU():
        h = WAYS[way](x * 1)
        out = (h * torch.tensor([-1.0, 1.0, 0.5, 0.0])).sum() + x[3]
    assert h.tolist() == [1.0, 2.0, 0.0, 5.0]
    assert torch.autograd.grad(out, x)[0].tolist() == [0.0, 1.0, 0.0, 1.0]
    plain = WAYS[way](x * 1)
    assert torch.autograd.grad((plain * torch.tensor([-1.0, 1.0, 0.5, 0.0])).sum(), x)[0].tolist() == [-1.0, 1.0, 0.0, 0.0]


class Layers(nn.Module):
    """PyG's layers with every ReLU a module."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second, self.head = pyg.GCNConv(width, 8), pyg.GCNConv(8, 8), nn.Linear(8, 2)
        self.relu, self.again = nn.ReLU(), nn.ReLU()

    def forward(self, x: Tensor, edge_index: Tensor, batch: Tensor) -> Tensor:
        x = self.again(self.second(self.relu(self.first(x, edge_index)), edge_index))
        return self.head(pyg.global_add_pool(x, batch))


class Calls(Layers):
    """The same with functions."""

    def forward(self, x: Tensor, edge_index: Tensor, batch: Tensor) -> Tensor:
        x = F.relu(self.second(self.first(x, edge_index).relu(), edge_index))
        return self.head(pyg.global_add_pool(x, batch))


@pytest.fixture
def net(graphs: Graphs) -> Layers:
    torch.random.default_generator.manual_seed(0)
    return Layers(graphs.x.shape[1]).double().eval()


def test_modules_and_functions_are_one(net: Layers, graphs: Graphs) -> None:
    calls = Calls(graphs.x.shape[1]).double()
    calls.load_state_dict(net.state_dict())
    first, second = (GuidedBackprop().explain(Victim(m, "graph"), graphs, Context()) for m in (net, calls))
    assert torch.equal(first.features, second.features)
    assert torch.equal(first.edges, second.edges)


def test_it_is_not_the_plain_gradient_of_our_own_networks(graphs: Graphs) -> None:
    """Their head calls F.relu."""
    victim = toys.victim("graph").double().eval()
    classes = victim.predict(graphs).argmax(1)
    found = GuidedBackprop().explain(victim, graphs, Context(), classes)
    x = graphs.x.clone().requires_grad_()
    plain = torch.autograd.grad(victim(graphs.with_(x=x)).gather(1, classes[:, None]).sum(), x)[0].abs()
    assert (found.features - plain).abs().max() > 0.01 * plain.max()
    torch.testing.assert_close(found.nodes, found.features.sum(1))
    victim.module.head.weight.data.abs_()  # the same where no gradient is ever negative
    for p in victim.module.parameters():
        p.data.abs_()
    x = graphs.x.clone().requires_grad_()
    plain = torch.autograd.grad(victim(graphs.with_(x=x)).gather(1, classes[:, None]).sum(), x)[0].abs()
    torch.testing.assert_close(GuidedBackprop().explain(victim, graphs, Context(), classes).features, plain)


def test_nothing_stays_behind(graphs: Graphs) -> None:
    victim = toys.victim("graph", odd=True).double().eval()

    def slope() -> Tensor:
        x = graphs.x.clone().requires_grad_()
        return torch.autograd.grad(victim(graphs.with_(x=x))[:, 0].sum(), x)[0]

    before = slope()
    GuidedBackprop().explain(victim, graphs, Context())
    assert torch.equal(slope(), before)


@pytest.mark.filterwarnings("ignore:Setting backward hooks")
def test_equals_captum_where_every_relu_is_a_module(net: Layers, graphs: Graphs) -> None:
    captum = pytest.importorskip("captum.attr", reason="captum is not installed: pip install ostiary[explain]")
    classes = torch.tensor([0, 1, 1, 0])
    found = GuidedBackprop().explain(Victim(net, "graph"), graphs, Context(), classes)
    theirs = []
    for graph, wanted in zip(graphs.to_pyg(), classes.tolist(), strict=True):
        batch = torch.zeros(len(graph.x), dtype=torch.int64)
        x = graph.x.clone().requires_grad_()
        guided = captum.GuidedBackprop(net)
        theirs.append(guided.attribute(x, wanted, additional_forward_args=(graph.edge_index, batch)))
    torch.testing.assert_close(found.features, torch.cat(theirs).abs().detach())
    cnn = toys.victim("image", odd=True).double().eval()
    module = nn.Sequential(cnn.module.look, cnn.module.again, nn.Flatten(), cnn.module.verdict)
    images = toys.splits("image").test.inputs[:4].double()
    ours = GuidedBackprop().explain(Victim(module, "image"), images, Context(), classes)
    seen = captum.GuidedBackprop(module).attribute(images.clone().requires_grad_(), classes)
    torch.testing.assert_close(ours.pixels, seen.detach().abs().sum(1))
