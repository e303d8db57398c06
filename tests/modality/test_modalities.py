"""What the two modalities do with inputs: put, pack, refuse, compare, and call modules."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ostiary.component import build
from ostiary.errors import InvalidInput
from ostiary.modality.graph import GraphModality
from ostiary.modality.graphs import Graphs
from ostiary.modality.image import ImageModality
from ostiary.models.victim import Victim

GRAPH, IMAGE = GraphModality(), ImageModality()


def two() -> Graphs:
    """A path 0-1-2 and a pair 3-4, one feature each."""
    edges = torch.tensor([[0, 1, 1, 2, 3, 4], [1, 0, 2, 1, 4, 3]])
    return Graphs.build(torch.arange(10.0).view(5, 2), edges, torch.tensor([3, 2]), edge_attr=torch.arange(6.0).view(6, 1))


# graphs


def test_put_replaces_graphs_one_for_one() -> None:
    graphs = two()
    new = Graphs.build(
        torch.full((1, 2), 7.0), torch.zeros(2, 0, dtype=torch.int64), torch.tensor([1]), edge_attr=torch.zeros(0, 1)
    )
    other = GRAPH.put(graphs, torch.tensor([0]), new)
    assert other.n_nodes.tolist() == [1, 2]
    assert other.x.tolist() == [[7.0, 7.0], [6.0, 7.0], [8.0, 9.0]]
    assert other.edge_index.tolist() == [[2, 1], [1, 2]]
    assert graphs.n_nodes.tolist() == [3, 2]
    swapped = GRAPH.put(graphs, torch.tensor([1, 0]), graphs)  # the first new one goes to place 1
    assert swapped.n_nodes.tolist() == [2, 3]
    assert swapped.x[:, 0].tolist() == [6.0, 8.0, 0.0, 2.0, 4.0]


@pytest.mark.parametrize("modality", ["graph", "image"])
def test_pack_and_unpack_are_inverse(modality: str) -> None:
    part = build("modality", modality)
    inputs: Any = two() if modality == "graph" else torch.rand(2, 1, 3, 3)
    packed = part.pack(inputs)
    again = part.pack(part.unpack(packed))
    assert packed.keys() == again.keys()
    assert all(torch.equal(packed[k], again[k]) for k in packed)


@pytest.mark.parametrize(
    ("graphs", "words"),
    [
        (
            Graphs.build(torch.ones(1, 1), torch.zeros(2, 0, dtype=torch.int64), torch.tensor([1, 0])),
            "1 graph.* no node, the first at 1",
        ),
        (Graphs.build(torch.ones(2, 1), torch.zeros(2, 0, dtype=torch.int64), torch.tensor([1, 1])), "no graph has an edge"),
        (two().with_(x=torch.tensor([[1.0, 1]] * 4 + [[float("nan"), 1]])), "features of graph 1 hold NaN"),
        (Graphs.build(torch.ones(4, 1), torch.tensor([[0, 2], [2, 0]]), torch.tensor([2, 2])), "an edge joins two graphs"),
    ],
)
def test_bad_graphs_are_refused(graphs: Graphs, words: str) -> None:
    with pytest.raises(InvalidInput, match=f"^the set: .*{words}"):
        GRAPH.validate(graphs, "the set")


def test_good_graphs_pass() -> None:
    GRAPH.validate(two(), "the set")


def test_difference_of_graphs_counts_what_changed() -> None:
    """Graph 0 loses 0-1 and gains 0-2; graph 1 gains a node with an edge; one node of graph 1 gets other features."""
    before = two()
    x = torch.cat([before.x, torch.zeros(1, 2)])
    x[4] = -1.0
    edges = torch.tensor([[0, 2, 1, 2, 3, 4, 4, 5], [2, 0, 2, 1, 4, 3, 5, 4]])
    found = GRAPH.difference(before, Graphs.build(x, edges, torch.tensor([3, 3])))
    assert {k: v.tolist() for k, v in found.items()} == {
        "nodes_added": [0.0, 1.0],
        "edges_added": [1.0, 1.0],
        "edges_removed": [1.0, 0.0],
        "nodes_with_other_features": [0.0, 1.0],
        "changed": [1.0, 1.0],
    }
    assert GRAPH.difference(before, before)["changed"].tolist() == [0.0, 0.0]


def test_sketch_of_graphs_tells_old_from_new() -> None:
    before = two()
    after = Graphs.build(before.x, torch.tensor([[0, 2, 1, 2, 3, 4], [2, 0, 2, 1, 4, 3]]), torch.tensor([3, 2]))
    first, second = GRAPH.sketch(before, after)
    assert first["edges"] == [(0, 2), (1, 2)]
    assert (first["added"], first["removed"], first["touched"]) == ([(0, 2)], [(0, 1)], [0, 1, 2])
    assert (second["added"], second["removed"], second["touched"]) == ([], [], [])


def test_pool_means_over_nodes_but_leaves_rows_per_graph_alone() -> None:
    graphs = two()
    assert GRAPH.pool(graphs.x, graphs).tolist() == [[2.0, 3.0], [7.0, 8.0]]
    rows = torch.tensor([[1.0], [2.0]])
    assert GRAPH.pool(rows, graphs).tolist() == rows.tolist()


# images


def test_put_replaces_images() -> None:
    images = torch.zeros(3, 1, 2, 2)
    other = IMAGE.put(images, torch.tensor([2, 0]), torch.stack([torch.full((1, 2, 2), 0.2), torch.full((1, 2, 2), 0.4)]))
    assert other[:, 0, 0, 0].tolist() == pytest.approx([0.4, 0.0, 0.2])
    assert images.sum() == 0


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), "uint8; divide by 255"),
        (torch.zeros(2, 3, 4, 4, dtype=torch.float64), "float64; convert them to float32"),
        (torch.zeros(2, 4, 4), r"must be \[n, channels, height, width\], got shape \(2, 4, 4\)"),
        (torch.zeros(2, 4, 4, 3), r"1 or 3 channels first, got shape \(2, 4, 4, 3\)"),
        (torch.full((2, 3, 4, 4), float("nan")), "NaN or infinity"),
        (torch.full((2, 3, 4, 4), 1.5), r"must lie in \[0, 1\], got \[1.5, 1.5\]; undo normalisation"),
        (torch.full((2, 3, 4, 4), -0.1), r"must lie in \[0, 1\]"),
    ],
)
def test_bad_images_are_refused(images: Tensor, words: str) -> None:
    with pytest.raises(InvalidInput, match=f"^the set: .*{words}"):
        IMAGE.validate(images, "the set")


def test_difference_of_images() -> None:
    """One of four pixels differs by 0.5: L-infinity and L2 0.5, L0 1/4, MSE 1/16, PSNR 10 log10(16)."""
    before = torch.zeros(2, 1, 2, 2)
    after = before.clone()
    after[0, 0, 0, 0] = 0.5
    found = IMAGE.difference(before, after)
    assert {k: v[0].item() for k, v in found.items()} == pytest.approx(
        {"linf": 0.5, "l2": 0.5, "l0": 0.25, "psnr": 12.0412, "changed": 1.0}
    )
    assert {k: v[1].item() for k, v in found.items()} == {"linf": 0.0, "l2": 0.0, "l0": 0.0, "psnr": 99.0, "changed": 0.0}


def test_describe_gives_mean_and_spread_per_channel() -> None:
    images = torch.stack([torch.zeros(4, 4), torch.ones(4, 4)])[None].repeat(2, 1, 1, 1)[:, :1]
    assert IMAGE.describe(images) == {"channels": 1, "height": 4, "width": 4, "mean": [0.0], "std": [0.0]}


def cnn() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 2, 3, 1, 1),
        nn.BatchNorm2d(2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(2, 3, 3, 1, 1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(48, 2),
    )


def test_stages_of_an_image_module_are_the_last_module_at_each_size() -> None:
    net = cnn()
    assert IMAGE.stages(net, torch.rand(2, 1, 8, 8), net) == ("2", "5")


def test_looking_for_stages_leaves_frozen_layers_frozen() -> None:
    net = cnn().train()
    net[1].eval()
    Victim(net, IMAGE).layers(torch.rand(2, 1, 8, 8))
    assert net.training
    assert not net[1].training


# calls


class ByName(nn.Module):
    def forward(self, edge_index: Tensor, x: Tensor, batch: Tensor) -> Tensor:
        assert x.is_floating_point()
        assert edge_index.shape[0] == 2
        return x.new_zeros(int(batch.max()) + 1, 2)


class ByPlace(nn.Module):
    def forward(self, a: Tensor, b: Tensor, c: Tensor, d: int = 3) -> Tensor:
        assert a.shape == (5, 2)
        assert b.shape == (2, 6)
        assert c.tolist() == [0, 0, 0, 1, 1]
        assert d == 3
        return a.new_zeros(2, 2)


class WithWeights(nn.Module):
    def forward(self, x: Tensor, edge_index: Tensor, batch: Tensor, edge_weight: Tensor | None = None) -> Tensor:
        return x.new_full((2, 2), 0.0 if edge_weight is None else float(edge_weight.sum()))


def test_modules_are_called_by_argument_name_else_by_place() -> None:
    graphs = two()
    assert GRAPH.call(ByName(), graphs).shape == (2, 2)
    assert GRAPH.call(ByPlace(), graphs).shape == (2, 2)
    assert IMAGE.call(nn.Flatten(), torch.rand(2, 1, 2, 2)).shape == (2, 4)


def test_optional_arguments_are_given_only_where_there_is_something_to_give() -> None:
    graphs = two()
    assert GRAPH.call(WithWeights(), graphs)[0, 0] == 0.0
    assert GRAPH.call(WithWeights(), graphs.with_(edge_weight=torch.full((6,), 0.5)))[0, 0] == 3.0
