"""Edge derivatives against automatic differentiation by a dense adjacency, with every layer as a matrix formula."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric import nn as pyg

from ostiary.component import build
from ostiary.errors import InvalidInput
from ostiary.modality.graphs import Graphs
from ostiary.models import edge_gradient, edge_terms
from ostiary.models.edge_gradient import flip, pair_gradient, top_flips
from ostiary.models.graph_layers import GINConv
from ostiary.models.graph_nets import GraphNet
from ostiary.models.victim import Victim
from ostiary.seeds import generator

NAMES = ["gcn", "gin", "graphsage", "gat"]
SIZES = [7, 1, 12, 4, 9, 2]
APART = [7, 1, 12, 8, 9]  # sizes at which no two nodes need be twins
WIDTH, HIDDEN, CLASSES = 5, 6, 3


def adjacency(seed: int, n: int, twins: bool) -> Tensor:
    """Sparse, symmetric; the last node of a graph of more than two is isolated, nodes 0 and 1 of one of more than six twins."""
    a = torch.rand(n, n, generator=generator(seed, ("edges", n))).triu(1)
    a = ((a > 0) & (a < 0.35)).double()
    if n > 6 and twins:
        a[0, 1] = 0
        a[1, 2:] = a[0, 2:]
    if n > 2:
        a[:, -1] = 0
    a = a + a.T
    assert twins or len((a + torch.eye(n)).unique(dim=0)) == n  # neighbours that share all else are twins as well
    return a


def graphs(seed: int = 0, sizes: list[int] = SIZES, twins: bool = True) -> Graphs:
    """float64; twins have the same features too."""
    blocks = [adjacency(seed, n, twins) for n in sizes]
    x = torch.randn(sum(sizes), WIDTH, generator=generator(seed, "x"), dtype=torch.float64)
    start = 0
    for n in sizes:
        if n > 6 and twins:
            x[start + 1] = x[start]
        start += n
    return Graphs.build(x, torch.block_diag(*blocks).nonzero().T, torch.tensor(sizes))


def victim_of(name: str, pooling: str = "sum", seed: int = 5, **options: Any) -> Victim:
    options = {"hidden": HIDDEN, "layers": 2, "pooling": pooling, **options} | ({"heads": 2} if name == "gat" else {})
    module = build("victim", {"name": name, **options}).module({"width": WIDTH, "classes": CLASSES})
    victim = Victim(module, "graph").double()
    shake(victim, seed)
    return victim


def shake(module: nn.Module, seed: int) -> None:
    """Weights, biases and running statistics away from their neutral start."""
    rng = generator(seed, "weights")
    with torch.no_grad():
        for t in (*module.parameters(), *module.buffers()):
            if t.is_floating_point():
                ones = bool((t == 1).all())  # running variances, which stay positive
                t.copy_(0.5 + torch.rand(t.shape, generator=rng) if ones else 0.6 * torch.randn(t.shape, generator=rng))


def dense_layer(conv: Any, x: Tensor, a: Tensor) -> Tensor:
    """One of our layers as a formula of a[i, j], the edge j -> i."""
    n, kind = len(x), type(conv).__name__
    if kind == "GCNConv":
        s = (a.sum(1) + 1).rsqrt()[:, None]
        h = s * (x @ conv.lin.weight.T)
        return s * (a @ h + h) + conv.bias  # type: ignore[no-any-return]
    if kind == "GINConv":
        return conv.mlp(a @ x + x)  # type: ignore[no-any-return]
    if kind == "SAGEConv":
        degree = a.sum(1)
        return conv.lin_l(a @ x / torch.where(degree > 0, degree, 1.0)[:, None]) + conv.lin_r(x)  # type: ignore[no-any-return]
    h = (x @ conv.lin.weight.T).view(n, conv.heads, conv.width)
    score = torch.einsum("jhd,hd->jh", h, conv.att_src)[None] + torch.einsum("ihd,hd->ih", h, conv.att_dst)[:, None]
    weight = a[:, :, None] * F.leaky_relu(score, 0.2).exp()
    own = F.leaky_relu(score.diagonal().T, 0.2).exp()[:, :, None]
    total = weight.sum(1)[:, :, None] + own
    return ((torch.einsum("ijh,jhd->ihd", weight, h) + own * h) / total).flatten(1) + conv.bias  # type: ignore[no-any-return]


def dense_net(net: GraphNet, x: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
    """(logits [1, k], features [1, d]) of one graph."""
    for conv in net.convs:
        x = dense_layer(conv, x, a).relu()
    g = {"sum": x.sum(0), "mean": x.mean(0), "max": x.amax(0)}[net.pooling]
    g = net.lin(g).relu() if net.lin is not None else g
    return net.head(g)[None], g[None]


Forward = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def reference(forward: Forward, g: Graphs, loss: Callable[[Tensor, Tensor], Tensor]) -> list[Tensor]:
    """dL/dA of every graph by automatic differentiation, the loss over all graphs at once."""
    found, outs = [], []
    for i in range(len(g)):
        part = g.take(torch.tensor([i]))
        a = torch.zeros(len(part.x), len(part.x), dtype=torch.float64)
        a[part.edge_index[1], part.edge_index[0]] = 1
        found.append(a.requires_grad_())
        outs.append(forward(part.x, a))
    logits, features = (torch.cat(o) for o in zip(*outs, strict=True))
    slopes = torch.autograd.grad(loss(logits, features), found)
    return [s.fill_diagonal_(0) for s in slopes]


def both_sides(logits: Tensor, features: Tensor) -> Tensor:
    """A sum of losses that differ between graphs, in logits and features."""
    goal = torch.arange(len(logits)) % CLASSES
    push = torch.linspace(-1, 1, features.numel(), dtype=features.dtype).view_as(features)
    return F.cross_entropy(logits, goal, reduction="sum") + (1 - F.cosine_similarity(features, push)).sum()


def error(a: list[Tensor], b: list[Tensor]) -> float:
    """The largest difference of any graph, relative to its largest entry."""
    assert [t.shape for t in a] == [t.shape for t in b]
    assert max(float(t.abs().max()) for t in b) > 0.01
    return max(float((s - t).abs().max() / t.abs().max().clamp(min=1e-3)) for s, t in zip(a, b, strict=True))


def brute(g: Graphs, slopes: list[Tensor], most: int = 100) -> list[list[tuple[float, int, int]]]:
    """Per graph the first (score, i, j) of all pairs, sorted."""
    found = []
    for i, d in enumerate(slopes):
        start, part = int(g.node_ptr[i]), g.take(torch.tensor([i]))
        sign = -torch.ones_like(d)
        sign[part.edge_index[0], part.edge_index[1]] = 1
        low, high = torch.triu_indices(len(d), len(d), 1)
        scores, order = (sign * (d + d.T))[low, high].sort(descending=True, stable=True)
        rows = zip(scores.tolist(), (low[order] + start).tolist(), (high[order] + start).tolist(), strict=True)
        found.append(list(rows)[:most])
    return found


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("pooling", ["sum", "mean", "max"])
@pytest.mark.parametrize("layers", [1, 3])
def test_equals_dense_differentiation(name: str, pooling: str, layers: int) -> None:
    # twins tie for the maximum, or miss it by rounding; ties are looked at below, where nothing is rounded
    victim = victim_of(name, pooling, layers=layers)
    g = graphs(0, APART, twins=False) if pooling == "max" else graphs()
    victim.train()  # its mode must not matter, and must come back
    got = pair_gradient(victim, g, both_sides)
    assert victim.training
    assert all(p.requires_grad for p in victim.parameters())
    victim.eval()
    assert error(got, reference(lambda x, a: dense_net(victim.module, x, a), g, both_sides)) < 1e-8


@pytest.mark.parametrize("name", ["gcn", "gin", "graphsage"])
def test_twins_share_the_gradient_of_a_maximum(name: str) -> None:
    """K(3,3) and an isolated node, whole numbers throughout: two nodes tie exactly, on any machine."""
    a = torch.zeros(7, 7, dtype=torch.float64)
    a[:3, 3:6] = a[3:6, :3] = 1  # degree + 1 has a root, and 9 can be divided by the degree twice
    x = 9 * torch.randint(-3, 4, (7, WIDTH), generator=generator(4, "x")).double()
    x[1] = x[0]
    victim = victim_of(name, "max")
    for norm in (m for m in victim.modules() if isinstance(m, nn.BatchNorm1d)):
        norm.reset_parameters()
        norm.eps = 0
    with torch.no_grad():
        for p in victim.module.convs.parameters():
            p.copy_((4 * p).round())
    g = Graphs.build(x, a.nonzero().T, torch.tensor([7]))
    slope = pair_gradient(victim, g, both_sides)
    victim.eval()
    expected = reference(lambda x, a: dense_net(victim.module, x, a), g, both_sides)
    assert error(slope, expected) < 1e-8
    assert bool((slope[0][0, 3:] != 0).any())
    torch.testing.assert_close(slope[0][0, 2:], slope[0][1, 2:])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("path", ["padded", "one by one", "tiles"])
def test_top_flips_are_the_best_of_all_pairs(name: str, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge_gradient, "PADDED", 0 if path == "tiles" else 100)
    monkeypatch.setattr(edge_gradient, "TILE", (3, 4))
    monkeypatch.setattr(edge_gradient, "ENTRIES", 1 if path == "one by one" else 300)
    victim, g = victim_of(name), graphs(1)
    m = torch.tensor([3, 2, 66, 0, 5, 1])  # graph 1 has no pair, graph 2 just 66
    found = top_flips(victim, g, both_sides, m)
    assert found.pairs.shape == (6, 66, 2)
    victim.eval()
    slopes = reference(lambda x, a: dense_net(victim.module, x, a), g, both_sides)
    for i, best in enumerate(brute(g, slopes)):
        k = min(int(m[i]), len(best))
        torch.testing.assert_close(found.scores[i, :k], torch.tensor([b[0] for b in best[:k]], dtype=torch.float64))
        assert found.scores[i, k:].eq(-torch.inf).all()
        assert found.pairs[i, k:].eq(-1).all()
        score = {b[1:]: b[0] for b in best}
        mine = [score[u, v] for u, v in found.pairs[i, :k].tolist()]  # ties may come in another order
        torch.testing.assert_close(found.scores[i, :k], torch.tensor(mine, dtype=torch.float64))
        assert len({tuple(p) for p in found.pairs[i, :k].tolist()}) == k


@pytest.mark.parametrize("name", NAMES)
def test_large_graphs_are_searched_beside_small_ones(name: str) -> None:
    """With the sizes as they are: the large graph takes three rows of tiles, the small ones are padded."""
    victim, g = victim_of(name, "max"), graphs(3, [8, edge_gradient.PADDED + 1, 9], twins=False)
    found = top_flips(victim, g, both_sides, 20)
    victim.eval()
    slopes = reference(lambda x, a: dense_net(victim.module, x, a), g, both_sides)
    for i, best in enumerate(brute(g, slopes)):
        k = min(20, len(best))
        torch.testing.assert_close(found.scores[i, :k], torch.tensor([b[0] for b in best[:k]], dtype=torch.float64))
        chosen = {b[1:] for b in best if b[0] > best[k - 1][0] + 1e-9}
        assert chosen <= set(map(tuple, found.pairs[i].tolist()))


def test_positive_only_leaves_out_what_does_not_lower_the_loss() -> None:
    victim, g = victim_of("gcn"), graphs(1)
    every, some = (top_flips(victim, g, both_sides, 66, positive_only=p) for p in (False, True))
    up = every.scores > 0
    assert bool(up.any())
    assert bool((every.scores[~up] > -torch.inf).any())
    assert torch.equal(some.scores > -torch.inf, up)
    assert torch.equal(some.pairs[up], every.pairs[up])
    assert bool((some.pairs[~up] == -1).all())


@pytest.mark.parametrize("name", NAMES)
def test_the_best_flip_lowers_the_loss_as_foretold_where_it_is_faint(name: str) -> None:
    """A check that needs no formula: the edge is added with a small weight, and the loss followed."""
    victim, g = victim_of(name, "sum").eval(), graphs(2, [9])
    found = top_flips(victim, g, both_sides, 36)
    absent = [p for p in found.pairs[0].tolist() if p not in g.edge_index.T.tolist() and 8 not in p]  # 8: isolated
    pair, step = absent[0], 1e-6
    score = float(found.scores[0][[p == pair for p in found.pairs[0].tolist()].index(True)])
    edges = torch.cat([g.edge_index, torch.tensor([pair, pair[::-1]]).T], 1)
    weight = torch.cat([g.x.new_ones(g.edge_index.shape[1]), g.x.new_full((2,), step)])
    faint = Graphs.build(g.x, edges, g.n_nodes, edge_weight=weight)
    with torch.no_grad():
        fall = both_sides(*victim.both(g)) - both_sides(*victim.both(faint))
    assert float(fall) / step == pytest.approx(score, rel=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_a_graph_does_not_feel_the_others(name: str) -> None:
    def loss(logits: Tensor, features: Tensor) -> Tensor:
        return logits[:, 0].square().sum() + features.cos().sum()

    victim, g = victim_of(name, "max"), graphs(0, APART, twins=False)
    whole = pair_gradient(victim, g, loss)
    for i in range(len(g)):
        alone = pair_gradient(victim, g.take(torch.tensor([i])), loss)
        torch.testing.assert_close(whole[i], alone[0], atol=1e-12, rtol=1e-10)


class PyGNet(nn.Module):
    """Takes the weights (GCN), or leaves them to PyG's explanation mask (GIN)."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.weighted = kind == "gcn"
        widths = [(WIDTH, HIDDEN), (HIDDEN, HIDDEN)]
        if self.weighted:
            self.convs = nn.ModuleList(pyg.GCNConv(*w) for w in widths)
        else:
            self.convs = nn.ModuleList(pyg.GINConv(nn.Sequential(nn.Linear(*w), nn.BatchNorm1d(w[1]))) for w in widths)
        self.head = nn.Linear(HIDDEN, CLASSES)

    def read(self, x: Tensor, batch: Tensor) -> Tensor:
        return self.head(pyg.global_add_pool(x, batch))  # type: ignore[no-any-return]


