"""Bag sums against index_add, with first and second derivatives."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from ostiary.modality.graphs import Graphs
from ostiary.modality.sparse import bag_sum, pointer, ranges, row_products


def store(dtype: torch.dtype = torch.float64) -> Graphs:
    """Three graphs; the second has no edge, node 5 is isolated, some bags are empty."""
    edges = torch.tensor([[0, 1, 1, 2, 4, 6, 7, 6], [1, 0, 2, 1, 6, 4, 6, 7]])
    return Graphs.build(
        torch.randn(8, 3, dtype=dtype, generator=torch.Generator().manual_seed(0)), edges, torch.tensor([3, 1, 4])
    )


def naive(x: Tensor, graphs: Graphs, weight: Tensor | None) -> Tensor:
    source, target = graphs.edge_index
    rows = x[source] if weight is None else x[source] * weight[:, None]
    return torch.zeros_like(x).index_add(0, target, rows)


def leaf(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).requires_grad_()


@pytest.mark.parametrize("weighted", [False, True])
def test_equals_index_add(weighted: bool) -> None:
    graphs, x = store(), leaf(8, 5)
    weight = leaf(8, seed=2) if weighted else None
    leaves = [x] + ([weight] if weight is not None else [])
    ours, theirs = bag_sum(x, graphs.adjacency, weight), naive(x, graphs, weight)
    torch.testing.assert_close(ours, theirs)
    push = torch.randn(8, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    for a, b in zip(torch.autograd.grad(ours, leaves, push), torch.autograd.grad(theirs, leaves, push), strict=True):
        torch.testing.assert_close(a, b)


def test_membership_sums_the_nodes_of_each_graph() -> None:
    graphs = store()
    expected = torch.stack([graphs.x[:3].sum(0), graphs.x[3], graphs.x[4:].sum(0)])
    torch.testing.assert_close(bag_sum(graphs.x, graphs.membership), expected)


@pytest.mark.parametrize("bags", ["adjacency", "membership"])
def test_first_and_second_derivatives(bags: str) -> None:
    incidence = getattr(store(), bags)
    weight = leaf(len(incidence.column), seed=2)
    assert gradcheck(lambda x: bag_sum(x, incidence), (leaf(8, 2),))
    assert gradcheck(lambda x, w: bag_sum(x, incidence, w), (leaf(8, 2), weight))
    assert gradgradcheck(lambda x, w: bag_sum(x, incidence, w), (leaf(8, 2), weight))


def test_second_derivative_reaches_weights_through_a_nonlinearity() -> None:
    """What unrolled optimisation needs: d/dw of a gradient with respect to x."""
    graphs, x, weight = store(), leaf(8, 2), leaf(8, seed=2)

    def second(sums: Tensor) -> Tensor:
        (slope,) = torch.autograd.grad(sums.tanh().sum(), x, create_graph=True)
        return torch.autograd.grad(slope.square().sum(), weight)[0]

    torch.testing.assert_close(second(bag_sum(x, graphs.adjacency, weight)), second(naive(x, graphs, weight)))


def test_row_products_are_those_of_the_ends_of_each_edge_with_two_derivatives() -> None:
    graphs, a, b = store(), leaf(8, 3), leaf(8, 3, seed=2)
    source, target = graphs.edge_index
    torch.testing.assert_close(row_products(a, b, graphs.adjacency), (a[target] * b[source]).sum(1))
    assert gradcheck(lambda a, b: row_products(a, b, graphs.adjacency), (a, b))
    assert gradgradcheck(lambda a, b: row_products(a, b, graphs.adjacency), (a, b))


def test_no_edges_at_all_sums_to_nothing() -> None:
    graphs = Graphs.build(torch.ones(3, 2), torch.zeros(2, 0, dtype=torch.int64), torch.tensor([1, 2]))
    x = torch.ones(3, 2, requires_grad=True)
    out = bag_sum(x, graphs.adjacency)
    assert out.tolist() == [[0.0, 0.0]] * 3
    out.sum().backward()
    assert x.grad.tolist() == [[0.0, 0.0]] * 3


def test_ranges_and_pointer() -> None:
    assert ranges(torch.tensor([5, 0, 9]), torch.tensor([2, 0, 3])).tolist() == [5, 6, 9, 10, 11]
    assert ranges(torch.tensor([], dtype=torch.int64), torch.tensor([], dtype=torch.int64)).tolist() == []
    assert pointer(torch.tensor([2, 0, 3])).tolist() == [0, 2, 2, 5]


@pytest.mark.parametrize("one_way", [False, True])
def test_loops_and_repeats_equal_a_store_that_has_them(one_way: bool) -> None:
    """Forward and backward, since the transposed order is derived, not sorted anew."""
    graphs = store()
    if one_way:
        graphs = graphs.with_edges(torch.tensor([True, False, True, True, True, False, True, True]))
    assert graphs.symmetric is not one_way
    bags, edges, nodes = graphs.adjacency.looped.repeated(2), len(graphs.edge_index[0]), torch.arange(8)
    both = torch.cat([torch.cat([graphs.edge_index, nodes.expand(2, 8)], 1) + copy * 8 for copy in range(2)], 1)
    x, weight, push = leaf(16, 3), leaf(2 * (edges + 8), seed=2), leaf(16, 3, seed=4).detach()
    order = (both[1] * 32 + both[0] + (both[0] == both[1]) * 16).argsort()  # by bag, the loop last
    source, target = both[:, order]
    theirs = torch.zeros_like(x).index_add(0, target, x[source] * weight[:, None])
    torch.testing.assert_close(bag_sum(x, bags, weight), theirs)
    for ours, expected in zip(
        torch.autograd.grad(bag_sum(x, bags, weight), [x, weight], push),
        torch.autograd.grad(theirs, [x, weight], push),
        strict=True,
    ):
        torch.testing.assert_close(ours, expected)
