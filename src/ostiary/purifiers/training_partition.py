"""Deep partition aggregation."""

from __future__ import annotations

import hashlib
from typing import Literal

import torch
from torch import Tensor

from ostiary.component import Positive
from ostiary.context import Context
from ostiary.data.dataset import Dataset
from ostiary.evidence import Evidence
from ostiary.modality.base import Inputs
from ostiary.purifiers.certificate import Certificate, margins
from ostiary.purifiers.certified import Certified
from ostiary.seeds import uniform


class Partitioned(Certified):
    """`parts`: disjoint parts of the training set, each with a model of its own. `hashed`: what decides on the part. By `id` a
    sample stays in its part whatever is done to it, as long as ids stay put: one changed sample spoils one model. By
    `content` (of inputs, not labels) no id is trusted, and changing a sample is removing one and adding one: two models."""

    parts: Positive = 10
    hashed: Literal["id", "content"] = "id"

    def members(self) -> int:
        return self.parts

    def spoilt(self) -> int:
        """The models that one poisoned training sample may change."""
        return 1 if self.hashed == "id" else 2

    def shares(self, train: Dataset, ctx: Context) -> list[Tensor]:
        """In an order that no other sample has a say in."""
        codes = train.ids.cpu() if self.hashed == "id" else contents(train)
        order = codes.argsort(stable=True)
        part = (uniform(ctx.key("parts"), codes[order]) * self.parts).long()
        return [order[part == i] for i in range(self.parts)]

    def refuse(self, evidence: Evidence) -> str:
        train = evidence.train
        if len(train) < 2 * self.parts:
            return f"{len(train)} training samples are too few for {self.parts} parts; give fewer parts"
        return super().refuse(evidence)


class TrainingPartition(Partitioned, name="training-partition"):
    """Trains a model on each of several disjoint parts of the training set and lets them vote.

    Source: Levine & Feizi, Deep partition aggregation, ICLR 2021, arXiv:2006.14768 (bagging: Jia, Cao & Gong, AAAI 2021,
    arXiv:2008.04495). The defender holds the suspicious training set. A poisoned training sample spoils one model (`hashed`
    content: two), so that a lead of 2r votes outlasts r of them, whatever trigger they taught. `parts` 10: ours; the paper
    takes 50 to 3000 of far larger sets.

    Differs from the paper: hashes ids by default, for attacks that change samples in place; a keyed hash.
    """

    splits_edges = False
    modalities = frozenset({"graph", "image"})

    def certify(self, votes: Tensor, inputs: Inputs) -> Certificate:
        return Certificate(votes, *margins(votes), costs={"poisoned": self.spoilt()})


def contents(data: Dataset) -> Tensor:
    """A number for every input that depends on its values alone: int64 [n]."""
    found = []
    for row in torch.arange(len(data)).split(1):
        digest = hashlib.blake2b(digest_size=8)
        for name, tensor in sorted(data.modality.pack(data.modality.take(data.inputs, row)).items()):
            digest.update(f"{name}{tuple(tensor.shape)}".encode() + tensor.cpu().contiguous().numpy().tobytes())
        found.append(int.from_bytes(digest.digest(), "little", signed=True))
    return torch.tensor(found)
