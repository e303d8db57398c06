"""Results that travel: files of records, stores brought together, and what a run need not compute after that."""

from __future__ import annotations

import lzma
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from toy_runs import TOY, TUNED, check_whole, facts, kinds, toy, watch

from ostiary import cli
from ostiary.errors import StoreError
from ostiary.experiment import exchange, runner
from ostiary.experiment.exchange import merge, read_records, write_records
from ostiary.experiment.origin import Origin
from ostiary.experiment.record import LEFT_OUT, Record, StageRow, latest
from ostiary.experiment.runner import run
from ostiary.experiment.selection import of_plan
from ostiary.experiment.store import Store
from ostiary.report.html import write_report

PLAN = toy(detectors=["spectral"], least_lift=0.01, trainer={"epochs": 10})


def told(records: list[Record]) -> list[dict[str, Any]]:
    """All that a record says of its cell, bar who put it together and when."""
    left_out = ("made", "git", "host", "versions", "passed")
    return [{f: getattr(r, f) for f in r.__struct_fields__ if f not in left_out} for r in records]


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Record]]:
    folder = tmp_path_factory.mktemp("first")
    return folder, run(PLAN, store=folder)


@pytest.mark.parametrize("name", ["records.jsonl", "deep/er/records.jsonl.xz"])
def test_records_come_back_from_a_file_as_they_were(first: tuple[Path, list[Record]], tmp_path: Path, name: str) -> None:
    path = write_records(first[1], tmp_path / name)
    assert read_records(path) == first[1] == read_records(first[0])
    assert path.read_bytes().startswith(b"\xfd7zXZ" if name.endswith("xz") else b"{")
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_bare_file_tells_a_run_as_much_in_less_space(first: tuple[Path, list[Record]], tmp_path: Path) -> None:
    whole, bare = tmp_path / "whole.jsonl", tmp_path / "bare.jsonl"
    write_records(first[1], whole)
    assert cli.main(["export", str(bare), "--bare", "--store", str(first[0])]) == 0
    assert bare.stat().st_size < whole.stat().st_size
    for found, record in zip(read_records(bare), first[1], strict=True):
        seconds = {stage: round(took, 3) for stage, took in record.seconds.items()}
        assert record.artefacts and found == msgspec.structs.replace(record, artefacts={}, seconds=seconds)
    merge([bare], tmp_path / "second")
    watch(tmp_path / "second")
    again = run(PLAN, store=tmp_path / "second")
    assert [r.metrics for r in again] == [r.metrics for r in first[1]] and not kinds(tmp_path / "second")
    more = run({**PLAN, "purifiers": [TUNED, {"name": "fine-tune", "epochs": 1}]}, store=tmp_path / "second")
    assert not more[0].errors and len(more[0].metrics["purifiers"]) == 2
    assert kinds(tmp_path / "second") == {"data": 1, "victim": 1, "control": 1, "purifier": 1, "verdict": 1}


def test_a_run_takes_over_what_a_file_tells_and_computes_only_what_is_new(
    first: tuple[Path, list[Record]], tmp_path: Path
) -> None:
    path = write_records(first[1], tmp_path / "records.jsonl.xz")
    store = tmp_path / "second"
    found = merge([path], store)
    assert (found.records, found.stages, found.told) == (1, 0, 8)
    again = merge([path], store)
    assert (again.records, again.stages, again.told) == (0, 0, 0)
    watch(store)

    assert told(run(PLAN, store=store)) == told(first[1])
    assert not kinds(store), "nothing was computed"
    more = run({**PLAN, "purifiers": [TUNED, {"name": "fine-tune", "epochs": 1}]}, store=store)
    assert kinds(store) == {"victim": 1, "control": 1, "purifier": 1, "verdict": 1}, "the victim, the new purifier"
    label = "fine-tune(epochs=2)"
    assert more[0].metrics["purifiers"][label] == first[1][0].metrics["purifiers"][label]
    alone = run({**PLAN, "purifiers": [TUNED, {"name": "fine-tune", "epochs": 1}]}, store=tmp_path / "alone")
    assert told(more)[0]["metrics"] == told(alone)[0]["metrics"] and set(more[0].doubts) == set(alone[0].doubts)


