"""What every explainer owes its user beyond the contract: scores of an input are its own, and odd inputs pass."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ostiary.component import build
from ostiary.context import Context
from ostiary.errors import InvalidInput
from ostiary.explainers.base import Attribution, Explainer
from ostiary.modality.graphs import Graphs, join
from ostiary.models.victim import Victim
from ostiary.testing import toys

SMALL: dict[str, dict[str, Any]] = {
    "gnn-explainer": {"epochs": 10},
    "pg-explainer": {"epochs": 3},
    "subgraphx": {"rollouts": 4, "samples": 4},
    "integrated-gradients": {"steps": 8},
    "guided-backprop": {},
    "grad-cam": {},
}
GRAPH = tuple(SMALL)
IMAGE = ("integrated-gradients", "guided-backprop", "grad-cam")
OWN = tuple(n for n in GRAPH if n != "pg-explainer")  # it trains on all graphs together
SYMMETRIC = ("pg-explainer", "integrated-gradients", "guided-backprop", "grad-cam")  # the others draw per node


def made(name: str, **options: Any) -> Explainer:
    explainer: Explainer = build("explainer", {"name": name, **SMALL[name], **options})
    return explainer


def exact(modality: str, odd: bool) -> Victim:
    return toys.victim(modality, odd=odd).double()


def some(*places: int) -> Graphs:
    graphs: Graphs = toys.splits("graph").test.inputs.take(torch.tensor(places))
    return graphs.with_(x=graphs.x.double())


def edgeless(n: int) -> Graphs:
    like = some(0).x
    x = torch.eye(like.shape[1], dtype=like.dtype)[torch.arange(n) % like.shape[1]]
    return Graphs.build(x, torch.zeros(2, 0, dtype=torch.int64), torch.tensor([n]))


def scores(found: Attribution) -> list[Tensor]:
    return [t for t in (found.nodes, found.edges, found.features, found.pixels) if t is not None]


def assert_starts_alike(few: Attribution, many: Attribution) -> None:
    for a, b in zip(scores(few), scores(many), strict=True):
        torch.testing.assert_close(a, b[: len(a)], atol=1e-9, rtol=1e-7)
        assert a.std() > 0


@pytest.mark.parametrize("odd", [False, True])
@pytest.mark.parametrize("name", OWN)
def test_a_graph_does_not_depend_on_its_batch_or_chunk(name: str, odd: bool) -> None:
    victim, chunks = exact("graph", odd), {"chunk": 3}
    few = made(name).explain(victim, some(0, 1, 2), Context(), ids=torch.tensor([7, 8, 9]))
    many = made(name).explain(victim, some(0, 1, 2, 5, 6), Context(), ids=torch.tensor([7, 8, 9, 1, 2]))
    sliced = made(name, **chunks).explain(victim, some(0, 1, 2), Context(), ids=torch.tensor([7, 8, 9]))
    assert_starts_alike(few, many)
    assert_starts_alike(few, sliced)


@pytest.mark.parametrize("odd", [False, True])
@pytest.mark.parametrize("name", IMAGE)
def test_an_image_does_not_depend_on_its_batch_or_chunk(name: str, odd: bool) -> None:
    victim, images = exact("image", odd), toys.splits("image").test.inputs[:5].double()
    few = made(name).explain(victim, images[:3], Context())
    assert_starts_alike(few, made(name).explain(victim, images, Context()))
    assert_starts_alike(few, made(name, chunk=1).explain(victim, images[:3], Context()))


@pytest.mark.parametrize("name", GRAPH)
def test_the_class_asked_for_is_the_one_explained(name: str) -> None:
    victim, graphs = exact("graph", False), some(0, 1, 2)
    said = victim.predict(graphs).argmax(1)
    plain, same, other = (made(name).explain(victim, graphs, Context(), c) for c in (None, said, 1 - said))
    assert all(torch.equal(a, b) for a, b in zip(scores(plain), scores(same), strict=True))
    assert not torch.equal(plain.nodes, other.nodes)


@pytest.mark.parametrize("odd", [False, True])
@pytest.mark.parametrize("name", SYMMETRIC)
def test_twin_nodes_score_the_same(name: str, odd: bool) -> None:
    """Two leaves of one hub that carry the same features, in a graph whose other nodes differ."""
    links = torch.tensor([[0, 1], [0, 2], [0, 3], [3, 4]]).t()
    x = torch.rand(5, some(0).x.shape[1], dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x[2] = x[1]
    found = made(name).explain(
        exact("graph", odd), Graphs.build(x, torch.cat([links, links.flip(0)], 1), torch.tensor([5])), Context()
    )
    assert found.nodes is not None and found.edges is not None
    torch.testing.assert_close(found.nodes[1], found.nodes[2])
    # in order of target, then source: 1-0 2-0 3-0 | 0-1 | 0-2 | 0-3 4-3 | 3-4
    torch.testing.assert_close(found.edges[[0, 3]], found.edges[[1, 4]])


@pytest.mark.parametrize("odd", [False, True])
@pytest.mark.parametrize("name", GRAPH)
def test_graphs_without_edges_and_of_one_node(name: str, odd: bool) -> None:
    victim = exact("graph", odd)
    for inputs in (edgeless(1), edgeless(4), join([some(0, 1), edgeless(3), edgeless(1), some(2)])):
        found = made(name).explain(victim, inputs, Context())
        assert found.nodes is not None and found.edges is not None
        assert found.nodes.shape == (len(inputs.x),)
        assert found.edges.shape == (inputs.edge_index.shape[1],)
        assert all(bool(t.isfinite().all()) for t in scores(found))


@pytest.mark.parametrize("name", ["gnn-explainer", "pg-explainer", "subgraphx"])
def test_the_seed_decides(name: str) -> None:
    victim, graphs = exact("graph", False), some(0, 1, 2, 3)
    first, again, other = (made(name).explain(victim, graphs, Context(seed=s)) for s in (0, 0, 1))
    assert torch.equal(first.edges, again.edges)
    assert not torch.equal(first.edges, other.edges)


@pytest.mark.parametrize("name", GRAPH)
def test_gcleaner_takes_it(name: str) -> None:
    short = {"rounds": 1, "epochs": 1, "recovery_steps": 2, "restarts": 1, "nodes": 3, "flag": 0.0, "positions": "least"}
    explainer = {"name": name, **SMALL[name]}
    cleaned = build("purifier", {"name": "gcleaner", "explainer": explainer, **short}).purify(
        toys.evidence("graph").only(frozenset({"victim", "clean"}), "test"), toys.context("graph")
    )
    assert len(cleaned.notes["unlearned"]) == 2


@pytest.mark.parametrize("name", GRAPH)
def test_nothing_to_explain_is_said(name: str) -> None:
    with pytest.raises(InvalidInput, match="no input to explain"):
        made(name).explain(toys.victim("graph"), some(0, 1).take(torch.zeros(0, dtype=torch.int64)), Context())
