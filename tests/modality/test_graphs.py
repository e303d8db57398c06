"""The graph store against a naive reference: one PyG graph at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch_geometric.data import Data

from ostiary.errors import InvalidInput
from ostiary.modality.graphs import DEGREES, Graphs, degree_features, join
from ostiary.models.graph_layers import neighbour_sum
from ostiary.testing import toys

WIDTH = 3


@st.composite
def graph(draw: st.DrawFn) -> Data:
    """1 to 6 nodes, directed edges in any order, isolated nodes and graphs without edges included."""
    n = draw(st.integers(1, 6))
    pairs = [(i, j) for i in range(n) for j in range(n) if i != j]
    edges = draw(st.lists(st.sampled_from(pairs), unique=True, max_size=12)) if pairs else []
    x = torch.tensor(draw(st.lists(st.integers(-9, 9), min_size=n * WIDTH, max_size=n * WIDTH))).view(n, WIDTH).float()
    edge_index = torch.tensor(edges, dtype=torch.int64).view(-1, 2).t().contiguous()
    return Data(x=x, edge_index=edge_index, edge_attr=torch.arange(2.0 * len(edges)).view(-1, 2))


lists = st.lists(graph(), min_size=1, max_size=6)
Plain = tuple[list[list[float]], list[tuple[int, int, list[float]]]]


def plain(data: Data) -> Plain:
    """Node rows, and edges as (source, target, attributes), sorted."""
    edges = zip(*data.edge_index.tolist(), data.edge_attr.tolist(), strict=True) if data.edge_index.numel() else []
    return data.x.tolist(), sorted(edges)


def read(graphs: Graphs) -> list[Plain]:
    """The graphs of a store, found by `batch` and `edge_batch` alone."""
    found = []
    for g in range(len(graphs)):
        rows = (graphs.batch == g).nonzero().flatten()
        first = int(rows[0])
        at = graphs.edge_batch == g
        edges = (graphs.edge_index[:, at] - first).t().tolist()
        attrs = graphs.edge_attr[at].tolist()
        found.append((graphs.x[rows].tolist(), sorted((a, b, f) for (a, b), f in zip(edges, attrs, strict=True))))
    return found


def sound(graphs: Graphs) -> None:
    """What every store promises: sorted edges, pointers that fit."""
    key = graphs.edge_index[1] * max(1, len(graphs.x)) + graphs.edge_index[0]
    assert bool((key[1:] >= key[:-1]).all())
    assert int(graphs.node_ptr[0]) == int(graphs.edge_ptr[0]) == 0
    assert int(graphs.node_ptr[-1]) == len(graphs.x)
    assert int(graphs.edge_ptr[-1]) == graphs.edge_index.shape[1]


@given(lists)
def test_from_pyg_keeps_every_graph(items: list[Data]) -> None:
    graphs = Graphs.from_pyg(items)
    sound(graphs)
    assert read(graphs) == [plain(d) for d in items]
    assert [plain(d) for d in graphs.to_pyg()] == [plain(d) for d in items]


@given(lists, st.data())
def test_take_is_picking_from_a_list(items: list[Data], data: st.DataObject) -> None:
    index = data.draw(st.lists(st.integers(0, len(items) - 1), max_size=8))
    graphs = Graphs.from_pyg(items)
    part = graphs.take(torch.tensor(index, dtype=torch.int64))
    sound(part)
    assert read(part) == [plain(items[i]) for i in index]


@given(lists, st.data())
def test_take_slices_the_transposed_order(items: list[Data], data: st.DataObject) -> None:
    """A batch taken from a store whose edges were already ordered by source need not be sorted again."""
    index = torch.tensor(data.draw(st.lists(st.integers(0, len(items) - 1), min_size=1, max_size=8)))
    graphs = Graphs.from_pyg(items)
    fresh = graphs.take(index).by_source
    graphs.by_source  # noqa: B018 - computed once, sliced from here on
    part = graphs.take(index)
    assert "by_source" in part.__dict__
    assert torch.equal(part.by_source, fresh)


@given(st.lists(lists, min_size=1, max_size=3))
def test_join_is_concatenation(parts: list[list[Data]]) -> None:
    whole = join([Graphs.from_pyg(items) for items in parts])
    sound(whole)
    assert read(whole) == [plain(d) for items in parts for d in items]


@given(lists)
def test_build_takes_edges_in_any_order(items: list[Data]) -> None:
    graphs = Graphs.from_pyg(items)
    back = torch.arange(graphs.edge_index.shape[1]).flip(0)
    weight = torch.arange(len(back)) / max(1, len(back))
    again = Graphs.build(
        graphs.x, graphs.edge_index[:, back], graphs.n_nodes, edge_attr=graphs.edge_attr[back], edge_weight=weight[back]
    )
    assert read(again) == read(graphs)
    assert torch.equal(again.edge_weight, weight)


@given(lists)
def test_derived_columns(items: list[Data]) -> None:
    graphs = Graphs.from_pyg(items)
    assert graphs.n_nodes.tolist() == [len(d.x) for d in items]
    assert graphs.n_edges.tolist() == [d.edge_index.shape[1] for d in items]
    degree = [int((d.edge_index[1] == i).sum()) for d in items for i in range(len(d.x))]
    assert graphs.in_degree.tolist() == degree
    key = graphs.edge_index[:, graphs.by_source]
    pairs = list(zip(*key.tolist(), strict=True))
    assert pairs == sorted(pairs)


def test_edges_that_lie_transposed_in_memory_pass_gradients() -> None:
    """As of `torch.tensor(pairs).T`, which some of torch's kernels do not take."""
    g = Graphs.build(torch.eye(2), torch.tensor([[1, 0], [0, 1]]).T, torch.tensor([2]))
    weight = torch.ones(2, requires_grad=True)
    neighbour_sum(g.x, g.with_(edge_weight=weight)).sum().backward()
    assert weight.grad is not None
    assert weight.grad.tolist() == [1.0, 1.0]


