"""Our layers against PyG's, with copied weights; soft edges; read-outs; folded norms."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch_geometric import nn as pyg

from ostiary.component import build
from ostiary.modality.graphs import Graphs
from ostiary.models.graph_layers import Conv, GATConv, GCNConv, GINConv, SAGEConv, fold_norms, pool
from ostiary.seeds import generator

LAYERS = ["gcn", "gin", "gin-narrow", "sage", "gat"]


def graphs(seed: int = 0, width: int = 5) -> Graphs:
    """Four graphs of 1, 4, 6 and 3 nodes; directed edges, isolated nodes, one graph without an edge."""
    rng = generator(seed, "graphs")
    sizes, edges, start = [1, 4, 6, 3], [], 0
    for n, share in zip(sizes, (0.0, 0.5, 0.3, 0.0), strict=True):
        matrix = (torch.rand(n, n, generator=rng) < share) & ~torch.eye(n, dtype=torch.bool)
        edges.append(matrix.nonzero().t() + start)
        start += n
    return Graphs.build(torch.randn(sum(sizes), width, generator=rng), torch.cat(edges, 1), torch.tensor(sizes))


def pair(kind: str) -> tuple[Conv, Any]:
    """Our layer and PyG's with the same weights. `gin-narrow` takes the path that sums after the first product."""
    torch_layers: dict[str, Any] = {
        "gcn": lambda: (GCNConv(5, 6), pyg.GCNConv(5, 6)),
        "sage": lambda: (SAGEConv(5, 6), pyg.SAGEConv(5, 6)),
        "gat": lambda: (GATConv(5, 6, 3), pyg.GATConv(5, 2, 3)),
    }
    if kind.startswith("gin"):
        ours: Conv = GINConv(5, 3 if kind == "gin-narrow" else 6)
        return ours.eval(), pyg.GINConv(ours.mlp).eval()
    ours, theirs = torch_layers[kind]()
    with torch.no_grad():
        for p in ours.parameters():
            p.copy_(torch.randn(p.shape, generator=generator(3, tuple(p.shape))))
    state = ours.state_dict()
    theirs.load_state_dict({k: state[k].view(v.shape) for k, v in theirs.state_dict().items()})
    return ours.eval(), theirs.eval()


