"""GNNExplainer against PyG's, run graph by graph."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch_geometric import nn as pyg
from torch_geometric.explain import Explainer
from torch_geometric.explain.algorithm import GNNExplainer as PyGGNNExplainer

from ostiary.component import build
from ostiary.context import Context
from ostiary.data.dataset import Splits
from ostiary.errors import BadSpec, Unsupported
from ostiary.explainers.gnn_explainer import GNNExplainer
from ostiary.explainers.masks import Masks, by_degree
from ostiary.modality.graphs import Graphs, join
from ostiary.modality.sparse import bag_sum
from ostiary.models.graph_layers import fold_norms
from ostiary.models.graph_nets import GraphNet
from ostiary.models.victim import Victim

KINDS = [("attributes", True), ("object", True), ("none", True), ("attributes", False), ("object", False)]


class Twin(nn.Module):
    """Our GIN on PyG's layers, with the same weights."""

    def __init__(self, net: GraphNet) -> None:
        super().__init__()
        self.convs = nn.ModuleList(pyg.GINConv(copy.deepcopy(conv.mlp)) for conv in net.convs)
        for mine, theirs in zip(net.convs, self.convs, strict=True):
            theirs.nn.load_state_dict(mine.mlp.state_dict())  # PyG's layer draws its weights anew
        self.lin, self.head = net.lin, net.head

    def forward(self, x: Tensor, edge_index: Tensor, batch: Tensor) -> Tensor:
        for conv in self.convs:
            x = conv(x, edge_index).relu()
        return self.head(self.lin(pyg.global_add_pool(x, batch)).relu())


class GCN(nn.Module):
    """A user's module: self-loops and degree normalisation inside the layers, mean pooling."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = pyg.GCNConv(width, 16), pyg.GCNConv(16, 16)
        self.head = nn.Linear(16, 2)

    def forward(self, x: Tensor, edge_index: Tensor, batch: Tensor) -> Tensor:
        x = self.second(self.first(x, edge_index).relu(), edge_index).relu()
        return self.head(pyg.global_mean_pool(x, batch))


class FromStart(PyGGNNExplainer):
    """PyG's explainer with given initial masks."""

    start: tuple[Tensor | None, Tensor | None]

    def _initialize_masks(self, x: Tensor, edge_index: Tensor) -> None:
        self.node_mask, self.edge_mask = (None if t is None else nn.Parameter(t.clone()) for t in self.start)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data() -> Splits:
    splits: Splits = build("dataset", "toy-graphs").load(0)
    return splits


@pytest.fixture(scope="module")
def victim(data: Splits) -> Victim:
    victim = build("victim", {"name": "gin", "hidden": 32}).make(data.train, 0)
    return build("trainer", {"name": "trainer", "epochs": 3}).fit(victim, data.train, 0)


@pytest.fixture
def graphs(data: Splits) -> Graphs:
    return data.test.inputs.take(torch.arange(4))


def double(graphs: Graphs) -> Graphs:
    return graphs.with_(x=graphs.x.double())


def pyg_masks(
    module: nn.Module,
    graphs: Graphs,
    classes: Tensor,
    algorithm: PyGGNNExplainer,
    node_mask: str = "attributes",
    edge_mask: bool = True,
    starts: list[tuple[Tensor | None, Tensor | None]] | None = None,
) -> tuple[list[Tensor | None], list[Tensor | None]]:
    """Node and edge masks of every graph, one PyG run each."""
    explainer = Explainer(
        module.eval(),
        algorithm,
        explanation_type="phenomenon",
        node_mask_type=None if node_mask == "none" else node_mask,
        edge_mask_type="object" if edge_mask else None,
        model_config={"mode": "multiclass_classification", "task_level": "graph", "return_type": "raw"},
    )
    found = []
    for i, graph in enumerate(graphs.to_pyg()):
        if starts is not None:
            algorithm.start = starts[i]
        batch = torch.zeros(len(graph.x), dtype=torch.int64)
        found.append(explainer(graph.x, graph.edge_index, target=classes[i : i + 1], batch=batch))
    return [e.get("node_mask") for e in found], [e.get("edge_mask") for e in found]


