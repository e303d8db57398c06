"""GraphNAD: its two terms against plain loops over graphs, its options, and victims of one layer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from expectations import GRAPHS
from ostiary.component import build
from ostiary.errors import BadSpec, Unsupported
from ostiary.evidence import Evidence
from ostiary.modality.graphs import Graphs
from ostiary.models.victim import Victim
from ostiary.purifiers.distillation import attention
from ostiary.purifiers.graphnad import GraphNAD
from ostiary.purifiers.relations import directions, node_weights, ordered, sliced_distance, slices
from ostiary.testing import toys
from ostiary.training.trainer import Trainer

WIDTHS = (5, 8, 3)


@pytest.fixture(scope="module")
def graphs() -> Graphs:
    found: Graphs = build("dataset", GRAPHS).load(0).clean.inputs.take(torch.arange(7))
    return found.with_(x=found.x.double())


def layers(graphs: Graphs, seed: int) -> list[Tensor]:
    """Activations of three widths, some channels dead, as after ReLU."""
    rng = torch.Generator().manual_seed(seed)
    return [torch.randn(len(graphs.x), d, generator=rng, dtype=torch.float64).relu() for d in WIDTHS]


def loop_weights(graphs: Graphs, degree: str) -> list[Tensor]:
    found = []
    for data in graphs.to_pyg():
        own = torch.tensor([1.0 + int((data.edge_index[1] == i).sum()) for i in range(len(data.x))], dtype=torch.float64)
        found.append({"sum": own / own.sum(), "inv": 1 / own, "none": torch.ones_like(own)}[degree])
    return found


def split(values: Tensor, graphs: Graphs) -> tuple[Tensor, ...]:
    return values.split(graphs.n_nodes.tolist())


def loop_attention(a: list[Tensor], b: list[Tensor], graphs: Graphs, p: float, degree: str) -> float:
    total = 0.0
    for h, other in zip(a, b, strict=True):
        for mine, theirs, w in zip(split(h, graphs), split(other, graphs), loop_weights(graphs, degree), strict=True):
            one, two = (w * (t.abs() ** p).sum(1) for t in (mine, theirs))
            total += float((one / one.norm() - two / two.norm()).square().sum()) / len(graphs)
    return total


def loop_relations(a: list[Tensor], b: list[Tensor], graphs: Graphs, degree: str, pairs: list[tuple[int, int]]) -> float:
    rng, found = torch.Generator().manual_seed(9), []
    for i, j in pairs:
        along = torch.randn(WIDTHS[j], 50, generator=rng, dtype=torch.float64)
        along = along / along.norm(dim=0)
        for g, w in enumerate(loop_weights(graphs, degree)):
            maps = []
            for held in (a, b):
                one, two = (F.normalize(w[:, None] * split(held[k], graphs)[g], dim=0, eps=1e-9) for k in (i, j))
                maps.append(one.t() @ two)
            apart = [(maps[0] @ u).sort().values - (maps[1] @ u).sort().values for u in along.t()]
            found.append(float(torch.stack(apart).square().mean()))
    return sum(found) / len(graphs)


@pytest.mark.parametrize("degree", ["sum", "inv", "none"])
@pytest.mark.parametrize("p", [1.0, 2.0, 3.0, 4.0])
def test_attention_equals_a_loop_over_graphs(graphs: Graphs, degree: str, p: float) -> None:
    a, b = layers(graphs, 0), layers(graphs, 1)
    found = GraphNAD(p=p, degree=degree, beta=0.0).apart(a, b, graphs, rng=torch.Generator())
    assert float(found) == pytest.approx(loop_attention(a, b, graphs, p, degree), rel=1e-9)


@pytest.mark.parametrize("degree", ["sum", "inv", "none"])
@pytest.mark.parametrize("pairs", ["all", "adjacent"])
def test_relations_equal_a_loop_over_graphs(graphs: Graphs, degree: str, pairs: Any) -> None:
    a, b = layers(graphs, 0), layers(graphs, 1)
    found = GraphNAD(degree=degree, pairs=pairs, alpha=0.0).apart(a, b, graphs, rng=torch.Generator().manual_seed(9))
    own = [(0, 1), (0, 2), (1, 2)] if pairs == "all" else [(0, 1), (1, 2)]
    assert float(found) == pytest.approx(loop_relations(a, b, graphs, degree, own), rel=1e-9)


def test_terms_add_up_by_their_weights_and_vanish_at_the_teacher(graphs: Graphs) -> None:
    a, b = layers(graphs, 0), layers(graphs, 1)

    def total(alpha: float, beta: float) -> float:
        return float(GraphNAD(alpha=alpha, beta=beta).apart(a, b, graphs, rng=torch.Generator().manual_seed(9)))

    assert total(1.0, 0.0) > 0.0 < total(0.0, 1.0)
    assert total(2.0, 3.0) == pytest.approx(2 * total(1.0, 0.0) + 3 * total(0.0, 1.0))
    assert total(0.0, 0.0) == 0.0
    assert float(GraphNAD().apart(a, a, graphs, rng=torch.Generator())) == 0.0


def test_attention_is_of_unit_norm_and_follows_the_degree(graphs: Graphs) -> None:
    flat = torch.ones(len(graphs.x), 4, dtype=torch.float64)
    found = attention(flat, graphs, 2.0, node_weights(graphs, "sum"))
    for part, w in zip(split(found, graphs), loop_weights(graphs, "sum"), strict=True):
        assert float(part.norm()) == pytest.approx(1.0)
        assert torch.allclose(part, w / w.norm())


def test_sliced_distance_knows_a_shift_and_ignores_the_order_of_points() -> None:
    rng = torch.Generator().manual_seed(0)
    points = torch.randn(3, 6, 4, generator=rng, dtype=torch.float64)
    along = directions(4, 20000, rng, points)
    shift = torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    here, back, there = ((p @ along).transpose(1, 2) for p in (points, points.flip(1), points + shift))
    assert float(sliced_distance(here, back)) == pytest.approx(0.0)
    # a shift v moves every projection by <u, v>; over unit directions in four dimensions the mean square is |v|^2 / 4
    assert float(sliced_distance(here, there)) == pytest.approx(0.25, abs=0.01)


def test_rows_are_ordered_as_torch_orders_them_and_so_are_their_gradients() -> None:
    values = torch.randn(2, 3, 70, generator=torch.Generator().manual_seed(0), requires_grad=True)
    wanted = torch.arange(70.0)
    (own,), (other,) = (
        torch.autograd.grad((rows * wanted).sum(), values) for rows in (ordered(values), values.sort(-1).values)
    )
    assert torch.equal(own, other)
    assert torch.equal(ordered(values.detach()), values.detach().sort(-1).values)


def test_relations_of_one_node_and_of_dead_channels_are_finite() -> None:
    x = torch.zeros(3, 2)
    graphs = Graphs.build(x, torch.tensor([[1, 2], [2, 1]]), torch.tensor([1, 2]))
    dead = torch.zeros(3, 4, requires_grad=True)
    weight = node_weights(graphs, "sum")
    (found,) = slices([dead, dead], [(0, 1)], [torch.eye(4)[:, :3]], graphs, weight)
    assert found.shape == (2, 3, 4)
    loss = GraphNAD().apart([dead, dead], [torch.ones(3, 4)] * 2, graphs, rng=torch.Generator())
    (grad,) = torch.autograd.grad(loss, dead)
    assert bool(torch.isfinite(grad).all())


@pytest.mark.parametrize("options", [{}, {"ce": False}, {"beta": 0.0}, {"alpha": 0.0, "pairs": "adjacent"}, {"degree": "inv"}])
def test_options_lead_to_different_students(options: dict[str, Any]) -> None:
    held, ctx = toys.evidence("graph"), toys.context("graph")
    short = {"teacher_epochs": 1, "epochs": 2}
    plain = GraphNAD(**short, alpha=0.0, beta=0.0).purify(held, ctx).state_dict()
    found = GraphNAD(**short, **options).purify(held, ctx).state_dict()
    assert any(not torch.equal(v, plain[k]) for k, v in found.items())


def test_layers_of_different_widths_and_a_single_layer() -> None:
    held, ctx = toys.evidence("graph"), toys.context("graph")

    def trained(layers: tuple[int, ...]) -> Evidence:
        victim = Victim(Narrowing(held.train.inputs.x.shape[1], layers), "graph")  # type: ignore[union-attr]
        return Evidence(Trainer(epochs=1).fit(victim, held.train, 0), clean=held.clean)  # type: ignore[arg-type]

    short = GraphNAD(teacher_epochs=1, epochs=1)
    short.purify(trained((12, 6)), ctx)
    with pytest.raises(Unsupported, match="two layers and the victim has one"):
        short.purify(trained((12,)), ctx)
    short.replace(beta=0.0).purify(trained((12,)), ctx)


def test_layers_without_a_row_per_node_are_refused() -> None:
    held, ctx = toys.evidence("graph"), toys.context("graph")
    pooled = Victim(held.victim.module, "graph", stages=("head",))
    with pytest.raises(Unsupported, match="one row per node"):
        GraphNAD().purify(Evidence(pooled, clean=held.clean), ctx)


def test_a_loss_without_terms_is_refused() -> None:
    with pytest.raises(BadSpec, match="no loss"):
        GraphNAD(ce=False, alpha=0.0, beta=0.0)


def test_the_paper_is_the_preset() -> None:
    paper = GraphNAD.preset("paper")
    assert (paper.p, paper.alpha, paper.beta, paper.degree) == (2.0, 1.0, 1.0, "sum")
    assert paper.label() == "graphnad"


class Narrowing(torch.nn.Module):
    """PyG layers of given widths."""

    def __init__(self, width: int, layers: tuple[int, ...]) -> None:
        super().__init__()
        from torch_geometric.nn import GCNConv

        ends = (width, *layers)
        self.convs = torch.nn.ModuleList(GCNConv(a, b) for a, b in zip(ends, layers, strict=False))
        self.head = torch.nn.Linear(layers[-1], 2)

    def forward(self, x: Tensor, edge_index: Tensor, batch: Tensor) -> Tensor:
        from torch_geometric.nn import global_add_pool

        for conv in self.convs:
            x = conv(x, edge_index).relu()
        return self.head(global_add_pool(x, batch))  # type: ignore[no-any-return]