def test_a_report_of_records_alone_has_its_tables_and_says_what_is_missing(
    first: tuple[Path, list[Record]], tmp_path: Path
) -> None:
    merge([write_records(first[1], tmp_path / "records.jsonl")], tmp_path / "s")
    page = write_report(read_records(tmp_path / "s"), tmp_path / "s", tmp_path / "page.html").read_text(encoding="utf-8")
    assert "fine-tune(epochs=2)" in page and "merge that store" in page and "run its plan again" not in page
    merge([first[0]], tmp_path / "s")
    page = write_report(read_records(tmp_path / "s"), tmp_path / "s", tmp_path / "page.html").read_text(encoding="utf-8")
    assert "merge that store" not in page


def test_where_the_attack_failed_elsewhere_nothing_is_computed_either(tmp_path: Path) -> None:
    plan = toy(attack={**TOY["attack"], "rate": 0.0}, least_lift=0.01)
    before = run(plan, store=tmp_path / "a")
    merge([write_records(before, tmp_path / "r.jsonl")], tmp_path / "b")
    watch(tmp_path / "b")
    assert told(run(plan, store=tmp_path / "b")) == told(before)
    assert not kinds(tmp_path / "b")
    page = write_report(before, tmp_path / "a", tmp_path / "page.html").read_text(encoding="utf-8")
    assert "were left out" in page and "stages failed" not in page
    everything = run({**plan, "least_lift": 0.0}, store=tmp_path / "b")
    assert everything[0].metrics["purifiers"]


def test_stores_of_two_machines_give_what_one_gives(tmp_path: Path) -> None:
    plan = toy(detectors=["spectral"])
    whole = run({**plan, "seeds": [0, 1]}, store=tmp_path / "one")
    for seed in (0, 1):
        run({**plan, "seeds": [seed]}, store=tmp_path / f"part{seed}")
    found = merge([tmp_path / "part0", tmp_path / "part1"], tmp_path / "merged")
    assert (found.records, found.stages, found.told) == (2, 16, 0)
    check_whole(tmp_path / "merged")
    watch(tmp_path / "merged")
    assert facts(run({**plan, "seeds": [0, 1]}, store=tmp_path / "merged")) == facts(whole)
    assert not kinds(tmp_path / "merged")


def test_stages_with_their_models_replace_figures_alone_and_finished_records_failed_ones(tmp_path: Path) -> None:
    done = run(toy(), store=tmp_path / "a")
    file = write_records(done, tmp_path / "r.jsonl")
    merge([file], tmp_path / "b")
    assert merge([tmp_path / "a"], tmp_path / "b").stages == 5, "all but the two of which nothing but figures was made"
    with Store(tmp_path / "b") as book:
        assert all(book.stage(key) is not None for key in done[0].stages.values())
        failed = Record(**{f: getattr(done[0], f) for f in done[0].__struct_fields__} | {"status": "failed", "made": 9e9})
        book.save_record(failed)
    assert merge([file], tmp_path / "b").records == 1
    merge([write_records([failed], tmp_path / "f.jsonl")], tmp_path / "b")
    assert read_records(tmp_path / "b")[0].status == "done"


def test_a_failed_stage_gives_way_and_a_damaged_or_unwritable_one_is_not_taken_for_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = run(toy(), store=tmp_path / "a")
    verdict = done[0].stages["verdict fine-tune(epochs=2)"]
    with Store(tmp_path / "b") as book:
        book.save_stage(StageRow(verdict, "verdict", "verdict", {}, [], "failed", 0.0, 0.0, error="it failed here"))
    merge([write_records(done, tmp_path / "r.jsonl")], tmp_path / "b")
    watch(tmp_path / "b")
    assert told(run(toy(), store=tmp_path / "b")) == told(done) and not kinds(tmp_path / "b")

    with Store(tmp_path / "a") as book:
        book.object(done[0].artefacts["victim"]["weights"]).write_bytes(b"damaged")
    assert merge([tmp_path / "a"], tmp_path / "c").stages == 6, "all but the victim"

    def full(self: Store, data: bytes) -> str:
        raise StoreError("the disk is full")

    monkeypatch.setattr(Store, "put_object", full)
    with pytest.raises(StoreError, match="the disk is full"):
        merge([tmp_path / "a"], tmp_path / "d")