def unpacked(ours: GNNExplainer, masks: Masks, theta: Tensor) -> list[tuple[Tensor | None, Tensor | None]]:
    """Our flat initial masks as PyG's, graph by graph; where a feature is zero PyG's value is of no account."""
    graphs, nodes = masks.graphs, None
    if ours.node_mask == "attributes":
        nodes = torch.full_like(graphs.x, 0.3)
        nodes.view(-1)[masks.spots] = theta[masks.n_edges :]
    elif ours.node_mask == "object":
        nodes = theta[masks.n_edges :, None]
    found = []
    for i in range(len(graphs)):
        a, b, e, f = *graphs.node_ptr[i : i + 2].tolist(), *graphs.edge_ptr[i : i + 2].tolist()
        found.append((None if nodes is None else nodes[a:b], theta[e:f] if ours.edge_mask else None))
    return found


def assert_same_as_pyg(
    ours: GNNExplainer, victim: Victim, twin: nn.Module, graphs: Graphs, classes: Tensor, within: float
) -> None:
    seen = ours.explain(victim, graphs, Context(), classes)
    masks = Masks(graphs, ours.node_mask, ours.edge_mask)
    theta = masks.initial(torch.arange(len(graphs)), Context().key("gnn-explainer"))
    starts = unpacked(ours, masks, theta)
    nodes, edges = pyg_masks(twin, graphs, classes, FromStart(), ours.node_mask, ours.edge_mask, starts)
    if ours.edge_mask:
        torch.testing.assert_close(seen.edges, torch.cat(edges), atol=within, rtol=0)
    else:
        assert seen.edges is None
    if ours.node_mask == "attributes":
        torch.testing.assert_close(seen.features, torch.cat(nodes), atol=within, rtol=0)
        torch.testing.assert_close(seen.nodes, torch.cat(nodes).mean(1), atol=within, rtol=0)
    elif ours.node_mask == "object":
        torch.testing.assert_close(seen.nodes, torch.cat(nodes)[:, 0], atol=within, rtol=0)
    assert seen.nodes is not None
    assert seen.nodes.std() > 1e-3


@pytest.mark.parametrize(("node_mask", "edge_mask"), KINDS)
def test_equals_pyg_graph_by_graph(node_mask: str, edge_mask: bool, victim: Victim, graphs: Graphs) -> None:
    exact = victim.clone().double()
    classes = 1 - exact.predict(double(graphs)).argmax(1)  # a given class, not the predicted one
    ours = GNNExplainer(node_mask=node_mask, edge_mask=edge_mask)
    assert_same_as_pyg(ours, exact, Twin(exact.module), double(graphs), classes, 1e-6)


def test_float32_stays_near_pyg(victim: Victim, graphs: Graphs) -> None:
    classes = victim.predict(graphs).argmax(1)
    assert_same_as_pyg(GNNExplainer(), victim, Twin(victim.module), graphs, classes, 1e-3)


def test_coefficients_epochs_and_rate_reach_the_optimiser(victim: Victim, graphs: Graphs) -> None:
    exact, changed = victim.clone().double(), {"edge_size": 0.05, "edge_ent": 0.2, "node_feat_size": 0.3, "node_feat_ent": 0.7}
    ours = GNNExplainer(epochs=20, lr=0.1, **changed)
    classes = exact.predict(double(graphs)).argmax(1)
    masks = Masks(double(graphs), "attributes", True)
    starts = unpacked(ours, masks, masks.initial(torch.arange(len(graphs)), Context().key("gnn-explainer")))
    _, edges = pyg_masks(Twin(exact.module), double(graphs), classes, FromStart(epochs=20, lr=0.1, **changed), starts=starts)
    found = ours.explain(exact, double(graphs), Context()).edges
    torch.testing.assert_close(found, torch.cat(edges), atol=1e-6, rtol=0)


@pytest.mark.parametrize("node_mask", ["attributes", "object"])
def test_equals_pyg_on_a_users_pyg_module(node_mask: str, graphs: Graphs) -> None:
    module = GCN(graphs.x.shape[1]).double()
    victim = Victim(module, "graph")
    classes = torch.arange(len(graphs)) % 2
    assert_same_as_pyg(GNNExplainer(node_mask=node_mask), victim, module, double(graphs), classes, 1e-6)


