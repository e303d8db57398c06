"""Dataset and Splits: immutable, labels apart from inputs, ids that survive slicing."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ostiary.component import build
from ostiary.errors import InvalidInput
from ostiary.modality.base import Inputs, Modality

MOST = 1_000_000  # classes without names: a hash or an identifier taken for a label must not fill the memory


@dataclass(frozen=True, eq=False)
class Dataset:
    """n inputs with labels y (int64 [n] in [0, len(classes))) and ids (int64 [n], unique within a source).

    kinds: names of the node feature columns where they are a one-hot of something with a name (elements), for drawings.
    """

    inputs: Inputs
    y: Tensor
    modality: Modality
    classes: tuple[str, ...]
    ids: Tensor
    kinds: tuple[str, ...] = ()

    @staticmethod
    def of(inputs: Inputs, y: Tensor, modality: Modality | str, classes: tuple[str, ...] | None = None) -> Dataset:
        """A checked data set of a modality or the name of one; of some classes there may be no sample, as where a defender has
        few. Raises InvalidInput for bad inputs and labels, or a single class."""
        modality = build("modality", modality)
        assert isinstance(modality, Modality)
        n = modality.count(inputs)
        y = torch.as_tensor(y).flatten()
        if len(y) != n:
            raise InvalidInput(f"there are {n} inputs but {len(y)} labels; give one label per input")
        if n == 0:
            raise InvalidInput("the data set is empty")
        if y.is_floating_point() or y.dtype == torch.bool:
            raise InvalidInput(f"labels must be integers 0, 1, ...; got {y.dtype}")
        y = y.long()
        n_classes = len(classes) if classes else min(int(y.max()) + 1, MOST)
        if int(y.min()) < 0 or int(y.max()) >= n_classes:
            raise InvalidInput(f"labels run from {int(y.min())} to {int(y.max())}, expected 0 to {n_classes - 1}")
        if len(y.unique()) < 2:
            raise InvalidInput("the data set has one class only; a backdoor needs a class to lead away from")
        modality.validate(inputs, "the data set")
        names = classes or tuple(str(c) for c in range(n_classes))
        return Dataset(inputs, y, modality, names, torch.arange(n))

    def __len__(self) -> int:
        return len(self.y)

    @property
    def n_classes(self) -> int:
        return len(self.classes)

    def take(self, index: Tensor) -> Dataset:
        return replace(self, inputs=self.modality.take(self.inputs, index), y=self.y[index], ids=self.ids[index])

    def put(self, at: Tensor, inputs: Inputs) -> Dataset:
        """The same rows, other inputs at `at`."""
        return replace(self, inputs=self.modality.put(self.inputs, at, inputs))

    def relabel(self, at: Tensor, y: Tensor) -> Dataset:
        other = self.y.clone()
        other[at] = y
        return replace(self, y=other)

    def balanced(self) -> Dataset:
        """With the rows of small classes repeated, whole, until each class has about as many as the largest."""
        counts = torch.bincount(self.y, minlength=self.n_classes)
        times = (counts.max() / counts.clamp(min=1)).round().long()
        return self.take(torch.arange(len(self), device=self.y.device).repeat_interleave(times[self.y]))

    def move(self, where: torch.device) -> Dataset:
        return replace(self, inputs=self.modality.move(self.inputs, where), y=self.y.to(where), ids=self.ids.to(where))

    def describe(self) -> dict[str, Any]:
        """What an architecture must know of its data."""
        return {"classes": self.n_classes, **self.modality.describe(self.inputs)}

    def fingerprint(self) -> str:
        """A hash of every value."""
        digest = hashlib.blake2b(digest_size=16)
        for name, tensor in sorted({**self.modality.pack(self.inputs), "y": self.y, "ids": self.ids}.items()):
            digest.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class Splits:
    """train: the model's. test: the judge's. clean: the defender's own small set, disjoint from both."""

    train: Dataset
    test: Dataset
    clean: Dataset

    def with_part(self, part: str, data: Dataset) -> Splits:
        return replace(self, **{part: data})

    @property
    def modality(self) -> Modality:
        return self.train.modality

    def fingerprint(self) -> str:
        return "-".join(part.fingerprint()[:12] for part in (self.train, self.test, self.clean))


Trial = Callable[[Dataset, int], Inputs | None]
"""From samples, any number of them, and a class: their inputs with the trigger that was recovered for it, None without one."""
