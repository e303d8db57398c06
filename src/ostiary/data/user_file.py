"""Data from a user's own Python file."""

from __future__ import annotations

from dataclasses import field
from typing import Any

import torch
from torch import Tensor

from ostiary.data import user_code
from ostiary.data.dataset import Dataset, Splits
from ostiary.data.nodes import inductive
from ostiary.data.source import DataSource
from ostiary.errors import InvalidInput
from ostiary.modality.nodes import Nodes


class FromFile(DataSource, name="file"):
    """What the function `maker` in the user's file `path` returns, called with `options`.

    That is `ostiary.graphs(...)`, `ostiary.images(...)` or `ostiary.nodes(...)`, or a pair of it and a bool mask [n] of the
    test part.
    `reads`: the data files that it reads, so that results are not reused after they changed; the file itself and what it
    imports from beside it are known.
    """

    modalities = frozenset()
    path: str
    maker: str = "read"
    options: dict[str, Any] = field(default_factory=dict)
    reads: tuple[str, ...] = ()

    def content(self) -> str:
        return user_code.mark(self.path, *self.reads)

    def read(self) -> tuple[Dataset, Tensor | None]:
        found = user_code.made(self.path, self.maker, self.options, {}, "data")
        data, test = found if isinstance(found, tuple) and len(found) == 2 else (found, None)
        if not isinstance(data, Dataset):
            what = "what ostiary.graphs, ostiary.images or ostiary.nodes gives"
            raise InvalidInput(f"{self.maker} of {self.path} returned {type(data).__name__}, expected {what}")
        if test is not None and not (isinstance(test, Tensor) and test.dtype == torch.bool and test.shape == data.y.shape):
            raise InvalidInput(
                f"the test part that {self.maker} of {self.path} names is no bool mask [{len(data)}]; correct it"
            )
        return data, test

    def part(self, splits: Splits) -> Splits:
        return inductive(splits) if isinstance(splits.train.inputs, Nodes) else splits
