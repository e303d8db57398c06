"""Data sets and splits: what is refused, what is kept, what survives slicing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torch_geometric.data import Batch, Data

from ostiary import graphs, images, nodes, split_data
from ostiary.component import build
from ostiary.data.dataset import Dataset
from ostiary.data.source import split, stratified
from ostiary.errors import InvalidInput
from ostiary.seeds import generator

PAIR = torch.tensor([[0, 1], [1, 0]])
NO_EDGE = torch.zeros(2, 0, dtype=torch.int64)


def pair(**other: Any) -> Data:
    return Data(**{"x": torch.ones(2, 3), "edge_index": PAIR, **other})


def pixels(n: int = 4) -> Tensor:
    return torch.rand(n, 1, 4, 4, generator=generator(0, "pixels"))


# what is refused


@pytest.mark.parametrize(
    ("items", "y", "words"),
    [
        ([], [], "the data set is empty"),
        ([pair(), pair()], [0], "2 inputs but 1 labels"),
        ([pair(), pair()], [0, 0], "one class only"),
        ([pair(), pair()], [0, -1], "labels run from -1 to 0"),
        ([pair(), pair()], [0.0, 1.0], "labels must be integers"),
        ([pair(), pair()], [True, False], "labels must be integers"),
        ([pair(), pair()], None, "some graphs have no label y"),
        ([pair(y=0), pair(y=torch.tensor([0, 1]))], None, "graph 1 has 2 labels; give one whole number per graph"),
        ([pair(y=torch.tensor([[0, 0, 1]]))], None, "graph 0 has 3 labels"),
        ([Batch.from_data_list([pair(y=0), pair(y=1)])], None, "graph 0 has 2 labels"),
        ([pair(y="a"), pair(y="b")], None, "labels are str, expected whole numbers"),
        ([pair(), pair()], ["a", "b"], "labels are list of str, expected whole numbers"),
        ([pair(), pair()], [0, None], "labels are list of int, NoneType, expected whole numbers"),
        (None, [0, 1], "the graphs are NoneType, expected a list"),
        (pair(y=1), None, "the graphs are Data, expected a list"),
        ([pair(), None], [0, 1], "graph 1 is NoneType, expected PyG Data"),
        ([pair(), pair(x=torch.full((2, 3), float("nan")))], [0, 1], "features of graph 1 hold NaN or infinity"),
        ([pair(), pair(x=torch.full((2, 3), float("inf")))], [0, 1], "features of graph 1 hold NaN or infinity"),
        ([pair(), Data(x=torch.zeros(0, 3), edge_index=NO_EDGE)], [0, 1], "1 graph.* no node, the first at 1"),
        ([pair(edge_index=NO_EDGE), pair(edge_index=NO_EDGE)], [0, 1], "no graph has an edge"),
        ([pair(), pair(x=torch.ones(2, 4))], [0, 1], "different widths"),
    ],
)
def test_unusable_graphs_are_refused_in_one_sentence(items: Any, y: Any, words: str) -> None:
    with pytest.raises(InvalidInput, match=words) as caught:
        graphs(items, y)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ((pixels() * 255).to(torch.uint8), "uint8; divide by 255"),
        (pixels().double(), "float64"),
        (pixels()[:, 0], "must be"),
        (pixels().permute(0, 2, 3, 1), "channels first"),
        (pixels() * 255, "undo normalisation"),
        (pixels()[:0], "empty"),
        (pixels()[:, :, :0, :0], "images have no pixels"),
        (list(pixels()), r"images are list of Tensor, expected one tensor \[n, channels, height, width\]"),
    ],
)
def test_unusable_images_are_refused_in_one_sentence(inputs: Any, words: str) -> None:
    with pytest.raises(InvalidInput, match=words) as caught:
        images(inputs, torch.arange(len(inputs)) % 2)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("y", [["a", "b", "a", "b"], np.array(["a", "b", "a", "b"])])
def test_images_need_labels_that_are_numbers(y: Any) -> None:
    with pytest.raises(InvalidInput, match=r"labels are .*, expected whole numbers"):
        images(pixels(), y)


def test_images_may_be_an_array_of_any_layout_and_are_copied() -> None:
    turned = pixels().numpy()[..., ::-1]
    turned.flags.writeable = False
    assert torch.equal(images(turned, np.array([0, 1, 0, 1])).inputs, pixels().flip(3))


@pytest.mark.parametrize(("graph", "kind"), [([pair(y=0)], "list of Data"), (None, "NoneType")])
def test_nodes_are_of_one_graph(graph: Any, kind: str) -> None:
    with pytest.raises(InvalidInput, match=f"the graph is {kind}, expected one PyG Data"):
        nodes(graph)


def test_degrees_of_a_graph_without_features_have_as_many_columns_as_asked_for() -> None:
    bare = Data(edge_index=torch.tensor([[0, 1, 0, 2, 0, 3], [1, 0, 2, 0, 3, 0]]), num_nodes=4)
    for held in (graphs([bare, bare], [0, 1], max_degree=3), nodes(bare, [0, 1, 1, 1], max_degree=3)):
        assert held.inputs.x[:4].tolist() == [[0, 0, 1], [0, 1, 0], [0, 1, 0], [0, 1, 0]]
    for wrong in (0, -1, 2.5, True, "3"):
        for make, data, y in ((graphs, [bare, bare], [0, 1]), (nodes, bare, [0, 1, 1, 1])):
            with pytest.raises(InvalidInput, match=r"max_degree is .*, expected a whole number of columns from 1 on"):
                make(data, y, max_degree=wrong)  # type: ignore[arg-type]


def test_names_of_classes_must_fit_the_labels() -> None:
    with pytest.raises(InvalidInput, match="labels run from 0 to 2, expected 0 to 1"):
        images(pixels(), [0, 1, 2, 0], ("a", "b"))


def test_a_defender_may_lack_a_class_and_what_is_trained_on_may_not() -> None:
    few = graphs([pair()] * 6, [0, 2, 0, 2, 0, 2])
    assert few.n_classes == 3 and few.classes == ("0", "1", "2")
    with pytest.raises(InvalidInput, match="no sample has label 1, labels must not skip a class; add one"):
        split_data(few, test_rate=0.5, clean_rate=0)
    named = graphs([pair()] * 4, [0, 1, 0, 1], ("a", "b", "c"))
    with pytest.raises(InvalidInput, match="no sample of class 'c'; add one, or leave out a class that no model knows"):
        split_data(named, test_rate=0.5, clean_rate=0)


class Shots(torch.utils.data.Dataset[Any]):
    """As torchvision's sets are: by number, without an end."""

    def __init__(self, pictures: list[Any]) -> None:
        self.pictures = pictures

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, i: int) -> tuple[Any, int]:
        return self.pictures[i % len(self)], i % 2


