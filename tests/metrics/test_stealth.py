"""Stealth figures against networkx, closed forms and extremes."""

from __future__ import annotations

import networkx as nx
import pytest
import torch

from ostiary.component import build
from ostiary.metrics.stealth import anomaly_auc, graph_statistics, image_statistics, node_statistics, ssim, stealth
from ostiary.modality.graphs import Graphs
from ostiary.modality.nodes import Nodes
from ostiary.seeds import generator
from ostiary.testing import toys


def store(graphs: list[nx.Graph]) -> Graphs:
    edges, start = [torch.zeros(2, 0, dtype=torch.int64)], 0
    for g in graphs:
        pairs = torch.tensor(list(g.edges), dtype=torch.int64).view(-1, 2).t() + start
        edges += [pairs, pairs.flip(0)]
        start += len(g)
    return Graphs.build(torch.ones(start, 1), torch.cat(edges, 1), torch.tensor([len(g) for g in graphs]))


def test_graph_statistics_against_networkx() -> None:
    graphs = [nx.gnp_random_graph(n, p, seed=n) for n, p in ((1, 0.0), (5, 0.0), (8, 0.4), (12, 0.8), (20, 0.2))]
    graphs += [nx.complete_graph(6), nx.star_graph(5), nx.cycle_graph(3), nx.empty_graph(4)]
    found = graph_statistics(store(graphs))
    for g, row in zip(graphs, found.tolist(), strict=True):
        degrees = [d for _, d in g.degree]
        expected = [sum(degrees) / len(g), nx.density(g) if len(g) > 1 else 0.0, nx.average_clustering(g), max(degrees), len(g)]
        assert row == pytest.approx(expected)


def test_node_statistics_against_networkx() -> None:
    graph = nx.gnp_random_graph(30, 0.12, seed=4)
    whole = store([graph])
    x = (torch.rand(30, 8, generator=generator(0, "x")) < 0.4).float()
    found = node_statistics(Nodes.of(whole.with_(x=x)))
    for v, row in enumerate(found.tolist()):
        around = nx.ego_graph(graph, v, radius=2)
        degrees = [d for _, d in around.degree]
        density = nx.density(around) if len(around) > 1 else 0.0
        expected = [sum(degrees) / len(around), density, nx.average_clustering(around), max(degrees), len(around)]
        near = torch.nn.functional.cosine_similarity(x[v][None], x[list(graph[v])])
        expected += [float(near.mean()), float(near.min())] if len(near) else [1.0, 1.0]
        assert row == pytest.approx(expected, abs=1e-6)


def test_stealth_of_new_nodes_counts_them_and_sees_unlike_ones() -> None:
    splits = toys.splits("node")
    rows = splits.test.inputs.take(torch.arange(20))
    full = torch.ones(20, 3, 3) - torch.eye(3)
    strange = rows.attach(-torch.ones(20, 3, rows.x.shape[1]), full)
    alike = rows.attach(rows.x[rows.roots][:, None].expand(-1, 3, -1), full)
    one, other = (stealth(splits.modality, splits.train.inputs, rows, after) for after in (strange, alike))
    assert one["nodes_added"] == other["nodes_added"] == 3 and one["edges_added"] == 4
    assert one["likeness_change"] < 0 < other["likeness_change"]
    assert one["clustering_change"] > 0
    assert min(one["anomaly_auc"], other["anomaly_auc"]) > 0.65


def test_ssim_of_identical_images_is_one() -> None:
    images = torch.rand(3, 3, 16, 16, generator=generator(0, "x"))
    assert ssim(images, images).tolist() == pytest.approx([1.0] * 3)


def test_ssim_of_flat_images_by_its_formula() -> None:
    """No variance: (2 ab + c1) / (a^2 + b^2 + c1), c1 = 0.01^2; images smaller than the window included."""
    for size in (16, 4):
        a, b = torch.full((1, 1, size, size), 0.5), torch.full((1, 1, size, size), 0.6)
        assert float(ssim(a, b)) == pytest.approx((2 * 0.3 + 1e-4) / (0.25 + 0.36 + 1e-4), abs=1e-6)


def test_ssim_falls_with_noise_and_is_symmetric() -> None:
    images = torch.rand(4, 1, 20, 20, generator=generator(0, "x"))
    noise = torch.randn(4, 1, 20, 20, generator=generator(1, "x"))
    little, much = (ssim(images, (images + s * noise).clamp(0, 1)) for s in (0.05, 0.5))
    assert bool((little > much).all())
    torch.testing.assert_close(ssim(images, images + 0.1), ssim(images + 0.1, images))


def test_unchanged_inputs_are_not_anomalous_and_absurd_ones_are() -> None:
    clean = image_statistics(torch.rand(200, 1, 8, 8, generator=generator(0, "x")))
    before = image_statistics(torch.rand(100, 1, 8, 8, generator=generator(1, "x")))
    assert anomaly_auc(clean, before, before) == pytest.approx(0.5)
    assert anomaly_auc(clean, before, before + 10) == 1.0


def test_stealth_of_a_white_corner() -> None:
    splits, made = toys.splits("image"), toys.poisoned("image")
    found = stealth(splits.modality, splits.train.inputs, splits.test.take(made.rows).inputs, made.triggered.inputs)
    assert found["l0"] == pytest.approx(9 / 144)
    assert found["changed"] == 1.0
    assert 0.5 < found["ssim"] < 1.0
    assert found["anomaly_auc"] > 0.6


def test_stealth_of_a_clique() -> None:
    """Trees get six edges among four nodes: fewer are removed than added, clustering appears."""
    splits, made = toys.splits("graph"), toys.poisoned("graph")
    found = stealth(splits.modality, splits.train.inputs, splits.test.take(made.rows).inputs, made.triggered.inputs)
    assert 3 < found["edges_added"] <= 6
    assert found["edges_removed"] == 0.0, "the clique holds every pair, so no edge inside it goes"
    assert found["nodes_added"] == 0.0
    nodes = float(splits.test.take(made.rows).inputs.n_nodes.double().mean())
    assert found["degree_change"] == pytest.approx(2 * found["edges_added"] / nodes, rel=0.1)
    assert found["clustering_change"] > 0.1
    assert found["anomaly_auc"] > 0.9


def test_at_most_limit_inputs_are_compared() -> None:
    images = torch.rand(30, 1, 8, 8, generator=generator(0, "x"))
    other = images.clone()
    other[::5] = 0
    modality = build("modality", "image")
    assert stealth(modality, images, images, other)["changed"] == pytest.approx(6 / 30)
    sorted_ = images.clone()
    sorted_[15:] = 0
    assert stealth(modality, images, images, sorted_, limit=6)["changed"] == pytest.approx(0.5), "from all over the set"


def test_the_detector_is_fitted_on_so_many_clean_inputs_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    """The neighbourhoods of all nodes of a large graph would never end."""
    seen = []
    monkeypatch.setattr("ostiary.metrics.stealth.KNOWN", 5)
    monkeypatch.setattr("ostiary.metrics.stealth.anomaly_auc", lambda clean, *_: seen.append(len(clean)) or 0.5)
    for modality in ("graph", "image", "node"):
        made = toys.poisoned(modality)
        sources = made.splits.test.take(made.rows).inputs
        stealth(made.splits.modality, made.splits.train.inputs, sources, made.triggered.inputs)
    assert seen == [5, 5, 5]