def test_a_graph_does_not_depend_on_its_batch_or_chunk(victim: Victim, data: Splits) -> None:
    exact, inputs = victim.clone().double(), double(data.test.inputs)
    alone = inputs.take(torch.arange(4))
    among = join([alone, inputs.take(torch.arange(8, 18))])
    found = [
        GNNExplainer(chunk=chunk).explain(exact, graphs, Context(seed=3))
        for graphs, chunk in ((alone, 256), (alone, 1), (among, 3), (among, 256))
    ]
    for other in found[1:]:
        torch.testing.assert_close(other.edges[: len(found[0].edges)], found[0].edges, atol=1e-9, rtol=0)
        torch.testing.assert_close(other.features[: len(found[0].features)], found[0].features, atol=1e-9, rtol=0)


def test_seed_decides(victim: Victim, graphs: Graphs) -> None:
    first, again, other = (GNNExplainer().explain(victim, graphs, Context(seed=s)) for s in (0, 0, 1))
    assert torch.equal(first.edges, again.edges)
    assert torch.equal(first.features, again.features)
    assert not torch.equal(first.edges, other.edges)


def test_initial_masks_have_pygs_deviations(data: Splits) -> None:
    masks = Masks(data.train.inputs, "attributes", True)
    theta = masks.initial(torch.arange(len(data.train)), 5)
    scale = (2 / data.train.inputs.n_nodes[data.train.inputs.edge_batch]).sqrt()
    for part in (theta[: masks.n_edges] / scale, theta[masks.n_edges :] / 0.1):
        assert abs(float(part.mean())) < 0.08
        assert float(part.std()) == pytest.approx(1.0, abs=0.06)
        assert len(part.unique()) > 0.99 * len(part)


def best(graphs: Graphs, nodes: Tensor) -> Tensor:
    """The best 30 % of each graph's nodes: bool [N]."""
    kept = torch.zeros(len(nodes), dtype=torch.bool)
    for a, b in torch.stack([graphs.node_ptr[:-1], graphs.node_ptr[1:]], 1).tolist():
        kept[a + nodes[a:b].topk(round(0.3 * (b - a))).indices] = True
    return kept


def overlap(graphs: Graphs, a: Tensor, b: Tensor) -> float:
    a, b = best(graphs, a), best(graphs, b)
    return float((a & b).sum() / a.sum())


def fidelity(victim: Victim, graphs: Graphs, classes: Tensor, nodes: Tensor) -> float:
    """Mean probability of the class when only the best nodes keep their features, minus when only they lose them."""
    kept = best(graphs, nodes)[:, None]
    found = [victim.predict(graphs.with_(x=graphs.x * k)).softmax(1) for k in (kept, ~kept)]
    return float((found[0] - found[1]).gather(1, classes[:, None]).mean())


def test_agrees_with_pyg_as_well_as_two_seeds_of_pyg_agree(victim: Victim, data: Splits) -> None:
    graphs = data.test.inputs.take(torch.arange(10))
    classes = victim.predict(graphs).argmax(1)
    theirs = []
    for seed in (0, 1):
        with torch.random.fork_rng():
            torch.random.default_generator.manual_seed(seed)
            nodes = pyg_masks(Twin(victim.module), graphs, classes, PyGGNNExplainer(epochs=60, lr=0.05))[0]
        theirs.append(torch.cat(nodes).mean(1))
    # at PyG's default lr the masks hardly leave their random start, so two seeds agree by chance alone
    ours = [GNNExplainer(epochs=60, lr=0.05).explain(victim, graphs, Context(seed=s)).nodes for s in (0, 1)]
    assert overlap(graphs, *theirs) > 0.5
    assert sum(overlap(graphs, a, b) for a in ours for b in theirs) / 4 > overlap(graphs, *theirs) - 0.1
    scores = [sum(fidelity(victim, graphs, classes, nodes) for nodes in found) / 2 for found in (ours, theirs)]
    assert abs(scores[0] - scores[1]) < 0.1