def test_with_keeps_the_structure_and_what_was_derived() -> None:
    graphs = Graphs.from_pyg([Data(x=torch.ones(2, 1), edge_index=torch.tensor([[0, 1], [1, 0]]))])
    batch = graphs.batch
    other = graphs.with_(x=torch.zeros(2, 1), edge_weight=torch.tensor([0.5, 1.0]))
    assert other.batch is batch
    assert other.x.sum() == 0
    assert graphs.edge_weight is None
    assert other.take(torch.tensor([0, 0])).edge_weight.tolist() == [0.5, 1.0, 0.5, 1.0]


def test_join_fills_missing_weights_with_one() -> None:
    graphs = Graphs.from_pyg([Data(x=torch.ones(2, 1), edge_index=torch.tensor([[0, 1], [1, 0]]))])
    soft = graphs.with_(edge_weight=torch.tensor([0.25, 0.5]))
    assert join([graphs, soft]).edge_weight.tolist() == [1.0, 1.0, 0.25, 0.5]
    assert join([graphs, graphs]).edge_weight is None


def test_isolated_last_nodes_are_counted() -> None:
    """Node count comes from x, never from the largest node in an edge."""
    lonely = Data(x=torch.arange(4.0).view(4, 1), edge_index=torch.tensor([[0, 1], [1, 0]]))
    graphs = Graphs.from_pyg([lonely, lonely])
    assert graphs.n_nodes.tolist() == [4, 4]
    assert graphs.take(torch.tensor([1])).x.flatten().tolist() == [0.0, 1.0, 2.0, 3.0]


def test_graphs_without_features_get_their_degree() -> None:
    star = Data(num_nodes=4, edge_index=torch.tensor([[0, 0, 0, 1, 2, 3], [1, 2, 3, 0, 0, 0]]))
    assert Graphs.from_pyg([star]).x.argmax(1).tolist() == [3, 1, 1, 1]
    assert Graphs.from_pyg([star]).x.shape[1] == Graphs.from_pyg([star, star]).x.shape[1] == DEGREES, "room for a trigger"
    assert Graphs.from_pyg([star], width=3).x.argmax(1).tolist() == [2, 1, 1, 1], (
        "degrees above the width share its last column"
    )
    assert degree_features(star.edge_index, 5, 4).tolist()[4] == [1.0, 0.0, 0.0, 0.0]


ONE = Data(x=torch.ones(2, 3), edge_index=torch.tensor([[0, 1], [1, 0]]))


