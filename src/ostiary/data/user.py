"""A user's own data: PyG graphs (many, or one with labelled nodes) or tensors, in memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ostiary.component import build
from ostiary.data.dataset import Dataset, Splits
from ostiary.data.nodes import inductive
from ostiary.data.source import split
from ostiary.errors import InvalidInput
from ostiary.modality.graphs import Graphs
from ostiary.modality.nodes import Nodes

if TYPE_CHECKING:
    from torch_geometric.data import Data


def graphs(data: Iterable[Data], y: Sequence[int] | Tensor | None = None, classes: tuple[str, ...] = ()) -> Dataset:
    """PyG graphs as a Dataset; labels from `y` or each graph's own. Raises InvalidInput in one sentence."""
    items = list(data)
    if not items:
        raise InvalidInput("the data set is empty")
    if y is None:
        if any(getattr(d, "y", None) is None for d in items):
            raise InvalidInput("some graphs have no label y; set it or pass y=")
        y = torch.cat([torch.as_tensor(d.y).flatten()[:1] for d in items])
    return Dataset.of(Graphs.from_pyg(items), torch.as_tensor(y), build("modality", "graph"), classes or None)


def nodes(data: Data, y: Sequence[int] | Tensor | None = None, classes: tuple[str, ...] = ()) -> Dataset:
    """All nodes of one PyG graph as a Dataset; labels from `y` or the graph's own. Raises InvalidInput in one sentence."""
    if y is None and getattr(data, "y", None) is None:
        raise InvalidInput("the graph has no label y; set it or pass y=")
    labels = torch.as_tensor(data.y if y is None else y)
    return Dataset.of(Nodes.of(Graphs.from_pyg([data])), labels, build("modality", "node"), classes or None)


def images(pixels: Tensor, y: Sequence[int] | Tensor, classes: tuple[str, ...] = ()) -> Dataset:
    """Images [n, c, h, w] in [0, 1] as a Dataset. Raises InvalidInput in one sentence."""
    return Dataset.of(pixels, torch.as_tensor(y), build("modality", "image"), classes or None)


def split_data(data: Dataset, *, test_rate: float = 0.2, clean_rate: float = 0.03, seed: int = 0) -> Splits:
    """Stratified train / test / clean; the clean part (a rate of all samples) comes out of the test part. Nodes are split
    inductively: the training graph holds neither of the others."""
    found = split(data, None, test_rate, clean_rate, "test", seed)
    return inductive(found) if isinstance(data.inputs, Nodes) else found
