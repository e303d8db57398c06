"""Integrated gradients: completeness, a plain loop, captum, and PyG's wrapper of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch_geometric import nn as pyg

from ostiary.context import Context
from ostiary.errors import Unsupported
from ostiary.explainers.integrated_gradients import IntegratedGradients
from ostiary.modality.graphs import Graphs
from ostiary.models.victim import Victim
from ostiary.testing import toys


class Net(nn.Module):
    """A user's module on PyG's layers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = pyg.GCNConv(width, 8), pyg.GATConv(8, 8)
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor, edge_index: Tensor, batch: Tensor) -> Tensor:
        x = self.second(self.first(x, edge_index).tanh(), edge_index).relu()
        return self.head(pyg.global_add_pool(x, batch))


@pytest.fixture
def net(graphs: Graphs) -> Net:
    torch.random.default_generator.manual_seed(0)
    return Net(graphs.x.shape[1]).double().eval()


def per_graph(values: Tensor, group: Tensor, n: int) -> Tensor:
    return values.new_zeros(n).index_add(0, group, values)


@pytest.mark.parametrize("odd", [False, True])
def test_scores_of_a_graph_sum_to_what_its_features_or_its_edges_change(odd: bool, graphs: Graphs) -> None:
    victim, classes = toys.victim("graph", odd=odd).double(), torch.tensor([0, 1, 1, 0])
    found = IntegratedGradients(steps=400).explain(victim, graphs, Context(), classes)
    bare = Graphs.build(graphs.x, graphs.edge_index[:, :0], graphs.n_nodes)
    full, blank, apart = (
        victim.predict(g).gather(1, classes[:, None])[:, 0] for g in (graphs, graphs.with_(x=graphs.x * 0), bare)
    )
    torch.testing.assert_close(per_graph(found.nodes, graphs.batch, 4), full - blank, atol=0.01, rtol=0.01)
    torch.testing.assert_close(per_graph(found.edges, graphs.edge_batch, 4), full - apart, atol=0.01, rtol=0.01)
    torch.testing.assert_close(found.nodes, found.features.sum(1))
    assert (full - blank).abs().min() > 0.1


@pytest.mark.parametrize("baseline", [0.0, 0.5])
def test_scores_of_an_image_sum_to_what_it_changes(baseline: float) -> None:
    victim, images = toys.victim("image").double(), toys.splits("image").test.inputs[:4].double()
    classes = torch.tensor([0, 1, 1, 0])
    found = IntegratedGradients(steps=300, baseline=baseline).explain(victim, images, Context(), classes)
    full, empty = (victim.predict(i).gather(1, classes[:, None])[:, 0] for i in (images, torch.full_like(images, baseline)))
    torch.testing.assert_close(found.pixels.sum((1, 2)), full - empty, atol=0.02, rtol=0.02)
    assert (full - empty).abs().min() > 0.1


def test_a_linear_model_is_explained_exactly() -> None:
    linear = nn.Linear(12, 3).double()
    victim = Victim(linear, "image", forward=lambda m, b: m(b.flatten(1)))
    images, classes = torch.rand(5, 3, 2, 2, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1])
    found = IntegratedGradients(steps=1, baseline=0.25).explain(victim, images, Context(), classes)
    expected = linear.weight.detach()[classes].view(5, 3, 2, 2) * (images - 0.25)
    torch.testing.assert_close(found.pixels, expected.sum(1))


def test_equals_a_plain_loop_over_graphs_and_steps(net: Net, graphs: Graphs) -> None:
    steps, classes = 7, torch.tensor([1, 0, 0, 1])
    found = IntegratedGradients(steps=steps).explain(Victim(net, "graph"), graphs, Context(), classes)
    points, weights = np.polynomial.legendre.leggauss(steps)
    expected = []
    for graph, wanted in zip(graphs.to_pyg(), classes.tolist(), strict=True):
        batch, total = torch.zeros(len(graph.x), dtype=torch.int64), torch.zeros_like(graph.x)
        for at, weight in zip((points + 1) / 2, weights / 2, strict=True):
            x = (graph.x * at).requires_grad_()
            total += weight * torch.autograd.grad(net(x, graph.edge_index, batch)[0, wanted], x)[0]
        expected.append(total * graph.x)
    torch.testing.assert_close(found.features, torch.cat(expected))


def test_equals_captum_on_images() -> None:
    captum = pytest.importorskip("captum.attr", reason="captum is not installed: pip install ostiary[explain]")
    victim, images = toys.victim("image").double(), toys.splits("image").test.inputs[:4].double()
    classes = torch.tensor([0, 1, 1, 0])
    for options, baseline in (({}, 0.0), ({"steps": 20, "baseline": 0.3}, 0.3)):
        found = IntegratedGradients(**options).explain(victim, images, Context(), classes)
        steps = options.get("steps", 50)
        theirs = captum.IntegratedGradients(victim.eval()).attribute(images, baseline, classes, n_steps=int(steps))
        torch.testing.assert_close(found.pixels, theirs.sum(1))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_equals_pyg_s_wrapper_of_captum_graph_by_graph(net: Net, graphs: Graphs) -> None:
    pytest.importorskip("captum.attr", reason="captum is not installed: pip install ostiary[explain]")
    from torch_geometric.explain import CaptumExplainer, Explainer

    classes = torch.tensor([1, 0, 0, 1])
    found = IntegratedGradients().explain(Victim(net, "graph"), graphs, Context(), classes)
    for kind, ours in (("node_mask_type", found.features), ("edge_mask_type", found.edges)):
        theirs = []
        for i, graph in enumerate(graphs.to_pyg()):
            explainer = Explainer(
                net,
                CaptumExplainer("IntegratedGradients"),
                explanation_type="phenomenon",
                model_config={"mode": "multiclass_classification", "task_level": "graph", "return_type": "raw"},
                **{kind: "attributes" if kind == "node_mask_type" else "object"},
            )
            batch = torch.zeros(len(graph.x), dtype=torch.int64)
            seen = explainer(graph.x, graph.edge_index, target=classes[i : i + 1], batch=batch)
            theirs.append(seen.node_mask if kind == "node_mask_type" else seen.edge_mask)
        torch.testing.assert_close(ours, torch.cat(theirs).double(), atol=1e-5, rtol=1e-5)  # its edge mask is float32


def test_edges_can_be_left_out_where_they_cannot_be_weighed(graphs: Graphs) -> None:
    class Plain(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.lin = nn.Linear(width, 2)

        def forward(self, x: Tensor, batch: Tensor) -> Tensor:
            return x.new_zeros(int(batch.max()) + 1, 2).index_add(0, batch, self.lin(x))

    victim = Victim(Plain(graphs.x.shape[1]).double(), "graph")
    with pytest.raises(Unsupported, match="edges cannot be weighed"):
        IntegratedGradients().explain(victim, graphs, Context())
    found = IntegratedGradients(edges=False).explain(victim, graphs, Context())
    assert found.edges is None
    assert found.nodes.abs().min() > 0


def test_an_output_without_gradient_is_refused() -> None:
    victim = Victim(nn.Linear(4, 2), "image", forward=lambda m, b: m(b.flatten(1).round().detach()))
    with pytest.raises(Unsupported, match="no gradient in its inputs"):
        IntegratedGradients().explain(victim, torch.rand(2, 1, 2, 2), Context())
