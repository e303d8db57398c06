"""A user's own data: PyG graphs (many, or one with labelled nodes) or tensors, in memory."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import replace
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ostiary.component import build
from ostiary.data.dataset import Dataset, Splits
from ostiary.data.nodes import inductive
from ostiary.data.source import split
from ostiary.devices import plain_defaults
from ostiary.errors import InvalidInput
from ostiary.modality.graphs import DEGREES, Graphs
from ostiary.modality.nodes import Nodes

if TYPE_CHECKING:
    from torch.utils.data import Dataset as TorchDataset
    from torch_geometric.data import Data


@plain_defaults()
def graphs(
    data: Iterable[Data], y: Sequence[int] | Tensor | None = None, classes: tuple[str, ...] = (), *, max_degree: int = DEGREES
) -> Dataset:
    """PyG graphs as a Dataset; labels from `y` or each graph's own. Graphs without `x` get a one-hot of their degree, of
    `max_degree` columns, the last for all that is larger. Raises InvalidInput in one sentence."""
    items = _listed(data)
    if not items:
        raise InvalidInput("the data set is empty")
    labels = _labels(y) if y is not None else torch.cat([_own_label(i, d) for i, d in enumerate(items)])
    return Dataset.of(Graphs.from_pyg(items, _columns(max_degree)), labels, build("modality", "graph"), classes or None)


@plain_defaults()
def nodes(
    data: Data,
    y: Sequence[int] | Tensor | None = None,
    classes: tuple[str, ...] = (),
    *,
    rows: Tensor | Sequence[int] | None = None,
    max_degree: int = DEGREES,
) -> Dataset:
    """Nodes of one PyG graph as a Dataset; labels from `y` or the graph's own. `rows`: which nodes, a bool mask as PyG's
    `train_mask` or numbers; default: those with a label of 0 and more. The others stay in the graph around them. A graph
    without `x` gets degrees as in `graphs`. Raises InvalidInput in one sentence."""
    from torch_geometric.data import Data

    if not isinstance(data, Data):
        raise InvalidInput(f"the graph is {_kind(data)}, expected one PyG Data; give the graph itself")
    data = _near(data)
    if y is None and data.y is None:
        raise InvalidInput("the graph has no label y; set it or pass y=")
    labels, store = _labels(data.y if y is None else y).flatten(), Graphs.from_pyg([data], _columns(max_degree))
    if len(labels) != len(store.x):
        raise InvalidInput(f"there are {len(store.x)} nodes but {len(labels)} labels; give one label per node, -1 for none")
    chosen = _chosen(rows, labels)
    found = Dataset.of(Nodes.of(store, chosen), labels[chosen], build("modality", "node"), classes or None)
    return replace(found, ids=chosen)


@plain_defaults()
def images(
    pixels: Tensor | Iterable[tuple[Any, int | Tensor]] | TorchDataset[Any],
    y: Sequence[int] | Tensor | None = None,
    classes: tuple[str, ...] = (),
) -> Dataset:
    """Images [n, c, h, w] in [0, 1] with their labels as a Dataset; or, without `y`, pairs of an image (a tensor [c, h, w] in
    [0, 1] or a Pillow image) and its label, such as a torch Dataset holds, or batches of them, as a DataLoader gives.
    Raises InvalidInput in one sentence."""
    if y is None:
        pixels, y = _stacked(pixels)
    held = _tensor(pixels, "images", "one tensor [n, channels, height, width]; stack them, or give (image, label) pairs alone")
    return Dataset.of(held, _labels(y), build("modality", "image"), classes or None)


@plain_defaults()
def split_data(data: Dataset, *, test_rate: float = 0.2, clean_rate: float = 0.03, seed: int = 0) -> Splits:
    """Stratified train / test / clean; the clean part (a rate of all samples) comes out of the test part. Nodes are split
    inductively: the training graph holds neither of the others, the clean nodes' graph no test node."""
    for name, rate in (("test_rate", test_rate), ("clean_rate", clean_rate)):
        if not isinstance(rate, Real) or not 0 <= rate <= 1:
            raise InvalidInput(f"{name} is {rate!r}, expected a number from 0 to 1; correct it")
    found = split(data, None, test_rate, clean_rate, "test", seed)
    return inductive(found) if isinstance(data.inputs, Nodes) else found


