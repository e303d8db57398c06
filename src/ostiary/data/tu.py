"""TU graph data sets through PyG, offline where OSTIARY_DATA holds them."""

from __future__ import annotations

import re
import shutil
import zipfile
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ostiary.component import Positive, build
from ostiary.data.cache import cached, pyg_root
from ostiary.data.dataset import Dataset
from ostiary.data.source import DataSource, data_folder, member_path
from ostiary.errors import InvalidInput
from ostiary.modality.graphs import DEGREES, Graphs, degree_features
from ostiary.modality.sparse import pointer

LARGEST = 2**34  # bytes; the largest set of the collection has 3 GB


class TU(DataSource, name="tu"):
    """A graph data set of the TU collection (Morris et al., 2020, arXiv:2007.08663), by its name in `set`.

    `attributes`: append continuous node attributes to the one-hot node labels; only: instead of them. `scaled`: attributes to
    mean 0 and deviation 1 over all nodes of the set. `classes`: keep only these labels
    (renumbered). `max_degree`: columns of the one-hot degree that stands in where a set has no node feature, or everywhere with
    `degrees` (as in the code of GCleaner and XGBD).
    Graphs without a node are dropped. Read once through PyG's `TUDataset` from OSTIARY_DATA/tu (raw folder or zip)
    or the network, then from the user's cache folder.
    """

    modalities = frozenset({"graph"})
    set: str = "AIDS"
    attributes: bool | Literal["only"] = False
    scaled: bool = False
    degrees: bool = False
    classes: tuple[int, ...] = ()
    max_degree: Positive = DEGREES

    def read(self) -> tuple[Dataset, Tensor | None]:
        if not re.fullmatch(r"[A-Za-z0-9_\-]+", self.set):
            raise InvalidInput(f"'{self.set}' is no name of a TU data set; names are like AIDS or PROTEINS_full")
        name = f"tu/{self.set}{'-attributes-first' if self.attributes else ''}.safetensors"
        tensors = cached(name, lambda: _from_pyg(self.set, bool(self.attributes)))
        width = int(tensors.pop("attributes", torch.tensor(0)))
        if self.attributes and not width:
            raise InvalidInput(f"{self.set} has no node attributes; leave attributes out")
        if self.attributes == "only":
            tensors["x"] = tensors["x"][:, :width]
        if self.scaled and width:
            tensors["x"][:, :width] = scaled(tensors["x"][:, :width])
        y = tensors.pop("y")
        x = tensors.pop("x", None)
        if x is None or self.degrees:
            x = degree_features(tensors["edge_index"], int(tensors["n_nodes"].sum()), self.max_degree)
        graphs = Graphs.build(x, tensors["edge_index"], tensors["n_nodes"], edge_attr=tensors.get("edge_attr"))
        keep = graphs.n_nodes > 0
        if self.classes:
            keep &= torch.isin(y, torch.tensor(self.classes))
        if not bool(keep.any()):
            raise InvalidInput(f"{self.set} has no graph of the classes {list(self.classes)}; it has {y.unique().tolist()}")
        rows = keep.nonzero().flatten()
        names, labels = y[rows].unique(return_inverse=True)
        graph = build("modality", "graph")
        return Dataset.of(graphs.take(rows), labels, graph, tuple(map(str, names.tolist()))), None


def scaled(x: Tensor) -> Tensor:
    """Columns to mean 0 and deviation 1; constant ones to 0."""
    return (x - x.mean(0)) / x.std(0, unbiased=False).clamp(min=1e-9)


def _from_pyg(name: str, attributes: bool) -> dict[str, Tensor]:
    """PyG's own reading of the set, as the tensors of one store."""
    from torch_geometric.datasets import TUDataset

    offline = data_folder()
    with pyg_root("TU", name) as root:
        if offline and not (offline / "tu" / name / "raw").is_dir() and (offline / "tu" / f"{name}.zip").exists():
            _unpack(offline / "tu" / f"{name}.zip", root / name / "raw", name)
        return _tensors(TUDataset(str(root), name, use_node_attr=attributes, force_reload=True), name, attributes)


def _tensors(data: Any, name: str, attributes: bool) -> dict[str, Tensor]:
    """What PyG has read, as the tensors of one store."""
    store, slices = data._data, data.slices
    sizes = slices["x"].diff() if store.x is not None else _sizes(Path(data.raw_dir), name, len(data))
    edges = slices["edge_index"].diff()
    shift = pointer(sizes)[:-1].repeat_interleave(edges)
    found = {"edge_index": store.edge_index + shift, "n_nodes": sizes, "y": store.y.flatten().long()}
    if store.x is not None:
        found["x"] = store.x.float()
    if attributes:
        found["attributes"] = torch.tensor(data.num_node_attributes)  # they come first, the one-hot labels after
    if store.edge_attr is not None:
        found["edge_attr"] = store.edge_attr.float()
    return found


def _unpack(archive: Path, folder: Path, name: str) -> None:
    """The tables of the set, by their own names alone: what else an archive holds, or where it says to put it, is left."""
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(archive) as held:
        tables = {member_path(info.filename).name: info for info in held.infolist()}
        tables = {own: info for own, info in tables.items() if re.fullmatch(rf"{name}_\w+\.txt", own)}
        if sum(info.file_size for info in tables.values()) > LARGEST:
            raise ValueError(f"{archive} unpacks to more than {LARGEST >> 30} GiB")
        for own, info in tables.items():
            with held.open(info) as source, (folder / own).open("wb") as table:
                shutil.copyfileobj(source, table)


def _sizes(folder: Path, name: str, n: int) -> Tensor:
    """Nodes per graph, from the set's own file: without features PyG keeps only their total. int64 [n]."""
    graph = np.loadtxt(folder / f"{name}_graph_indicator.txt", dtype=np.int64)
    return torch.bincount(torch.from_numpy(graph) - 1, minlength=n)
