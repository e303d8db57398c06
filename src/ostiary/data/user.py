"""A user's own data: PyG graphs (many, or one with labelled nodes) or tensors, in memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from numbers import Real
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ostiary.component import build
from ostiary.data.dataset import Dataset, Splits
from ostiary.data.nodes import inductive
from ostiary.data.source import split
from ostiary.errors import InvalidInput
from ostiary.modality.graphs import DEGREES, Graphs
from ostiary.modality.nodes import Nodes

if TYPE_CHECKING:
    from torch_geometric.data import Data


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


def nodes(
    data: Data, y: Sequence[int] | Tensor | None = None, classes: tuple[str, ...] = (), *, max_degree: int = DEGREES
) -> Dataset:
    """All nodes of one PyG graph as a Dataset; labels from `y` or the graph's own. A graph without `x` gets degrees as in
    `graphs`. Raises InvalidInput in one sentence."""
    from torch_geometric.data import Data

    if not isinstance(data, Data):
        raise InvalidInput(f"the graph is {_kind(data)}, expected one PyG Data; give the graph itself")
    if y is None and data.y is None:
        raise InvalidInput("the graph has no label y; set it or pass y=")
    labels = _labels(data.y if y is None else y)
    return Dataset.of(
        Nodes.of(Graphs.from_pyg([data], _columns(max_degree))), labels, build("modality", "node"), classes or None
    )


def images(pixels: Tensor, y: Sequence[int] | Tensor, classes: tuple[str, ...] = ()) -> Dataset:
    """Images [n, c, h, w] in [0, 1] as a Dataset. Raises InvalidInput in one sentence."""
    held = _tensor(pixels, "images", "one tensor [n, channels, height, width]; stack them")
    return Dataset.of(held, _labels(y), build("modality", "image"), classes or None)


def split_data(data: Dataset, *, test_rate: float = 0.2, clean_rate: float = 0.03, seed: int = 0) -> Splits:
    """Stratified train / test / clean; the clean part (a rate of all samples) comes out of the test part. Nodes are split
    inductively: the training graph holds neither of the others, the clean nodes' graph no test node."""
    for name, rate in (("test_rate", test_rate), ("clean_rate", clean_rate)):
        if not isinstance(rate, Real) or not 0 <= rate <= 1:
            raise InvalidInput(f"{name} is {rate!r}, expected a number from 0 to 1; correct it")
    found = split(data, None, test_rate, clean_rate, "test", seed)
    return inductive(found) if isinstance(data.inputs, Nodes) else found


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
    return items


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
        return torch.as_tensor(values.copy() if isinstance(values, np.ndarray) else values).clone()
    except (TypeError, ValueError, RuntimeError):
        raise InvalidInput(f"{what} are {_kind(values)}, expected {expected}") from None


def _kind(values: object) -> str:
    """The name of the type, of a list with those of its entries: `list of str`."""
    inner = dict.fromkeys(type(v).__name__ for v in values) if isinstance(values, list | tuple) else ()
    return " of ".join(filter(None, (type(values).__name__, ", ".join(inner))))