def _chosen(rows: Tensor | Sequence[int] | None, labels: Tensor) -> Tensor:
    """Numbers of nodes, each once, in order: int64 [n]."""
    known = labels >= 0 if not labels.is_floating_point() else torch.ones(len(labels), dtype=torch.bool)
    if rows is None:
        return known.nonzero().flatten()
    held = _tensor(rows, "rows", "a bool mask of the nodes or their numbers").flatten()
    if held.dtype == torch.bool and len(held) != len(labels):
        raise InvalidInput(f"rows is a mask of {len(held)} nodes, but there are {len(labels)}; give one entry per node")
    found = held.nonzero().flatten() if held.dtype == torch.bool else held.unique()
    if found.is_floating_point() or (len(found) and not 0 <= int(found.min()) <= int(found.max()) < len(labels)):
        raise InvalidInput(f"rows are not all numbers of nodes, which run from 0 to {len(labels) - 1}; correct them")
    if not bool(known[found].all()):
        raise InvalidInput(f"node {int(found[~known[found]][0])} of rows has no label; leave it out")
    return found.long()


def _stacked(pairs: object) -> tuple[Tensor, Tensor]:
    """Images [n, c, h, w] and labels [n] of (image, label) pairs or batches."""
    wanted = "a tensor with its labels, or (image, label) pairs, as a torch Dataset or DataLoader gives"
    if isinstance(pairs, Tensor | np.ndarray) or not (hasattr(pairs, "__iter__") or hasattr(pairs, "__getitem__")):
        raise InvalidInput(f"the images are {_kind(pairs)} without labels, expected {wanted}")
    found: list[Tensor] = []
    labels: list[Tensor] = []
    entries = pairs if hasattr(pairs, "__iter__") else (pairs[i] for i in range(len(pairs)))  # type: ignore[index,arg-type]
    for pair in entries:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise InvalidInput(f"entry {len(found)} of the images is {_kind(pair)}, expected {wanted}")
        image = pair[0] if isinstance(pair[0], Tensor) else _of_pillow(pair[0])
        found += list(image) if image.ndim == 4 else [image]
        labels.append(_labels(pair[1]).flatten())
    sizes = list(dict.fromkeys(" x ".join(map(str, image.shape)) for image in found))
    if len(sizes) > 1:
        raise InvalidInput(f"images are of sizes {', '.join(sizes[:3])}; resize them to what the model takes")
    if not found:
        raise InvalidInput("the data set is empty")
    return torch.stack(found), torch.cat(labels)


def _of_pillow(image: object) -> Tensor:
    pixels = _tensor(np.asarray(image), "images", "tensors or Pillow images")
    return (pixels if pixels.ndim == 3 else pixels[:, :, None]).permute(2, 0, 1).float() / 255


def _columns(max_degree: object) -> int:
    if not isinstance(max_degree, int) or isinstance(max_degree, bool) or max_degree < 1:
        raise InvalidInput(f"max_degree is {max_degree!r}, expected a whole number of columns from 1 on; correct it")
    return max_degree


def _listed(data: Iterable[Data]) -> list[Data]:
    from torch_geometric.data import Data

    if isinstance(data, Data) or not (hasattr(data, "__iter__") or hasattr(data, "__getitem__")):
        raise InvalidInput(f"the graphs are {_kind(data)}, expected a list; give one PyG Data per graph")
    items = list(data)
    for i, item in enumerate(items):
        if not isinstance(item, Data):
            raise InvalidInput(f"graph {i} is {_kind(item)}, expected PyG Data; give one Data per graph")
    return [_near(item) for item in items]


def _near(data: Data) -> Data:
    """The graph on the CPU, a copy of one that is elsewhere."""
    here = all(value.device.type == "cpu" for _, value in data if isinstance(value, Tensor))
    return data if here else copy.copy(data).cpu()


def _own_label(i: int, data: Data) -> Tensor:
    """The label that graph i holds itself: [1]."""
    if data.y is None:
        raise InvalidInput("some graphs have no label y; set it or pass y=")
    label = _labels(data.y).flatten()
    if len(label) != 1:
        wanted = "one whole number per graph (class numbers, not one-hot; graphs, not batches)"
        raise InvalidInput(f"graph {i} has {len(label)} labels; give {wanted}")
    return label


def _labels(y: object) -> Tensor:
    return _tensor(y, "labels", "whole numbers 0, 1, ...; number the classes")


def _tensor(values: object, what: str, expected: str) -> Tensor:
    try:  # a copy, for torch takes no array that is reversed, and what is the caller's may change
        return torch.as_tensor(values.copy() if isinstance(values, np.ndarray) else values).to("cpu", copy=True)
    except (TypeError, ValueError, RuntimeError):
        raise InvalidInput(f"{what} are {_kind(values)}, expected {expected}") from None


def _kind(values: object) -> str:
    """The name of the type, of a list with those of its entries: `list of str`."""
    inner = dict.fromkeys(type(v).__name__ for v in values) if isinstance(values, list | tuple) else ()
    return " of ".join(filter(None, (type(values).__name__, ", ".join(inner))))
