"""Files of strangers: what they must not be able to do. That nothing is unpickled is tested where files are read."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

import msgspec
import pytest
import torch

from ostiary import cli
from ostiary.component import build
from ostiary.console import harmless
from ostiary.data.dataset import Dataset
from ostiary.errors import InvalidInput, StoreError
from ostiary.experiment.plan_file import read_file
from ostiary.experiment.record import Record, decode_record, encode
from ostiary.experiment.store import DATABASE, Store
from ostiary.models.weights import load_weights, read_weights
from ostiary.report.spreadsheets import _csv, _latex
from ostiary.terminal import screen

LONG_AGO = 1_000_000_000
HOSTILE = "\x1b]52;c;AAAA\x07\x1b[2JALL CLEAN\x9b31m"
PLAN = {"dataset": {"name": "digits"}, "victim": {"name": "convnet"}, "seed": 0}
RECORD = Record(key="k", plan=PLAN, metrics={}, seconds={}, doubts=[], status="done")


@pytest.mark.parametrize("part", ["objects/parts", "objects", "claims", DATABASE])
def test_a_store_does_not_lead_to_other_files(tmp_path: Path, part: str) -> None:
    Store(tmp_path / "store").close()
    own = tmp_path / "own"
    (own / "parts").mkdir(parents=True)
    for name in ("letter", "database", "parts/letter"):
        (own / name).write_text("mine")
        os.utime(own / name, (LONG_AGO, LONG_AGO))
    place = tmp_path / "store" / part
    place.rename(tmp_path / "aside")
    place.symlink_to(tmp_path / "aside" if part == DATABASE else own)
    with pytest.raises(StoreError, match="is a link"):
        Store(tmp_path / "store", create=False)
    assert cli.main(["show", "--store", str(tmp_path / "store")]) == 2
    assert {p.relative_to(own).as_posix() for p in own.rglob("*") if p.is_file()} == {"letter", "database", "parts/letter"}


def test_to_look_at_a_store_removes_nothing(tmp_path: Path) -> None:
    Store(tmp_path / "store").close()
    part = tmp_path / "store" / "objects" / "parts" / "0123456789abcdef"
    part.write_text("half")
    os.utime(part, (LONG_AGO, LONG_AGO))
    Store(tmp_path / "store", create=False).close()
    assert part.exists()
    Store(tmp_path / "store").close()
    assert not part.exists()


def test_an_archive_writes_its_own_tables_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = {"A": "1, 2\n2, 1\n3, 4\n4, 3\n", "graph_indicator": "1\n1\n2\n2\n", "graph_labels": "0\n1\n"}
    (tmp_path / "data" / "tu").mkdir(parents=True)
    with zipfile.ZipFile(tmp_path / "data" / "tu" / "EVIL.zip", "w") as archive:
        for name, text in (tables | {"node_labels": "0\n1\n0\n1\n"}).items():
            archive.writestr(f"EVIL/EVIL_{name}.txt", text)
        for place in ("../../../../out", "../../../tu/AIDS.safetensors", "EVIL/../../EVIL_escaped/x"):
            archive.writestr(place, "bad")
    monkeypatch.setenv("OSTIARY_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    data, _ = build("dataset", {"name": "tu", "set": "EVIL"}).read()
    assert len(data) == 2 and data.y.tolist() == [0, 1]
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and p.suffix != ".zip" and p.read_bytes() == b"bad"]


def test_no_other_program_reads_pictures(tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    for label in "ab":
        (tmp_path / label).mkdir()
        (tmp_path / label / "x.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n%%EOF\n")
    with pytest.raises(InvalidInput, match=r"cannot be read as an image .none of PNG"):
        build("dataset", {"name": "image-folder", "path": str(tmp_path)}).read()


def test_identifiers_taken_for_labels_do_not_fill_the_memory() -> None:
    with pytest.raises(InvalidInput, match="labels run from 0 to 1000000000000"):
        Dataset.of(torch.rand(3, 1, 8, 8), torch.tensor([0, 1, 10**12]), "image")


@pytest.mark.parametrize("text", ["&a [*a]", None])
def test_few_lines_do_not_stand_for_billions_of_values(tmp_path: Path, text: str | None) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12))]
    (tmp_path / "plan.yaml").write_text(f"published: {text}\n" if text else "\n".join(lines))
    with pytest.raises(InvalidInput, match="holds more than 100000 values"):
        read_file(tmp_path / "plan.yaml")


@pytest.mark.parametrize(
    "changes", [{"plan": {}}, {"plan": {"dataset": 1, "victim": 2}}, {"metrics": {"victim": 5}}, {"made": 1e20}]
)
def test_a_record_that_is_none_is_not_taken_over(changes: dict[str, object]) -> None:
    assert decode_record(encode(RECORD), "here") == RECORD
    with pytest.raises(StoreError, match="here is none of a run"):
        decode_record(encode(msgspec.structs.replace(RECORD, **changes)), "here")


def test_a_record_nested_without_end_is_a_sentence() -> None:
    whole = encode(msgspec.structs.replace(RECORD, metrics={"victim": {"x": 1}}))
    with pytest.raises(StoreError, match="corrupt"):
        decode_record(whole.replace(b'"x":1', b'"x":' + b"[" * 5000 + b"]" * 5000), "here")


def test_no_text_steers_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert harmless("a\tb\nc") == "a\tb\nc"
    screen.say(screen.console(), HOSTILE)
    cli.main(["show", "--store", f"/nowhere/{HOSTILE}"])
    shown = capsys.readouterr()
    for text in (shown.out, shown.err):
        assert "ALL CLEAN" in text and not {"\x1b", "\x07", "\x9b"} & set(text)


@pytest.mark.parametrize(
    "state",
    [
        {"weight": torch.tensor(1.0).expand(1000, 1000)},
        {"weight": torch.empty(3, 3, device="meta")},
        {"weight": torch.eye(3).to_sparse()},
        {"weight": torch.complex(torch.eye(3), torch.full((3, 3), float("nan")))},
        {0: torch.eye(3)},
    ],
)
def test_weights_that_are_none_are_refused_in_a_sentence(tmp_path: Path, state: dict[object, torch.Tensor]) -> None:
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(InvalidInput, match=r"does not hold all numbers|NaN|expected a state dict"):
        read_weights(tmp_path / "w.pt")
    with pytest.raises(InvalidInput):
        load_weights(torch.nn.Linear(3, 3, bias=False), tmp_path / "w.pt")


def test_tables_hold_no_formulas_and_no_commands() -> None:
    assert _csv([{"defence": "=1+1", "asr": -0.5}]) == "defence,asr\n'=1+1,-0.5\n"
    lines = _latex("x\n\\input{secret}", ["a"], [("", ["b"])]).splitlines()
    assert lines[0].startswith("% x") and not any(line.startswith("\\input") for line in io.StringIO("\n".join(lines)))