@pytest.mark.parametrize(
    ("second", "words"),
    [
        (Data(x=torch.ones(2, 4), edge_index=ONE.edge_index), "node features of different widths"),
        (Data(num_nodes=2, edge_index=ONE.edge_index), "1 of 2 graphs have node features"),
        (Data(x=torch.ones(2, 3), edge_index=ONE.edge_index, edge_attr=torch.ones(2, 1)), "1 of 2 graphs have edge_attr"),
        (Data(x=torch.ones(2, 3), edge_index=ONE.edge_index, edge_attr=torch.ones(3, 1)), "2 edges but edge_attr for 3"),
        (Data(x=torch.ones(2, 3), edge_index=torch.tensor([[0, 5], [5, 0]])), "edge to node 5 but only 2 nodes"),
        (Data(x=torch.ones(2, 3), edge_index=torch.tensor([[0, -1], [-1, 0]])), "graph 1 has an edge to node -1"),
        (Data(edge_index=ONE.edge_index), "neither x nor num_nodes"),
        (Data(x=torch.ones(2, 3), edge_index=torch.zeros(5, 2).long()), r"graph 1: edge_index is \(5, 2\), .*; transpose it"),
        (Data(x=torch.ones(2, 3), edge_index=torch.zeros(6).long()), r"graph 1: edge_index is \(6,\), .*; reshape it"),
        (Data(x=torch.ones(2, 3), edge_index=ONE.edge_index + 0.5), "edge_index is torch.float32, expected node numbers"),
        (Data(x=torch.ones(2, 3), edge_index=ONE.edge_index.bool()), "edge_index is torch.bool, expected node numbers"),
        (Data(x=torch.ones(2, 3), edge_index=[[0, 1], [1, 0]]), "graph 1: edge_index is list, expected a tensor"),
        (Data(x=np.ones((2, 3)), edge_index=ONE.edge_index), "graph 1: x is ndarray, expected a tensor"),
        (Data(x=torch.ones(2, 3) * 1j, edge_index=ONE.edge_index), "graph 1: x is torch.complex64, expected real numbers"),
        (Data(x=torch.ones(2, 3), edge_index=ONE.edge_index, edge_weight=torch.ones(2)), "graph 1 has edge_weight"),
        (
            Data(x=torch.ones(2, 3), edge_index=ONE.edge_index, edge_attr=torch.tensor([1, torch.nan])),
            "graph 1: edge_attr holds NaN or infinity",
        ),
    ],
)
def test_unusable_graphs_are_refused_in_one_sentence(second: Data, words: str) -> None:
    with pytest.raises(InvalidInput, match=words) as caught:
        Graphs.from_pyg([ONE, second])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("none", [torch.tensor([[], []]), torch.tensor([]), torch.zeros(0, 2), None])
def test_no_edges_may_be_of_any_type_and_shape(none: Any) -> None:
    bare = Data(x=torch.ones(1, 3), edge_index=none)
    assert torch.equal(Graphs.from_pyg([bare, ONE]).edge_index, torch.tensor([[2, 1], [1, 2]]))


def test_graphs_without_edges_may_carry_empty_edge_features() -> None:
    full = Data(x=torch.ones(2, 3), edge_index=ONE.edge_index, edge_attr=torch.ones(2, 2))
    bare = Data(x=torch.ones(1, 3), edge_index=torch.zeros(2, 0, dtype=torch.int64), edge_attr=torch.zeros(0, 2))
    assert Graphs.from_pyg([bare, full, bare]).edge_attr.shape == (2, 2)


def test_with_edges_keeps_the_order_and_what_was_derived() -> None:
    graphs = toys.splits("graph").clean.inputs.take(torch.arange(6).flip(0))
    a, b = graphs.edge_index
    keep = (a + b) % 3 != 0
    found = graphs.with_edges(keep)
    fresh = Graphs.build(graphs.x, graphs.edge_index[:, keep], graphs.n_nodes)
    for name in ("x", "edge_index", "node_ptr", "edge_ptr", "by_source", "batch", "edge_batch", "n_edges"):
        assert torch.equal(getattr(found, name), getattr(fresh, name)), name
    assert found.symmetric and not graphs.with_edges(a < b).symmetric
    assert torch.equal(found.take(torch.tensor([3])).edge_index, fresh.take(torch.tensor([3])).edge_index)
    none = graphs.with_edges(torch.zeros_like(keep))
    assert none.n_edges.tolist() == [0] * 6
