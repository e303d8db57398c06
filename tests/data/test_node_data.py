"""Node data: the block model, citation graphs, a user's own graph, and the inductive split."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from torch_geometric.data import Data

from ostiary.component import build
from ostiary.data.user import nodes, split_data
from ostiary.errors import InvalidInput

SMALL: dict[str, Any] = {"name": "sbm", "nodes": 300, "sizes": [1, 2, 3], "edges": 500, "words": 50, "length": 6}


def source(**options: Any) -> Any:
    return build("dataset", {**SMALL, **options})


def test_block_model_has_the_size_it_is_asked_for() -> None:
    data, _ = source().read()
    graph = data.inputs.graphs
    assert torch.bincount(data.y).tolist() == [50, 100, 150]
    assert graph.x.shape == (300, 50) and set(graph.x.unique().tolist()) == {0.0, 1.0}
    a, b = graph.edge_index
    assert graph.edge_index.shape[1] == 1000 and bool((a != b).all()) and graph.symmetric
    assert len((a * 300 + b).unique()) == 1000
    assert float(graph.x.sum(1).max()) <= 6


@pytest.mark.parametrize("homophily", [0.0, 0.5, 1.0])
def test_block_model_keeps_its_homophily(homophily: float) -> None:
    data, _ = source(homophily=homophily, edges=800).read()
    a, b = data.inputs.edge_index
    assert abs(float((data.y[a] == data.y[b]).double().mean()) - homophily) < 0.06


def test_block_model_of_cora_size() -> None:
    data, _ = build("dataset", "sbm").read()
    assert torch.bincount(data.y).tolist() == [351, 217, 418, 818, 426, 298, 180]
    a, b = data.inputs.edge_index
    assert len(a) == 2 * 5278 and abs(float((data.y[a] == data.y[b]).double().mean()) - 0.81) < 0.02
    assert 17 < float(data.inputs.x.sum(1).mean()) < 21


def test_block_model_of_too_many_edges_takes_those_there_are() -> None:
    data, _ = source(nodes=6, sizes=[1, 1], edges=50, homophily=0.5).read()
    assert data.inputs.edge_index.shape[1] <= 30


def test_block_model_is_seeded_and_split_by_another_seed() -> None:
    assert source().read()[0].fingerprint() == source().read()[0].fingerprint()
    assert source(made_with=1).read()[0].fingerprint() != source().read()[0].fingerprint()
    assert source().load(0).fingerprint() != source().load(1).fingerprint()


def test_training_sees_no_test_node() -> None:
    whole, splits = source().read()[0], source(clean_rate=0.1).load(0)
    train, test, clean = splits.train, splits.test, splits.clean
    assert (len(train), len(test), len(clean)) == (240, 30, 30)
    assert len(train.inputs.x) == 240 and torch.equal(train.inputs.x, whole.inputs.x[train.ids])
    inside = torch.isin(whole.inputs.edge_index, train.ids).all(0)
    assert torch.equal(train.ids[train.inputs.edge_index], whole.inputs.edge_index[:, inside])
    assert torch.equal(test.inputs.roots, test.ids) and len(test.inputs.x) == 300
    for part in (test, clean):
        assert torch.equal(part.y, whole.y[part.ids])
    assert len(torch.cat([train.ids, test.ids, clean.ids]).unique()) == 300


def test_a_defender_sees_no_test_node() -> None:
    whole, splits = source().read()[0], source(clean_rate=0.1).load(0)
    clean, known = splits.clean, torch.cat([splits.train.ids, splits.clean.ids]).sort().values
    assert len(known) == 270 and torch.equal(clean.inputs.x, whole.inputs.x[known])
    assert torch.equal(known[clean.inputs.roots], clean.ids)
    inside = torch.isin(whole.inputs.edge_index, known).all(0)
    assert torch.equal(known[clean.inputs.edge_index], whole.inputs.edge_index[:, inside])


def test_own_graph_is_split_alike() -> None:
    x, y = torch.rand(40, 5), torch.arange(40) % 2
    edges = torch.stack([torch.arange(39), torch.arange(1, 40)])
    data = nodes(Data(x=x, edge_index=torch.cat([edges, edges.flip(0)], 1), y=y), classes=("a", "b"))
    splits = split_data(data, test_rate=0.25, clean_rate=0.1)
    assert data.classes == ("a", "b") and len(splits.train.inputs.x) == len(splits.train) == 30
    assert len(splits.test.inputs.x) == 40
    with pytest.raises(InvalidInput, match="no label y"):
        nodes(Data(x=x, edge_index=edges))


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("OSTIARY_DATA", str(tmp_path / "data"))
    return tmp_path


def raw_files(folder: Path) -> np.ndarray:
    """600 nodes in Planetoid's own format: 4 labelled, 596 known in training, 4 test nodes. Their features."""
    folder.mkdir(parents=True)
    x = np.eye(600, 5, dtype=np.float32) + 0.5
    y = np.eye(2, dtype=np.int32)[np.arange(600) % 2]
    rows = {"x": slice(0, 4), "allx": slice(0, 596), "tx": slice(596, 600)}
    for name, at in rows.items():
        (folder / f"ind.cora.{name}").write_bytes(pickle.dumps(sp.csr_matrix(x[at])))
        (folder / f"ind.cora.{name.replace('x', 'y')}").write_bytes(pickle.dumps(y[at]))
    graph = {i: [(i + 1) % 600, (i - 1) % 600] for i in range(600)}
    graph[7].append(7)  # a self-loop, which is left out
    (folder / "ind.cora.graph").write_bytes(pickle.dumps(graph))
    (folder / "ind.cora.test.index").write_text("596\n597\n598\n599\n", encoding="utf-8")
    return x