def masked(theirs: Any, mask: Tensor) -> None:
    theirs.explain = True
    theirs._edge_mask, theirs._loop_mask, theirs._apply_sigmoid = mask, torch.ones(len(mask), dtype=torch.bool), False


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("seed", [0, 1])
def test_layer_equals_pyg(kind: str, seed: int) -> None:
    g = graphs(seed)
    ours, theirs = pair(kind)
    torch.testing.assert_close(ours(g.x, g), theirs(g.x, g.edge_index), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", LAYERS)
def test_gradients_equal_pyg(kind: str) -> None:
    g = graphs(2)
    ours, theirs = pair(kind)
    x, push = (
        g.x.clone().requires_grad_(),
        torch.randn(len(g.x), 3 if kind == "gin-narrow" else 6, generator=generator(5, "push")),
    )
    ours(x, g).backward(push)
    found = {k: p.grad.clone() for k, p in ours.named_parameters()}
    mine, x.grad = x.grad, None
    ours.zero_grad()
    theirs(x, g.edge_index).backward(push)
    torch.testing.assert_close(mine, x.grad, atol=1e-6, rtol=1e-5)
    for name, p in theirs.named_parameters():
        own = found[name.replace("nn.", "mlp.")]
        torch.testing.assert_close(own.view_as(p), p.grad, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", LAYERS)
def test_edge_mask_equals_pyg_explain_mode(kind: str) -> None:
    g = graphs(1)
    mask = torch.rand(g.edge_index.shape[1], generator=generator(4, "mask")).requires_grad_()
    ours, theirs = pair(kind)
    out = ours(g.x, g.with_(edge_mask=mask))
    slope = torch.autograd.grad(out.square().sum(), mask)[0]
    masked(theirs, mask)
    reference = theirs(g.x, g.edge_index)
    torch.testing.assert_close(out, reference, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(slope, torch.autograd.grad(reference.square().sum(), mask)[0], atol=1e-5, rtol=1e-4)


def test_edge_weight_equals_pyg_gcn() -> None:
    g = graphs(1)
    weight = torch.rand(g.edge_index.shape[1], generator=generator(4, "weight")).requires_grad_()
    ours, theirs = pair("gcn")
    out, reference = ours(g.x, g.with_(edge_weight=weight)), theirs(g.x, g.edge_index, weight)
    torch.testing.assert_close(out, reference, atol=1e-6, rtol=1e-5)
    slopes = [torch.autograd.grad(o.square().sum(), weight)[0] for o in (out, reference)]
    torch.testing.assert_close(*slopes, atol=1e-5, rtol=1e-4)


def test_sage_takes_the_mean_by_weight() -> None:
    """Weights that add up to less than one included; a node without neighbours gets nothing."""
    layer = SAGEConv(2, 3)
    x = torch.tensor([[1.0, 2.0], [3.0, 5.0], [7.0, 11.0]])
    g = Graphs.build(x, torch.tensor([[1, 2, 0], [0, 0, 1]]), torch.tensor([3]))
    soft = g.with_(edge_weight=torch.tensor([0.1, 0.3, 0.2]))
    means = torch.stack([(0.1 * x[1] + 0.3 * x[2]) / 0.4, x[0], torch.zeros(2)])
    torch.testing.assert_close(layer(x, soft), layer.lin_l(means) + layer.lin_r(x))


@pytest.mark.parametrize("kind", LAYERS)
def test_an_edge_of_weight_zero_is_no_edge(kind: str) -> None:
    g = graphs(1)
    keep = torch.rand(g.edge_index.shape[1], generator=generator(6, "keep")) < 0.5
    assert bool(keep.any())
    assert not bool(keep.all())
    ours, _ = pair(kind)
    without = Graphs.build(g.x, g.edge_index[:, keep], g.n_nodes)
    torch.testing.assert_close(ours(g.x, g.with_(edge_weight=keep.float())), ours(g.x, without), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", ["gin", "gcn", "graphsage", "gat"])
def test_whole_networks_see_soft_edges_alike(name: str) -> None:
    """Also through Victim, and with gradients that reach absent edges."""
    g = graphs(1)
    data = build("dataset", "toy-graphs").load(0).train
    victim = build("victim", {"name": name, "hidden": 8, "layers": 2}).make(data, 0).eval()
    g = g.with_(x=g.x[:, :4])
    weight = (torch.arange(g.edge_index.shape[1]) % 2).float().requires_grad_()
    out = victim(g.with_(edge_weight=weight))
    hard = Graphs.build(g.x, g.edge_index[:, weight > 0], g.n_nodes)
    torch.testing.assert_close(out, victim(hard), atol=1e-5, rtol=1e-5)
    slope = torch.autograd.grad(out.square().sum(), weight)[0]
    assert bool((slope[weight == 0] != 0).any())


@pytest.mark.parametrize(
    ("how", "reference"), [("sum", pyg.global_add_pool), ("mean", pyg.global_mean_pool), ("max", pyg.global_max_pool)]
)
def test_pooling_equals_pyg(how: str, reference: Any) -> None:
    g = graphs(0)
    torch.testing.assert_close(pool(g.x, g, how), reference(g.x, g.batch))


def test_nodes_that_tie_for_the_maximum_share_its_gradient() -> None:
    g = Graphs.build(torch.tensor([[1.0], [3.0], [3.0], [-2.0]]), torch.zeros(2, 0, dtype=torch.int64), torch.tensor([3, 1]))
    x = g.x.clone().requires_grad_()
    out = pool(x, g, "max")
    assert out.tolist() == [[3.0], [-2.0]]
    out.sum().backward()
    assert x.grad.flatten().tolist() == [0.0, 0.5, 0.5, 1.0]


def test_folded_norms_change_nothing_in_evaluation() -> None:
    data = build("dataset", "toy-graphs").load(0).train
    victim = build("victim", {"name": "gin", "hidden": 8, "layers": 2}).make(data, 0)
    build("trainer", {"name": "trainer", "epochs": 2}).fit(victim, data, 0)
    before = victim.predict(data.inputs)
    fold_norms(victim)
    assert not any(isinstance(m, nn.BatchNorm1d) for m in victim.modules())
    torch.testing.assert_close(victim.predict(data.inputs), before, atol=1e-4, rtol=1e-4)


def test_graph_net_can_be_called_without_the_store() -> None:
    """As a user of the bare module would: x, edge_index, batch in any edge order."""
    data = build("dataset", "toy-graphs").load(0).train
    victim = build("victim", {"name": "gcn", "hidden": 8, "layers": 2}).make(data, 0).eval()
    g = data.inputs.take(torch.arange(5))
    order = torch.randperm(g.edge_index.shape[1], generator=generator(0, "order"))
    torch.testing.assert_close(victim.module(g.x, g.edge_index[:, order], g.batch), victim(g), atol=1e-6, rtol=1e-5)
    with pytest.raises(ValueError, match="edge_mask needs graphs="):
        victim.module(g.x, g.edge_index, g.batch, edge_mask=torch.ones(len(order)))