class Weighted(PyGNet):
    def forward(self, x: Tensor, edge_index: Tensor, batch: Tensor, edge_weight: Tensor | None = None) -> Tensor:
        for conv in self.convs:
            x = conv(x, edge_index, edge_weight).relu()
        return self.read(x, batch)


class Unweighted(PyGNet):
    def forward(self, x: Tensor, edge_index: Tensor, batch: Tensor) -> Tensor:
        for conv in self.convs:
            x = conv(x, edge_index).relu()
        return self.read(x, batch)


@pytest.mark.parametrize("kind", ["gcn", "gin"])
def test_pyg_layers_go_through_complete_graphs(
    kind: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(edge_terms, "DENSE_EDGES", 100)  # several pieces
    net = (Weighted if kind == "gcn" else Unweighted)(kind).double()
    shake(net, 4)

    def forward(x: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
        for conv in net.convs:
            x = (dense_layer_like(conv, x, a)).relu()
        return net.head(x.sum(0))[None], x.sum(0)[None]

    victim, g = Victim(net, "graph"), graphs()
    got = pair_gradient(victim, g, both_sides)
    assert not caplog.records
    net.eval()
    slopes = reference(forward, g, both_sides)
    assert error(got, slopes) < 1e-8
    found = top_flips(victim, g, both_sides, 4)
    for i, best in enumerate(brute(g, slopes)):
        k = min(4, len(best))
        torch.testing.assert_close(found.scores[i, :k], torch.tensor([b[0] for b in best[:k]], dtype=torch.float64))


class ByHand(nn.Module):
    """A user's own sum, with edge features; the layer of ours that it holds is not used."""

    def __init__(self) -> None:
        super().__init__()
        self.spare, self.lin, self.edge = GINConv(WIDTH, HIDDEN), nn.Linear(WIDTH, HIDDEN), nn.Linear(2, HIDDEN, bias=False)
        self.head = nn.Linear(HIDDEN, CLASSES)

    def forward(
        self, x: Tensor, edge_index: Tensor, batch: Tensor, edge_attr: Tensor, edge_weight: Tensor | None = None
    ) -> Tensor:
        h = self.lin(x)
        weight = 1.0 if edge_weight is None else edge_weight[:, None]
        h = h.index_add(0, edge_index[1], weight * (h[edge_index[0]] + self.edge(edge_attr))).tanh()
        return self.head(pyg.global_add_pool(h, batch))  # type: ignore[no-any-return]


def test_modules_without_known_layers_go_through_complete_graphs() -> None:
    net = ByHand().double()
    shake(net, 4)
    g = graphs()
    attr = torch.randn(g.edge_index.shape[1], 2, generator=generator(0, "attr"), dtype=torch.float64)
    g = Graphs.build(g.x, g.edge_index, g.n_nodes, edge_attr=attr)
    parts = iter(g.take(torch.tensor([i])) for i in range(len(g)))

    def forward(x: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
        part, h = next(parts), net.lin(x)
        e = torch.zeros(len(x), len(x), HIDDEN, dtype=torch.float64)
        e[part.edge_index[1], part.edge_index[0]] = net.edge(part.edge_attr).detach()
        features = (h + a @ h + (a[:, :, None] * e).sum(1)).tanh().sum(0)[None]
        return net.head(features), features

    got = pair_gradient(Victim(net, "graph"), g, both_sides)
    assert error(got, reference(forward, g, both_sides)) < 1e-8


def test_a_guess_is_called_one(caplog: pytest.LogCaptureFixture) -> None:
    """PyG's mean over neighbours counts an edge of weight 0."""
    net = Unweighted("gin")
    net.convs = nn.ModuleList([pyg.SAGEConv(WIDTH, HIDDEN)])
    top_flips(Victim(net.double(), "graph"), graphs(), both_sides, 1)
    assert "are a guess" in caplog.text


def dense_layer_like(conv: Any, x: Tensor, a: Tensor) -> Tensor:
    """PyG's GCN and GIN as formulas."""
    if isinstance(conv, pyg.GINConv):
        return conv.nn(a @ x + (1 + conv.eps) * x)  # type: ignore[no-any-return]
    s = (a.sum(1) + 1).rsqrt()
    return s[:, None] * (a + torch.eye(len(x))) * s @ conv.lin(x) + conv.bias


def test_flipping_twice_is_nothing() -> None:
    g = graphs()
    attr = torch.arange(g.edge_index.shape[1])[:, None] + 1.0
    g = Graphs.build(g.x, g.edge_index, g.n_nodes, edge_attr=attr)
    new = next([0, j] for j in range(1, 7) if [0, j] not in g.edge_index.T.tolist())
    old = g.edge_index[:, int(g.edge_ptr[2])].tolist()
    pairs = torch.tensor([[new, old], [[-1, -1], [-1, -1]]])
    once = flip(g, pairs)
    edges, was = once.edge_index.T.tolist(), g.edge_index.T.tolist()
    assert sorted(edges) == sorted([e for e in was if e not in (old, old[::-1])] + [new, new[::-1]])
    kept = dict(zip(map(tuple, was), attr[:, 0].tolist(), strict=True))
    assert once.edge_attr is not None
    assert once.edge_attr[:, 0].tolist() == [kept.get(tuple(e), 0.0) for e in edges]
    assert once.edge_ptr.tolist() == torch.searchsorted(once.edge_index[1].contiguous(), g.node_ptr).tolist()
    twice = flip(once, pairs)
    assert torch.equal(twice.edge_index, g.edge_index)
    assert torch.equal(twice.edge_ptr, g.edge_ptr)
    assert torch.equal(twice.x, g.x)


def test_refusals_say_what_came() -> None:
    victim, g = victim_of("gcn"), graphs()
    soft = g.with_(edge_weight=g.x.new_ones(g.edge_index.shape[1]))
    with pytest.raises(InvalidInput, match="carry edge_weight"):
        top_flips(victim, soft, both_sides, 1)
    with pytest.raises(InvalidInput, match="m is -1"):
        top_flips(victim, g, both_sides, -1)
    with pytest.raises(InvalidInput, match="2 numbers for 6 graphs"):
        top_flips(victim, g, both_sides, torch.tensor([1, 2]))
    with pytest.raises(InvalidInput, match=r"shape \(6,\)"):
        top_flips(victim, g, lambda logits, _: logits.sum(1), 1)
    with pytest.raises(InvalidInput, match="without a gradient"):
        top_flips(victim, g, lambda logits, _: logits.detach().sum(), 1)


def test_nothing_asked_nothing_found() -> None:
    victim, g = victim_of("gin"), graphs()
    assert top_flips(victim, g, both_sides, 0).pairs.shape == (6, 0, 2)
    assert top_flips(victim, g.take(torch.arange(0)), both_sides, 3).pairs.shape == (0, 3, 2)
    assert torch.equal(flip(g, torch.full((6, 2, 2), -1)).edge_index, g.edge_index)


class Headless(nn.Module):
    """One layer and a pooling: what enters its only matrix of weights are the inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = pyg.GCNConv(WIDTH, CLASSES)

    def forward(self, x: Tensor, edge_index: Tensor, batch: Tensor, edge_weight: Tensor | None = None) -> Tensor:
        return pyg.global_add_pool(self.conv(x, edge_index, edge_weight), batch)  # type: ignore[no-any-return]


def test_features_that_know_no_edge_leave_the_logits_alone() -> None:
    victim, g = Victim(Headless().double(), "graph"), graphs(0, APART, twins=False)
    found = pair_gradient(victim, g, lambda logits, _: logits[:, 0].sum())
    assert all(bool(f.isfinite().all()) for f in found) and any(bool(f.abs().max() > 0) for f in found)