@pytest.mark.parametrize(
    ("content", "name", "said"),
    [
        (b"{}\n", "r.jsonl", "corrupt or from another version"),
        (b"\x80\x04\x95 a pickle", "r.jsonl", "corrupt or from another version"),
        (b"no archive", "r.jsonl.xz", "no file of records"),
        (b"{}", "r.jsonl", "corrupt or from another version"),
        (lzma.compress(b"{}" * 100)[:-20], "r.jsonl.xz", "cut short; fetch it again"),
        (b"x" * 2000, "r.jsonl", "which is no record"),
        (None, "r.jsonl", "cannot be read"),
    ],
)
def test_a_file_that_holds_no_records_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None, name: str, said: str
) -> None:
    monkeypatch.setattr(exchange, "LONGEST", 1000)
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(StoreError, match=said) as error:
        merge([path], tmp_path / "store")
    assert "\n" not in str(error.value) and not (tmp_path / "store").exists()


def test_a_file_that_breaks_off_in_its_last_line_is_told_so(first: tuple[Path, list[Record]], tmp_path: Path) -> None:
    path = write_records(first[1] * 2, tmp_path / "r.jsonl")
    one, two = path.read_bytes().splitlines(keepends=True)
    for end in (1, 2, two.index(b"0.") + 2, len(two) // 2, len(two) - 2):
        path.write_bytes(one + two[:end])
        with pytest.raises(StoreError, match="was cut short; fetch it again"):
            read_records(path)
    path.write_bytes(one[:-9] + b"\n" + two)
    with pytest.raises(StoreError, match=r"in line 1 of .* is corrupt"):
        read_records(path)
    path.write_bytes(one + two[:-1])
    assert read_records(path) == first[1] * 2, "nothing but the end of the line is missing"


def test_the_command_exports_and_merges(
    first: tuple[Path, list[Record]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, store = tmp_path / "records.jsonl.xz", tmp_path / "s"
    assert cli.main(["export", str(file), "--store", str(first[0])]) == 0
    assert f"1 records in {file}" in capsys.readouterr().out.replace("\n", "")
    assert cli.main(["merge", str(file), "--store", str(store), "--json"]) == 0
    assert '"told": 8' in capsys.readouterr().out
    assert cli.main(["show", "--store", str(store)]) == 0
    assert "fine-tune" in capsys.readouterr().out
    assert cli.main(["merge", "--store", str(store)]) == 2
    assert "which results?" in capsys.readouterr().err
    assert cli.main(["export", str(file), "zzz", "--store", str(store)]) == 2


def test_a_plan_chooses_its_records_and_gives_them_its_own_title_and_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, file = tmp_path / "s", tmp_path / "of-plan.jsonl"
    figure = {**PLAN, "title": "Injection ratio", "seeds": [0, 1], "published": {"none": {"asr": 91.0}}}
    run(figure, store=store)
    run({**PLAN, "title": "Holding rate"}, store=store)  # shares seed 0 with the other
    assert sorted(r.title for r in read_records(store)) == ["Holding rate", "Injection ratio"]
    found = of_plan(read_records(store), figure)
    assert [(r.plan["seed"], r.title, r.published) for r in found] == [
        (s, "Injection ratio", figure["published"]) for s in (0, 1)
    ]

    source = tmp_path / "figure.yaml"
    source.write_bytes(msgspec.yaml.encode(figure))
    assert cli.main(["export", str(file), "--plan", str(source), "--store", str(store)]) == 0
    assert read_records(file) == found
    assert cli.main(["report", "--plan", str(source), "--store", str(store), "--output", str(tmp_path / "r.html")]) == 0
    assert "Holding rate" not in (tmp_path / "r.html").read_text(encoding="utf-8")
    capsys.readouterr()
    assert cli.main(["show", "--plan", str(source), "--store", str(store)]) == 0
    assert "Injection ratio" in capsys.readouterr().out
    source.write_bytes(msgspec.yaml.encode({**figure, "seeds": [7]}))
    assert cli.main(["export", str(file), "--plan", str(source), "--store", str(store)]) == 2
    assert "is of the plan" in capsys.readouterr().err


def test_a_record_that_leaves_defences_out_does_not_take_the_place_of_one_that_has_them(tmp_path: Path) -> None:
    plan = toy(attack={**TOY["attack"], "rate": 0.0})
    run(plan, store=tmp_path / "a")
    run({**plan, "least_lift": 0.9}, store=tmp_path / "b")  # newer
    merge([tmp_path / "a", tmp_path / "b"], tmp_path / "merged")
    (found,) = read_records(tmp_path / "merged")
    assert found.metrics["purifiers"] and not any(d.startswith(LEFT_OUT) for d in found.doubts)


def test_a_run_that_computes_nothing_leaves_the_record_as_it_was_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (before,) = run(toy(), store=tmp_path)
    monkeypatch.setattr(runner, "present", lambda *_: Origin(git="another", device="cpu", host={"machine": "another"}))
    assert run(toy(), store=tmp_path) == [before]


def test_of_records_of_files_that_changed_the_newest_counts() -> None:
    base = {"plan": {"seed": 0}, "metrics": {}, "seconds": {}, "doubts": []}
    old, new = (Record(key=k, status=s, made=m, **base) for k, s, m in (("a", "done", 1.0), ("b", "failed", 2.0)))
    assert latest([old, new]) == [new]


def test_records_of_other_files_do_not_stay_beside_the_newest_where_defences_differ() -> None:
    base = {"metrics": {}, "seconds": {}, "doubts": [], "status": "done"}
    rows = (("a", 0, [], "one"), ("b", 0, ["fine-tune"], "two"), ("c", 0, ["nad"], "two"), ("d", 1, [], "one"))
    plans = [(k, {"seed": s, "purifiers": p, "detectors": []}, {"judge": judge}) for k, s, p, judge in rows]
    records = [Record(key=k, plan=plan, stages=stages, **base) for k, plan, stages in plans]
    assert [r.key for r in latest(records)] == ["b", "c", "d"]


def test_a_file_that_is_put_back_brings_its_record_back(tmp_path: Path) -> None:
    place, plan = tmp_path / "mine.npz", {**TOY, "dataset": {"name": "npz", "path": str(tmp_path / "mine.npz")}}
    plan |= {"victim": {"name": "preact-resnet", "width": 4, "blocks": [1]}, "attack": "badnets", "purifiers": []}
    rng = np.random.default_rng(0)
    states = [{"x": rng.random((n, 3, 8, 8), dtype=np.float32), "y": np.arange(n) % 3} for n in (60, 90)]
    keys = []
    for number in (0, 1, 0):
        np.savez(place, **states[number])
        keys.append(run(plan, store=tmp_path / "s")[0].key)
    assert keys[0] == keys[2] != keys[1]
    assert [r.key for r in latest(read_records(tmp_path / "s"))] == [keys[2]]


def test_a_record_of_another_machine_does_not_part_one_from_its_models(
    first: tuple[Path, list[Record]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, key = tmp_path / "s", first[1][0].key
    merge([first[0]], store)
    digests = {stage: dict.fromkeys(held, "ab" * 20) for stage, held in first[1][0].artefacts.items()}
    other = msgspec.structs.replace(first[1][0], artefacts=digests, made=9e9)  # it rounds otherwise, and is newer
    assert merge([write_records([other], tmp_path / "other.jsonl")], store).records == 0
    assert cli.main(["weights", key, str(tmp_path / "w.safetensors"), "--store", str(store)]) == 0
    capsys.readouterr()


def test_weights_that_stayed_elsewhere_are_told_so(
    first: tuple[Path, list[Record]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    merge([write_records(first[1], tmp_path / "records.jsonl")], tmp_path / "s")
    key, place = first[1][0].key, ["--store", str(tmp_path / "s")]
    asked = ["weights", key, "w.safetensors"], ["scores", key, "s.csv", "--of", "spectral"], ["data", key, "d.safetensors"]
    for command in asked:
        assert cli.main([*command, *place]) == 2
        assert "came here; what it made stayed in the store that computed it: merge that store" in capsys.readouterr().err