@pytest.mark.parametrize("node_mask", ["attributes", "object", "none"])
@pytest.mark.parametrize("users", [False, True])
def test_one_node_without_edge(node_mask: str, users: bool, victim: Victim, graphs: Graphs) -> None:
    width = graphs.x.shape[1]
    lonely = Graphs.build(torch.eye(width)[:1], torch.zeros(2, 0, dtype=torch.int64), torch.tensor([1]))
    victim = Victim(GCN(width), "graph") if users else victim
    for inputs in (lonely, join([graphs, lonely, graphs])):
        found = GNNExplainer(node_mask=node_mask, epochs=5, chunk=4).explain(victim, inputs, Context())
        assert found.nodes.shape == (len(inputs.x),)
        assert found.edges.shape == (inputs.edge_index.shape[1],)
        assert found.nodes.isfinite().all()
        assert found.edges.isfinite().all()


def test_leaves_victim_and_inputs_as_they_were(victim: Victim, graphs: Graphs) -> None:
    state = {k: v.clone() for k, v in victim.state_dict().items()}
    names, x = [n for n, _ in victim.named_modules()], graphs.x.clone()
    GNNExplainer(epochs=3).explain(victim, graphs, Context())
    assert [n for n, _ in victim.named_modules()] == names
    assert all(torch.equal(v, state[k]) for k, v in victim.state_dict().items())
    assert all(p.requires_grad for p in victim.parameters())
    assert torch.equal(graphs.x, x)
    assert not graphs.x.requires_grad
    module = GCN(graphs.x.shape[1])
    GNNExplainer(epochs=3).explain(Victim(module, "graph"), graphs, Context())
    assert not any(m.explain or m._edge_mask is not None for m in (module.first, module.second))


def test_refusals() -> None:
    with pytest.raises(Unsupported, match="works on graph data, not image"):
        GNNExplainer().explain(Victim(nn.Flatten(), "image"), torch.rand(2, 3, 4, 4), Context())
    with pytest.raises(BadSpec, match="no mask to learn"):
        GNNExplainer(node_mask="none", edge_mask=False)
    with pytest.raises(BadSpec, match="node_mask"):
        GNNExplainer(node_mask="features")


def test_scores_by_degree_by_hand() -> None:
    """A path 0 - 1 - 2 and a lone node 3."""
    edges = torch.tensor([[1, 0, 2, 1], [0, 1, 1, 2]])
    path = Graphs.build(torch.eye(4), edges, torch.tensor([4]))
    scores = by_degree(path, torch.tensor([0.2, 0.4, 1.0, 0.6]))
    expected = torch.tensor([0.3 / math.log(2), (0.3 + 0.8) / math.log(3), 0.8 / math.log(2), 0.0])
    torch.testing.assert_close(scores, expected)


def test_folded_norms_change_no_logit(victim: Victim, graphs: Graphs) -> None:
    fast = victim.clone()
    fold_norms(fast)
    assert not any(isinstance(m, nn.BatchNorm1d) for m in fast.modules())
    torch.testing.assert_close(fast.predict(graphs), victim.predict(graphs), atol=1e-4, rtol=1e-5)
    watched = victim.clone()
    for module in watched.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.register_forward_hook(lambda _m, _i, out: out * 2)
    fold_norms(watched)
    assert sum(isinstance(m, nn.BatchNorm1d) for m in watched.modules()) == 3


def test_sums_over_bags_keep_both_derivatives(graphs: Graphs) -> None:
    x = torch.randn(len(graphs.x), 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    weight = torch.rand(graphs.edge_index.shape[1], dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    weight.requires_grad_()
    out = bag_sum(x, graphs.adjacency, weight)
    source, target = graphs.edge_index
    plain = torch.zeros_like(x).index_add(0, target, x[source] * weight[:, None])
    torch.testing.assert_close(out, plain)
    for create in (False, True):  # the two ways to a weight's gradient
        both = [
            torch.autograd.grad(o.square().sum(), (x, weight), create_graph=create, retain_graph=True) for o in (out, plain)
        ]
        torch.testing.assert_close(both[0], both[1])
    seconds = [torch.autograd.grad(sum(g.square().sum() for g in grads), (x, weight)) for grads in both]
    torch.testing.assert_close(seconds[0], seconds[1])
