"""Where and with what stages were computed: kept by each, told once by a record, and doubted where it differs."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import msgspec
import pytest
from toy_runs import toy

from ostiary import cli
from ostiary.experiment import origin, runner
from ostiary.experiment.exchange import merge, write_records
from ostiary.experiment.origin import UNLIKE, UNTOLD, Origin, differences, in_words, joined, united, unlike
from ostiary.experiment.record import Record, StageRow, encode, seeds_unlike
from ostiary.experiment.runner import run
from ostiary.experiment.store import Store
from ostiary.report.html import write_report

GPU = Origin(
    {"python": "3.12.3", "torch": "2.11.0", "numpy": "2.1.0"},
    "abc",
    "cuda",
    {"system": "Linux", "processor": "Xeon", "cores": 16, "accelerator": "NVIDIA H200"},
)
LAPTOP = Origin({"python": "3.12.3", "torch": "2.13.0+cpu", "numpy": "2.1.0"}, "abc", "cpu", {"system": "Linux", "cores": 2})
EARLIER = ("data", "control", "victim", "judge", "relearning")
SAID = "purifier x: cpu, torch 2.13.0+cpu, cores 2; the rest: cuda (NVIDIA H200), torch 2.11.0, processor Xeon, cores 16"


def computed_with(found: Origin, store: Path, *, tell: bool = True) -> None:
    """As if all stages of a store came from there; not `tell`: from a program whose stages did not say."""
    with Store(store) as book:
        for key in book.stage_keys():
            row = book.told(key)
            assert row is not None
            book.save_stage(msgspec.structs.replace(row, origin=found if tell else UNTOLD))


def computed_on_two(store: Path, monkeypatch: pytest.MonkeyPatch) -> Record:
    """A victim of one machine, and a purifier of another."""
    run(toy(purifiers=[]), store=store)
    computed_with(GPU, store)
    monkeypatch.setattr(runner, "present", lambda *_: LAPTOP)
    (record,) = run(toy(), store=store)
    return record


def test_what_is_the_same_for_all_is_told_once() -> None:
    assert united({"data": GPU, "victim": GPU}) == (GPU, [])
    assert united({}) == (UNTOLD, [])
    common, apart = united({"data": GPU, "purifier x": LAPTOP, "victim": GPU})
    assert common == Origin({"python": "3.12.3", "numpy": "2.1.0"}, "abc", "", {"system": "Linux"})
    assert [group.stages for group in apart] == [["data", "victim"], ["purifier x"]]
    assert apart[1].origin == Origin({"torch": "2.13.0+cpu"}, "", "cpu", {"cores": 2})
    assert [joined(common, group.origin) for group in apart] == [GPU, LAPTOP]
    assert differences(apart) == SAID


def test_what_a_stage_of_an_older_program_did_not_tell_stays_unknown() -> None:
    common, apart = united({"data": UNTOLD, "victim": LAPTOP})
    assert common == UNTOLD
    assert differences(apart) == f"data: not recorded; victim: {in_words(LAPTOP)}"
    assert unlike("stages", {"data": [UNTOLD], "victim": [LAPTOP]}) == []


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (Origin({"torch": "2.13.0"}, "def", "cpu:0", {"cores": 4}), ""),
        (Origin({"torch": "2.13.0+cu130"}, "", "cuda:1"), "a: torch 2.13.0 on cuda; the rest: torch 2.13.0 on cpu"),
        (Origin({"torch": "2.11.0"}, "", "cpu"), "a: torch 2.11.0 on cpu; the rest: torch 2.13.0 on cpu"),
    ],
)
def test_only_another_torch_or_kind_of_device_is_doubted(other: Origin, said: str) -> None:
    found = unlike("stages", {"b": [LAPTOP], "a": [other], "c": [LAPTOP]})
    assert found == ([f"{UNLIKE}{said}"] if said else [])


def test_rows_and_records_from_before_still_read(tmp_path: Path) -> None:
    (record,) = run(toy(purifiers=[]), store=tmp_path)
    old: dict[str, Any] = msgspec.json.decode(encode(record))
    assert old.pop("apart") == []
    found = msgspec.json.decode(encode(old), type=Record)
    assert found == record and found.origin("victim") == record.common != UNTOLD
    row = msgspec.json.decode(encode(StageRow("k", "data", "data", {}, [], "done", 0.5, 1.0)))
    del row["origin"]
    assert msgspec.json.decode(encode(row), type=StageRow).origin == UNTOLD


@pytest.mark.parametrize("workers", [1, 2])
def test_every_stage_keeps_its_origin_also_one_that_failed(tmp_path: Path, workers: int) -> None:
    (record,) = run(toy(purifiers=[{"name": "failing"}]) if workers == 1 else toy(), store=tmp_path, workers=workers)
    here = record.common
    assert here.device == "cpu" and here.versions["torch"] and here.host["cores"] and not record.apart
    with Store(tmp_path) as book:
        rows = [row for key in record.stages.values() if (row := book.stage(key)) is not None]
    assert {row.status for row in rows} == {"done"} | ({"failed"} if workers == 1 else set())
    assert all(row.origin == here for row in rows)


def test_a_run_that_goes_on_elsewhere_is_told_by_stage_and_doubted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "s"
    record = computed_on_two(store, monkeypatch)
    new = [name for name in record.stages if name not in EARLIER[:4]]
    assert [record.origin(name) for name in EARLIER[:4]] == [GPU] * 4
    assert [record.origin(name) for name in new] == [LAPTOP] * 3
    assert record.versions["python"] == "3.12.3" and "torch" not in record.versions and record.device == ""
    (doubt,) = [d for d in record.doubts if d.startswith(UNLIKE)]
    assert doubt.endswith(f"{', '.join(new)}: torch 2.13.0 on cpu; the rest: torch 2.11.0 on cuda")

    said = f"{', '.join(new)}: cpu, torch 2.13.0+cpu, cores 2; the rest: cuda (NVIDIA H200), torch 2.11.0"
    assert cli.main(["show", record.key, "--store", str(store)]) == 0
    assert f"not the same for all stages: {said}" in " ".join(capsys.readouterr().out.split())
    page = write_report([record], store, tmp_path / "page.html").read_text(encoding="utf-8")
    assert f"Not the same for all stages: {said}" in page and doubt in page
    assert "see below" in page


@pytest.mark.parametrize("bare", [False, True])
def test_a_file_carries_it_to_where_the_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bare: bool) -> None:
    before = computed_on_two(tmp_path / "a", monkeypatch)
    merge([write_records([before], tmp_path / "r.jsonl", bare=bare)], tmp_path / "b")
    (again,) = run(toy(), store=tmp_path / "b")
    assert (again.common, again.apart, again.doubts) == (before.common, before.apart, before.doubts)
    computed_with(LAPTOP, tmp_path / "b")
    (after,) = run(toy(detectors=["spectral"]), store=tmp_path / "b")
    assert after.common == LAPTOP and not after.apart
    assert not [d for d in after.doubts if d.startswith(UNLIKE)], "it is about a record, and not taken for the judge's"


def test_a_store_from_before_keeps_what_its_record_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (before,) = run(toy(), store=tmp_path)
    computed_with(UNTOLD, tmp_path, tell=False)
    monkeypatch.setattr(runner, "present", lambda *_: GPU)
    assert run(toy(), store=tmp_path) == [before]


def test_seeds_of_one_cell_from_unlike_machines_are_doubted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    merge([Path(write_records(run(toy(seeds=[0]), store=tmp_path / "a"), tmp_path / "0.jsonl"))], tmp_path / "s")
    computed_with(GPU, tmp_path / "s")
    records = run(toy(seeds=[0, 1]), store=tmp_path / "s")
    torch = records[1].versions["torch"].partition("+")[0]
    said = f"not all seeds were computed alike: seed 0: torch 2.11.0 on cuda; seed 1: torch {torch} on cpu"
    assert seeds_unlike(records) == [said] and not seeds_unlike(records[:1]) and not any(r.apart for r in records)
    assert cli.main(["show", "--store", str(tmp_path / "s")]) == 0
    assert f"- {said}" in " ".join(capsys.readouterr().out.split())
    assert said in write_report(records, tmp_path / "s", tmp_path / "page.html").read_text(encoding="utf-8")


def test_the_processor_goes_by_the_name_of_its_model(tmp_path: Path) -> None:
    listed = tmp_path / "cpuinfo"
    listed.write_text("processor\t: 0\nmodel\t\t: 1\nmodel name\t: AMD EPYC 9654\n\nmodel name\t: another\n", encoding="utf-8")
    assert origin._processor(listed) == "AMD EPYC 9654"
    listed.write_text("processor\t: 0\nBogoMIPS\t: 50.00\n", encoding="utf-8")
    assert origin._processor(listed) == origin._processor(tmp_path / "none") == platform.processor()


def test_the_accelerator_goes_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device: f"NVIDIA of {device}")
    with Store(tmp_path) as book:
        near, far = (runner._Job(book, [], device, lambda _: None, lambda _: None).origin for device in ("cpu", "cuda:1"))
    assert far.host == near.host | {"accelerator": "NVIDIA of cuda:1"}
    assert in_words(far).startswith("cuda:1 (NVIDIA of cuda:1), ")