def test_planetoid_is_read_once_and_only_if_told_to(own_cache: Path) -> None:
    x = raw_files(own_cache / "data" / "planetoid" / "Cora" / "raw")
    with pytest.raises(InvalidInput, match="are pickles, which can run code"):
        build("dataset", "planetoid").read()
    data, _ = build("dataset", {"name": "planetoid", "unpickle": True}).read()
    assert torch.equal(data.inputs.x, torch.from_numpy(x))
    assert data.y.tolist() == [0, 1] * 300 and data.inputs.edge_index.shape[1] == 1200
    again, _ = build("dataset", "planetoid").read()  # from the cache, which holds no pickle
    assert again.fingerprint() == data.fingerprint()


def test_planetoid_that_is_nowhere_is_one_sentence(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr("torch_geometric.datasets.Planetoid.download", offline)
    with pytest.raises(InvalidInput, match=r"'PubMed' is neither in .* nor could it be fetched: no network"):
        build("dataset", {"name": "planetoid", "set": "PubMed", "unpickle": True}).read()
    with pytest.raises(InvalidInput, match="no name of a Planetoid data set"):
        build("dataset", {"name": "planetoid", "set": "../x"}).read()


RING = torch.tensor([[0, 1, 2, 3, 4, 5], [1, 2, 3, 4, 5, 0]])


def ring(**other: Any) -> Data:
    """Six nodes of two classes in a ring, of which the last has no label."""
    both = torch.cat([RING, RING.flip(0)], 1)
    return Data(**{"x": torch.eye(6), "edge_index": both, "y": torch.tensor([0, 1, 0, 1, 0, -1]), **other})


def test_nodes_without_a_label_stay_around_those_with_one() -> None:
    data = nodes(ring())
    assert data.ids.tolist() == data.inputs.roots.tolist() == [0, 1, 2, 3, 4] and len(data.inputs.x) == 6
    splits = split_data(data, test_rate=0.4, clean_rate=0)
    assert len(splits.train) + len(splits.test) == 5
    own = splits.train.inputs
    assert len(own.x) == len(splits.train) + 1, "no test node, and the one that belongs to no part"
    assert torch.equal(own.x[own.roots], torch.eye(6)[splits.train.ids])


@pytest.mark.parametrize("rows", [torch.tensor([True, True, False, False, True, False]), [4, 0, 1], np.array([0, 1, 4])])
def test_nodes_of_a_mask_or_by_number(rows: Any) -> None:
    data = nodes(ring(), rows=rows)
    assert data.ids.tolist() == [0, 1, 4] and data.y.tolist() == [0, 1, 0] and len(data.inputs.x) == 6


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (torch.ones(5, dtype=torch.bool), "rows is a mask of 5 nodes, but there are 6"),
        ([0, 6], "rows are not all numbers of nodes, which run from 0 to 5"),
        ([0.5, 1.0], "rows are not all numbers of nodes"),
        ([0, 5], "node 5 of rows has no label; leave it out"),
        ("all", "rows are str, expected a bool mask of the nodes or their numbers"),
    ],
)
def test_rows_that_are_no_nodes_are_refused_in_one_sentence(rows: Any, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        nodes(ring(), rows=rows)