def test_images_of_a_torch_data_set_or_loader() -> None:
    held = (pixels() * 255).round() / 255
    plain = images(held, [0, 1, 0, 1])
    by_tensor = Shots(list(held))
    for held_by in (by_tensor, [by_tensor[i] for i in range(4)], torch.utils.data.DataLoader(by_tensor, batch_size=3)):
        found = images(held_by)
        assert torch.equal(found.inputs, plain.inputs) and torch.equal(found.y, plain.y)
    grey = Shots([Image.fromarray((p[0] * 255).round().byte().numpy()) for p in held])
    assert torch.allclose(images(grey).inputs, held)
    coloured = Shots([p.convert("RGB") for p in grey.pictures])
    assert images(coloured).inputs.shape == (4, 3, 4, 4)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (torch.rand(4, 1, 4, 4), "the images are Tensor without labels"),
        (Shots([torch.rand(1, 4, 4), torch.rand(1, 5, 4)]), "images are of sizes 1 x 4 x 4, 1 x 5 x 4; resize them"),
        ([torch.rand(1, 4, 4)], r"entry 0 of the images is Tensor, expected .* \(image, label\) pairs"),
        (Shots(["a.png", "b.png"]), "images are .*, expected tensors or Pillow images"),
        ([], "the data set is empty"),
        (7, "the images are int without labels"),
    ],
)
def test_images_that_are_no_pairs_are_refused_in_one_sentence(given: Any, words: str) -> None:
    with pytest.raises(InvalidInput, match=words) as caught:
        images(given)
    assert "\n" not in str(caught.value)


def test_labels_of_the_graphs_themselves() -> None:
    data = graphs([pair(y=torch.tensor([1])), pair(y=0), pair(y=torch.tensor(1))], classes=("no", "yes"))
    assert data.y.tolist() == [1, 0, 1]
    assert data.classes == ("no", "yes")


def test_an_isolated_last_node_is_kept() -> None:
    data = graphs([pair(), Data(x=torch.ones(3, 3), edge_index=PAIR)], [0, 1])
    assert data.inputs.n_nodes.tolist() == [2, 3]


# what is kept


def test_ids_survive_slicing_and_labels_are_copied() -> None:
    data = images(pixels(), [0, 1, 0, 1])
    part = data.take(torch.tensor([3, 1]))
    assert part.ids.tolist() == [3, 1]
    other = part.relabel(torch.tensor([0]), torch.tensor([0]))
    assert (part.y.tolist(), other.y.tolist(), data.y.tolist()) == ([1, 1], [0, 1], [0, 1, 0, 1])
    assert other.take(torch.tensor([1])).ids.tolist() == [1]


