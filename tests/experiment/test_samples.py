"""Samples of a record as files: what the attack made comes back bit for bit, with what is known of it beside."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor
from toy_runs import TOY_IMAGES, toy

import ostiary
from ostiary import cli
from ostiary.attacks.base import Poisoned
from ostiary.component import build
from ostiary.data.dataset import Dataset
from ostiary.errors import InvalidInput, OstiaryError, StoreError, UnknownName, UnsafeFile
from ostiary.experiment.bench import Bench
from ostiary.experiment.exchange import merge, write_records
from ostiary.experiment.plan import read_plan
from ostiary.experiment.record import Record
from ostiary.experiment.runner import run
from ostiary.experiment.store import Store

GRAPHS = toy(purifiers=[])
IMAGES = toy(**TOY_IMAGES)
NODES = toy(dataset={"name": "sbm", "nodes": 120}, victim="gcn", attack={"name": "sba", "rate": 0.1}, purifiers=[])

Made = tuple[Path, Record, Poisoned, Dataset]


def made(plan: dict[str, Any], store: Path) -> Made:
    """(store, record, what its attack made, the training set before)."""
    (record,) = run(plan, store=store)
    assert record.status == "done", record.errors
    (cell,) = read_plan(plan)[0].cells()
    with Store(store) as book:
        bench = Bench(book)
        return store, record, bench.poisoned(cell), bench.splits(cell).train


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return made(GRAPHS, tmp_path_factory.mktemp("graphs"))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return made(IMAGES, tmp_path_factory.mktemp("images"))


def same(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(a, b)


def read_npz(path: Path) -> tuple[Dataset, dict[str, np.ndarray[Any, Any]]]:
    """(as the data set npz reads it, all arrays)."""
    with np.load(path, allow_pickle=False) as held:
        return build("dataset", {"name": "npz", "path": str(path)}).read()[0], dict(held)


def test_poisoned_images_come_back_bit_for_bit(images: Made, tmp_path: Path) -> None:
    store, record, poisoned, before = images
    assert ostiary.write_data(record, store, tmp_path / "new" / "a.npz") == tmp_path / "new" / "a.npz"
    (back, held), train = read_npz(tmp_path / "new" / "a.npz"), poisoned.splits.train
    assert held["images"].dtype == np.uint8 and same(back.inputs, train.inputs) and same(back.y, train.y)
    assert back.classes == train.classes and np.array_equal(held["ids"], train.ids)
    assert np.array_equal(held["poisoned"].nonzero()[0], poisoned.index) and np.array_equal(held["true_labels"], before.y)
    assert len(poisoned.index) and not torch.equal(back.y, before.y)


def test_triggered_images_bear_true_and_wanted_labels(images: Made, tmp_path: Path) -> None:
    store, record, poisoned, _ = images
    ostiary.write_data(record, store, tmp_path / "a.npz", of="triggered")
    held = read_npz(tmp_path / "a.npz")[1]
    pixels = torch.from_numpy(held["images"]).permute(0, 3, 1, 2).float() / 255
    assert same(pixels, poisoned.triggered.inputs) and np.array_equal(held["wanted"], poisoned.triggered.y)
    assert np.array_equal(held["labels"], poisoned.splits.test.y[poisoned.rows]) and "poisoned" not in held
    assert np.array_equal(held["ids"], poisoned.triggered.ids)


def test_a_plan_trains_on_what_was_taken_out(images: Made, tmp_path: Path) -> None:
    store, record, poisoned, _ = images
    paths = {of: str(ostiary.write_data(record, store, tmp_path / f"{of}.npz", of=of)) for of in ("train", "test")}
    plan = {**IMAGES, "dataset": {"name": "npz", "path": paths["train"], "test": paths["test"]}, "attack": None}
    _, again, _, train = made(plan, tmp_path / "s")
    assert (
        again.status == "done" and same(train.inputs, poisoned.splits.train.inputs) and same(train.y, poisoned.splits.train.y)
    )


def test_images_that_eight_bits_do_not_hold_stay_floats(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).random((60, 8, 8, 3), dtype=np.float32)
    np.savez(tmp_path / "mine.npz", images=pixels, labels=np.arange(60) % 3)
    plan = {**IMAGES, "dataset": {"name": "npz", "path": str(tmp_path / "mine.npz")}, "attack": None}
    store, record, _, train = made(plan, tmp_path / "s")
    ostiary.write_data(record, store, tmp_path / "a.npz")
    back, held = read_npz(tmp_path / "a.npz")
    assert held["images"].dtype == np.float32 and same(back.inputs, train.inputs)
    assert not {"poisoned", "true_labels"} & set(held), "where no attack is named nobody knows"
    with pytest.raises(UnknownName, match=r"names no attack, so no trigger is known; it has train, test and clean"):
        ostiary.write_data(record, store, tmp_path / "a.npz", of="triggered")


@pytest.mark.parametrize("of", ["train", "triggered", "test", "clean"])
def test_graphs_come_back_bit_for_bit(graphs: Made, tmp_path: Path, of: str) -> None:
    store, record, poisoned, before = graphs
    ostiary.write_data(record, store, tmp_path / "a.safetensors", of=of)
    held = load_file(tmp_path / "a.safetensors")
    data = poisoned.triggered if of == "triggered" else getattr(poisoned.splits, of)
    back = data.modality.unpack(held)
    assert replace(data, inputs=back).fingerprint() == data.fingerprint() and same(held["ids"], data.ids)
    more = {"train": {"poisoned", "true_labels"}, "triggered": {"wanted"}}.get(of, set())
    assert set(held) == {*data.modality.pack(data.inputs), "y", "ids", *more}
    if of == "train":
        assert same(held["y"], data.y) and same(held["true_labels"], before.y)
        assert same(held["poisoned"].nonzero().flatten(), poisoned.index)
    if of == "triggered":
        assert same(held["wanted"], data.y) and same(held["y"], poisoned.splits.test.y[poisoned.rows])
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        assert json.loads(file.metadata()["classes"]) == list(data.classes) and file.metadata()["modality"] == "graph"


def test_nodes_come_with_their_graph(tmp_path: Path) -> None:
    store, record, poisoned, _ = made(NODES, tmp_path / "s")
    for of, data in (("train", poisoned.splits.train), ("triggered", poisoned.triggered)):
        ostiary.write_data(record, store, tmp_path / "a.safetensors", of=of)
        held, inputs = load_file(tmp_path / "a.safetensors"), data.inputs
        assert same(held["x"], inputs.x) and same(held["edge_index"], inputs.edge_index) and same(held["roots"], inputs.roots)
        assert same(held["owner"], inputs.owner) and int((held["owner"] >= 0).sum()) > 0


def test_images_of_one_track_keep_their_numbers(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 3), dtype=np.uint8)
    tracks = np.arange(60) // 4
    np.savez(tmp_path / "mine.npz", images=pixels, labels=tracks % 3, tracks=tracks)
    plan = {**IMAGES, "dataset": {"name": "npz", "path": str(tmp_path / "mine.npz"), "test_rate": 0.4}}
    store, record, *_ = made(plan, tmp_path / "s")
    ostiary.write_data(record, store, tmp_path / "a.npz")
    held = read_npz(tmp_path / "a.npz")[1]
    same_track = held["tracks"][:, None] == held["tracks"]
    assert np.array_equal(same_track, (held["ids"] // 4)[:, None] == held["ids"] // 4)


def test_the_command_answers_as_its_neighbours_do(graphs: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store, record, *_ = graphs
    file, place = tmp_path / "a.safetensors", ["--store", str(store)]
    assert cli.main(["data", record.key[:6], str(file), *place]) == 0
    assert capsys.readouterr().out == f"train of record {record.key[:8]} in {file}\n"
    assert cli.main(["data", record.key, str(file), "--of", "clean", "--json", *place]) == 0
    assert json.loads(capsys.readouterr().out) == {"path": str(file), "of": "clean"}
    before = file.read_bytes()
    for command, words in (
        (["data", record.key, str(file), "--of", "triggerd"], "no samples 'triggerd'; did you mean 'triggered'?"),
        (["data", record.key, str(tmp_path / "a.pt")], "written as .npz or .safetensors, not as 'a.pt'"),
        (
            ["data", record.key, str(tmp_path / "a.npz")],
            "an .npz file holds images, and these are graph data; write .safetensors",
        ),
        (["data", "zz", str(file)], "has a key that starts with 'zz'"),
    ):
        assert cli.main([*command, *place]) == 2
        assert words in capsys.readouterr().err
    assert file.read_bytes() == before and list(tmp_path.iterdir()) == [file]


def test_a_failed_write_leaves_the_samples_that_were_there(
    graphs: Made, images: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("numpy.savez_compressed", full)
    monkeypatch.setattr(Path, "write_bytes", full)
    for (store, record, *_), name in ((graphs, "a.safetensors"), (images, "a.npz")):
        (tmp_path / name).write_text("mine")
        with pytest.raises(StoreError, match=r"cannot be written .No space left on device.; choose another place"):
            ostiary.write_data(record, store, tmp_path / name, of="test")
        assert (tmp_path / name).read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 2


# samples that are not there


def test_records_without_their_objects_give_what_needs_none(graphs: Made, tmp_path: Path) -> None:
    _, record, poisoned, _ = graphs
    merge([write_records([record], tmp_path / "r.jsonl", bare=True)], tmp_path / "s")
    with Store(tmp_path / "s", create=False) as book:
        (bare,) = book.records()
    with pytest.raises(StoreError, match=r"only the figures of 'victim' came here; .* merge that store, or run the plan"):
        ostiary.write_data(bare, tmp_path / "s", tmp_path / "a.safetensors")
    ostiary.write_data(bare, tmp_path / "s", tmp_path / "a.safetensors", of="clean")
    assert same(load_file(tmp_path / "a.safetensors")["y"], poisoned.splits.clean.y)


def test_a_bare_record_is_written_from_a_store_that_has_its_objects(graphs: Made, tmp_path: Path) -> None:
    store, record, poisoned, _ = graphs
    ostiary.write_data(msgspec.structs.replace(record, artefacts={}), store, tmp_path / "a.safetensors")
    assert same(load_file(tmp_path / "a.safetensors")["y"], poisoned.splits.train.y)


def test_poison_that_is_gone_is_told_with_what_to_do(tmp_path: Path) -> None:
    store, record, *_ = made(GRAPHS, tmp_path / "s")
    with Store(store) as book:
        book.object(record.artefacts["victim"]["poison"]).unlink()
    with pytest.raises(StoreError, match="is missing; run its plan again"):
        ostiary.write_data(record, store, tmp_path / "a.safetensors")
    lost = msgspec.structs.replace(record, artefacts={})
    with pytest.raises(StoreError, match=r"holds no poisoned samples of record .*; run its plan again"):
        ostiary.write_data(lost, store, tmp_path / "a.safetensors")
    with pytest.raises(StoreError, match="there is no store in"):
        ostiary.write_data(record, tmp_path / "none", tmp_path / "a.safetensors")
    assert [p.name for p in tmp_path.iterdir()] == ["s"]


def test_data_that_are_no_longer_the_same_are_refused(graphs: Made, tmp_path: Path) -> None:
    store, record, *_ = graphs
    other = msgspec.structs.replace(record, plan={**record.plan, "seed": 1})
    with pytest.raises(StoreError, match=r"'toy-graphs' is no longer what record .* was made of"):
        ostiary.write_data(other, store, tmp_path / "a.safetensors")
    untold = msgspec.structs.replace(record, metrics={"data": {}})
    with pytest.raises(StoreError, match="does not tell which data it is about"):
        ostiary.write_data(untold, store, tmp_path / "a.safetensors", of="clean")


# files of strangers


def test_a_file_of_code_is_run_on_demand_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran = tmp_path / "ran"
    (tmp_path / "data.py").write_text(
        "import pathlib\nfrom ostiary.component import build\n"
        f"pathlib.Path({str(ran)!r}).touch()\nprint('hello')\n"
        "def read():\n    return build('dataset', 'toy-graphs').load(0).train\n"
    )
    store, record, *_ = made({**GRAPHS, "dataset": {"name": "file", "path": str(tmp_path / "data.py")}}, tmp_path / "s")
    ran.unlink()
    with pytest.raises(UnsafeFile, match=r"come of Python of .*data\.py; if you trust it, say so: --trust"):
        ostiary.write_data(record, store, tmp_path / "a.safetensors")
    assert not ran.exists() and not (tmp_path / "a.safetensors").exists()
    capsys.readouterr()
    assert cli.main(["data", record.key, str(tmp_path / "a.safetensors"), "--trust", "--json", "--store", str(store)]) == 0
    assert ran.exists() and json.loads(capsys.readouterr().out)["of"] == "train"


HOSTILE: dict[str, Any] = {
    "no tensors": b"",
    "cut short": b"\x10",
    "rows far away": {"index": torch.tensor([10**6])},
    "rows of no kind": {"index": torch.tensor([0.5])},
    "no rows": {"rows": None},
    "labels of no class": {"labels": lambda old: old + 10**9},
    "fewer labels": {"labels": lambda old: old[:2]},
    "fewer wanted": {"wanted": lambda old: old[:2]},
    "features that are none": {"test.x": lambda old: old * float("nan")},
    "edges out of the graph": {"train.edge_index": lambda old: old + 10**6},
}


@pytest.mark.parametrize("how", HOSTILE)
def test_poison_that_fits_nothing_is_refused_in_one_sentence(graphs: Made, tmp_path: Path, how: str) -> None:
    store, record, *_ = graphs
    change = HOSTILE[how]
    merge([store], tmp_path / "s")
    with Store(tmp_path / "s") as book:
        row = book.stage(record.stages["victim"])
        assert row is not None
        if not isinstance(change, bytes):
            (tmp_path / "held").write_bytes(book.get_object(row.artefacts["poison"]))
            held = load_file(tmp_path / "held")
            new = {k: v(held[k]) if callable(v) else v for k, v in change.items()}
            change = save({k: v.contiguous() for k, v in (held | new).items() if v is not None})
        book.save_stage(msgspec.structs.replace(row, artefacts={**row.artefacts, "poison": book.put_object(change)}))
    for of in ("train", "triggered"):
        with pytest.raises(StoreError, match=r"poison of record .* does not fit its data; run its plan again") as caught:
            ostiary.write_data(record, tmp_path / "s", tmp_path / "a.safetensors", of=of)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "a.safetensors").exists()


def test_settings_that_are_none_are_refused(graphs: Made, tmp_path: Path) -> None:
    store, record, *_ = graphs
    for settings in ({"name": "nothing"}, {"name": "toy-graphs", "n": "many"}, {"name": "npz", "path": "/nowhere/a.npz"}):
        odd = msgspec.structs.replace(record, plan={**record.plan, "dataset": settings})
        with pytest.raises(OstiaryError):
            ostiary.write_data(odd, store, tmp_path / "a.safetensors", of="clean")
    with pytest.raises(InvalidInput, match="give the file such an ending"):
        ostiary.write_data(record, store, tmp_path / "a", of="clean")