@pytest.mark.parametrize("what", ["inputs", "y", "ids"])
def test_fingerprint_sees_every_value(what: str) -> None:
    data = images(pixels(), [0, 1, 0, 1])
    assert data.fingerprint() == images(pixels(), [0, 1, 0, 1]).fingerprint()
    changed = {
        "inputs": lambda: data.put(torch.tensor([3]), 1 - pixels()[3:]),
        "y": lambda: data.relabel(torch.tensor([0]), torch.tensor([1])),
        "ids": lambda: replace(data, ids=torch.tensor([0, 1, 2, 4])),
    }[what]()
    assert changed.fingerprint() != data.fingerprint()


def test_describe_says_what_an_architecture_must_know() -> None:
    assert graphs([pair(), pair()], [0, 1]).describe() == {"classes": 2, "width": 3, "mean_nodes": 2.0}
    found = images(pixels(), [0, 1, 2, 0]).describe()
    assert (found["classes"], found["channels"], found["height"], found["width"]) == (3, 1, 4, 4)


# splits


@given(
    st.lists(st.integers(0, 3), min_size=30, max_size=80).map(lambda y: [0, 1, 2, 3, *y]),
    st.floats(0.2, 0.6),
    st.floats(0.05, 0.1),
    st.sampled_from(["test", "train"]),
    st.integers(0, 3),
)
def test_splits_are_disjoint_complete_and_stratified(
    y: list[int], test_rate: float, clean_rate: float, clean_from: str, seed: int
) -> None:
    data = images(pixels(len(y)), y)
    parts = split(data, None, test_rate, clean_rate, clean_from, seed)
    ids = [part.ids.tolist() for part in (parts.train, parts.test, parts.clean)]
    assert sorted(i for part in ids for i in part) == list(range(len(y)))
    held_out = torch.tensor([*ids[1], *ids[2]] if clean_from == "test" else ids[1])
    assert abs(len(held_out) - test_rate * len(y)) <= 1
    assert abs(len(ids[2]) - clean_rate * len(y)) <= 1
    for c in range(4):
        assert abs(int((data.y[held_out] == c).sum()) - test_rate * y.count(c)) <= 1.5


def test_splits_follow_the_seed() -> None:
    data = images(pixels(60), [0, 1, 2] * 20)
    same = [split_data(data, seed=3, clean_rate=0.1).fingerprint() for _ in range(2)]
    assert same[0] == same[1]
    assert split_data(data, seed=4, clean_rate=0.1).fingerprint() != same[0]


@pytest.mark.parametrize("rates", [{"test_rate": "a"}, {"test_rate": -0.2}, {"clean_rate": None}, {"test_rate": float("nan")}])
def test_rates_must_be_numbers_from_zero_to_one(rates: Any) -> None:
    with pytest.raises(InvalidInput, match=r"_rate is .*, expected a number from 0 to 1"):
        split_data(images(pixels(), [0, 1, 0, 1]), **rates)


def test_a_given_split_is_kept() -> None:
    data, given_ = images(pixels(40), [0, 1] * 20), torch.arange(40) >= 30
    parts = split(data, given_, 0.5, 0.1, "test", 0)
    assert parts.train.ids.tolist() == list(range(30))
    assert sorted(parts.test.ids.tolist() + parts.clean.ids.tolist()) == list(range(30, 40))
    assert len(parts.clean) == 4


def test_rates_that_leave_a_part_empty() -> None:
    data = images(pixels(20), [0, 1] * 10)
    with pytest.raises(InvalidInput, match=r"clean_rate 0\.3 asks for 6 samples but the test part has 4"):
        split(data, None, 0.2, 0.3, "test", 0)
    with pytest.raises(InvalidInput, match="the train part would hold no sample"):
        split(data, None, 1.0, 0.1, "test", 0)
    with pytest.raises(InvalidInput, match="the clean part would hold no sample"):
        split(data, None, 0.2, 0.01, "test", 0)
    assert len(split(data, None, 0.2, 0.0, "test", 0).clean) == 0


@given(st.lists(st.integers(0, 5), min_size=1, max_size=60), st.floats(0, 1))
def test_stratified_totals_are_right_to_one_sample(y: list[int], rate: float) -> None:
    mask = stratified(torch.tensor(y), rate, generator(0, "x"))
    assert abs(int(mask.sum()) - rate * len(y)) <= 0.5 + 1e-6


def test_toy_data_are_the_same_everywhere_and_learnable() -> None:
    for name, modality in (("toy-graphs", "graph"), ("toy-images", "image")):
        first, again = (build("dataset", name).read()[0] for _ in range(2))
        assert first.fingerprint() == again.fingerprint()
        assert first.modality.name == modality
        other = build("dataset", {"name": name, "made_with": 1}).read()[0]
        assert isinstance(other, Dataset)
        assert other.fingerprint() != first.fingerprint()
