"""Runs: what is computed once, what is computed again, and what is left when processes die or stages fail."""

from __future__ import annotations

import json
import logging
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import weakref
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy_runs import (
    ERRORS,
    LINUX,
    TOY,
    TUNED,
    Child,
    Plan,
    alive,
    check_whole,
    facts,
    kinds,
    rows,
    run_as,
    saved,
    toy,
    wait_for,
    watch,
)

from ostiary.data.source import DataSource
from ostiary.errors import StoreError
from ostiary.experiment import runner
from ostiary.experiment.bench import Bench
from ostiary.experiment.compute import Result
from ostiary.experiment.plan import read_plan
from ostiary.experiment.record import SKIPPED, Record
from ostiary.experiment.runner import Progress, run
from ostiary.experiment.stages import Stage, stages_of
from ostiary.experiment.store import SEAL, Store
from ostiary.models.victim import Victim

SWEEP = toy(detectors=["spectral"], seeds=[0, 1])  # 2 times 7 stages


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The facts of SWEEP, run in one process from start to end."""
    return facts(run(SWEEP, store=tmp_path_factory.mktemp("undisturbed")))


def again(plan: Plan, store: Path, **options: Any) -> tuple[list[Record], Counter[str]]:
    """(records, kinds computed) of a further run."""
    before = kinds(store)
    return run(plan, store=store, **options), kinds(store) - before


# computed once


def test_many_purifiers_on_one_victim_train_it_once_and_attacks_share_the_control(tmp_path: Path) -> None:
    watch(tmp_path)
    purifiers = [{"name": "fine-tune", "epochs": n} for n in range(1, 7)]
    plan = toy(purifiers=purifiers, detectors=["spectral"], vary={"attack.rate": [0.1, 0.2]})
    records = run(plan, store=tmp_path)
    assert kinds(tmp_path) == {
        "data": 1, "control": 1, "victim": 2, "judge": 2, "detector": 2, "relearning": 2, "purifier": 12, "verdict": 12
    }  # fmt: skip
    assert set(saved(tmp_path).values()) == {1}
    first, second = (r.stages for r in records)
    assert first["control"] == second["control"]
    assert first["victim"] != second["victim"]
    assert len(records[0].metrics["purifiers"]) == 6
    assert [r.status for r in records] == ["done", "done"]


def test_a_changed_option_recomputes_what_depends_on_it_alone(tmp_path: Path) -> None:
    watch(tmp_path)
    plan = toy(detectors=["spectral"])
    first = run(plan, store=tmp_path)
    second, computed = again(plan, tmp_path)
    assert computed == {}
    assert facts(second) == facts(first)
    everything = {"data", "control", "victim", "judge", "detector", "relearning", "purifier", "verdict"}
    for changes, expected in (
        (["purifiers=[{name: fine-tune, epochs: 3}]"], {"purifier", "verdict"}),
        (["detectors=[{name: spectral, eps: 0.2}]"], {"detector"}),
        (["purifiers=[]"], set()),
        (["attack.rate=0.3"], everything - {"data", "control"}),
        (["trainer.epochs=1"], everything - {"data"}),
        (["seeds=[7]"], everything),
        (["title=other"], set()),
    ):
        _, computed = again(plan, tmp_path, changes=changes)
        assert computed == dict.fromkeys(expected, 1), changes


PIXELS = """
import torch

class make(torch.nn.Sequential):
    def __init__(self, channels, height, classes):
        super().__init__(torch.nn.Flatten(), torch.nn.Linear(channels * height * height, classes))
"""


def test_changed_data_are_computed_again(tmp_path: Path) -> None:
    def write(shade: int) -> None:
        pixels = np.full((60, 8, 8, 1), shade, dtype=np.uint8)
        pixels[::2, 2:6, 2:6] = 200
        np.savez(tmp_path / "mine.npz", images=pixels, labels=np.arange(60) % 2)

    plan = {
        "dataset": {"name": "npz", "path": str(tmp_path / "mine.npz"), "clean_rate": 0.1},
        "victim": {"name": "file", "path": str(tmp_path / "pixels.py"), "stages": ["1"]},
        "trainer": {"epochs": 1},
        "attack": {"name": "badnets", "rate": 0.2},
    }
    (tmp_path / "pixels.py").write_text(PIXELS, encoding="utf-8")
    write(10)
    watch(tmp_path / "store")
    first = run(plan, store=tmp_path / "store")
    assert first[0].status == "done", first[0].errors
    assert again(plan, tmp_path / "store")[1] == {}
    write(90)
    second, computed = again(plan, tmp_path / "store")
    assert computed == {"data": 1, "control": 1, "victim": 1, "judge": 1}
    assert second[0].metrics["data"] != first[0].metrics["data"]
    assert second[0].key != first[0].key


MODEL = """
import torch

class make(torch.nn.Module):
    def __init__(self, width, classes):
        super().__init__()
        self.head = torch.nn.Linear(width, classes)

    def forward(self, x, batch):
        return self.head(x.new_zeros(int(batch.max()) + 1, x.shape[1]).index_add(0, batch, x * SCALE))
"""


def test_a_changed_model_file_is_trained_again_on_the_same_data(tmp_path: Path) -> None:
    model = tmp_path / "mine.py"
    model.write_text(MODEL.replace("SCALE", "1"), encoding="utf-8")
    plan = {**TOY, "victim": {"name": "file", "path": str(model)}}
    watch(tmp_path / "store")
    assert run(plan, store=tmp_path / "store")[0].status == "done"
    model.write_text(MODEL.replace("SCALE", "2"), encoding="utf-8")
    assert again(plan, tmp_path / "store")[1] == {"control": 1, "victim": 1, "judge": 1}


def test_a_file_that_changes_during_the_run_is_noticed(tmp_path: Path) -> None:
    model = tmp_path / "mine.py"
    model.write_text(MODEL.replace("SCALE", "1"), encoding="utf-8")
    plan = {**TOY, "victim": {"name": "file", "path": str(model)}, "purifiers": [{"name": "meddling", "path": str(model)}]}
    record = run(plan, store=tmp_path / "store")[0]
    assert set(record.errors) == {"purifier " + (label := f"meddling(path={model})"), f"verdict {label}"}
    assert record.errors[f"purifier {label}"].startswith("the files of the data set or the model changed during the run")


# killed, and gone on with


def kill_at(point: str, number: int, plan: Plan, store: str) -> list[dict[str, Any]]:
    """`run`, killed just before the given number of what `point` names."""
    left = [number]

    def count(*_: Any) -> None:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def counted(function: Any) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            count()
            return function(*args, **options)

        return call

    connect = sqlite3.connect

    def traced(*args: Any, **options: Any) -> sqlite3.Connection:
        db = connect(*args, **options)
        db.set_trace_callback(count)
        return db

    if point == "statement":
        sqlite3.connect = traced  # type: ignore[assignment]
    elif point == "compute":
        runner.compute = counted(runner.compute)
    else:
        setattr(os, point, counted(getattr(os, point)))
    return facts(run(plan, store=store))


def kept(before: dict[str, tuple[str, float]], after: dict[str, tuple[str, float]]) -> bool:
    """Whether every finished stage is still there and was not made again."""
    return all(after.get(key) == found for key, found in before.items())


@pytest.mark.parametrize(("point", "step"), [("fsync", 3), ("replace", 4), ("compute", 5), ("statement", 37), ("utime", 5)])
def test_a_kill_at_any_point_loses_no_finished_stage(
    tmp_path: Path, undisturbed: list[dict[str, Any]], point: str, step: int
) -> None:
    watch(tmp_path)
    kills, chance = 0, random.Random(f"{point} {step}")
    for i in range(20):  # later and later: reading what is done takes its part of the statements
        before = rows(tmp_path)
        child = Child(kill_at, point, step + chance.randrange(step) + i * step // 3, SWEEP, str(tmp_path))
        child.process.join(60)
        check_whole(tmp_path)
        assert kept(before, rows(tmp_path))
        if child.process.exitcode == 0:
            break
        assert child.process.exitcode == -signal.SIGKILL
        kills += 1
        child.end()
    assert kills > 1
    assert child.result() == undisturbed
    assert set(saved(tmp_path).values()) == {1}, "a finished stage was computed again"


@pytest.mark.parametrize("workers", [1, 2])
def test_a_kill_at_a_random_moment_loses_no_finished_stage(
    tmp_path: Path, undisturbed: list[dict[str, Any]], workers: int
) -> None:
    store, mark, chance = tmp_path / "store", tmp_path / "mark", random.Random(workers)
    watch(store)
    for _ in range(4):
        before = rows(store)
        mark.unlink(missing_ok=True)
        child = Child(run_as, str(mark), SWEEP, str(store), workers)
        wait_for(mark.exists)
        time.sleep(chance.uniform(0.0, 0.5))
        pids = [int(pid) for pid in mark.read_text(encoding="utf-8").split()] if workers > 1 else []
        child.kill()
        wait_for(lambda pids=pids: not any(alive(p) for p in pids), seconds=5.0)  # type: ignore[misc]
        check_whole(store)
        assert kept(before, rows(store))
    assert facts(run(SWEEP, store=store, workers=workers)) == undisturbed
    assert set(saved(store).values()) == {1}


OWN = """
import torch
from ostiary.detectors.base import Detector, Findings

class Sizes(Detector, name="sizes"):
    modalities, needs, about = frozenset({"graph"}), frozenset({"train"}), "train"

    def examine(self, evidence, ctx):
        return Findings(evidence.train.inputs.n_nodes.float())
"""


@pytest.mark.slow
def test_a_file_of_methods_reaches_worker_processes(tmp_path: Path) -> None:
    (tmp_path / "sizes_of_mine.py").write_text(OWN, encoding="utf-8")
    options = ["dataset=toy-graphs", "victim=gin", "attack=sub-ba", "detectors=sizes", "trainer.epochs=1", "seeds=[0,1]"]
    command = [sys.executable, "-m", "ostiary", "run", "--set", *options, "--workers", "2", "--store", "store", "--json"]
    own = {**os.environ, "OSTIARY_PLUGINS": "sizes_of_mine.py"}
    done = subprocess.run(command, cwd=tmp_path, env=own, capture_output=True, text=True, check=True)
    assert ["auroc" in r["metrics"]["detectors"]["sizes"] for r in json.loads(done.stdout)] == [True, True]


@pytest.mark.slow
@pytest.mark.skipif(not LINUX, reason="reads /proc")
def test_the_command_line_killed_with_two_workers_leaves_no_process(tmp_path: Path, undisturbed: list[dict[str, Any]]) -> None:
    import yaml

    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(SWEEP), encoding="utf-8")
    command = [sys.executable, "-m", "ostiary", "run", "plan.yaml", "--workers", "2", "--store", "store", "--quiet"]
    process = subprocess.Popen(command, cwd=tmp_path, start_new_session=True, stderr=subprocess.DEVNULL)

    def session() -> list[int]:
        """Processes that were started by the command, it included."""
        found = []
        for place in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = place.read_text(encoding="utf-8").rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(fields[3]) == process.pid and fields[0] not in "ZX":
                found.append(int(place.parent.name))
        return found

    wait_for(lambda: len(rows(tmp_path / "store")) >= 3, seconds=90.0)
    assert len(session()) >= 4, "command, fork server and two workers"
    process.kill()
    process.wait()
    before = rows(tmp_path / "store")
    wait_for(lambda: session() == [], seconds=10.0)
    check_whole(tmp_path / "store")
    assert facts(run(SWEEP, store=tmp_path / "store")) == undisturbed
    assert kept(before, rows(tmp_path / "store"))


# several at once


@pytest.mark.parametrize("workers", [1, 2])
def test_two_processes_on_one_store_compute_every_stage_once(
    tmp_path: Path, undisturbed: list[dict[str, Any]], workers: int
) -> None:
    watch(tmp_path / "store")
    children = [Child(run_as, str(tmp_path / f"mark{i}"), SWEEP, str(tmp_path / "store"), workers) for i in range(2)]
    assert [child.result() for child in children] == [undisturbed, undisturbed]
    assert set(kinds(tmp_path / "store").values()) == {2}
    assert set(saved(tmp_path / "store").values()) == {1}


@pytest.mark.parametrize("workers", [1, 2])
def test_a_stage_that_another_run_is_at_is_put_off_until_nothing_else_can_start(tmp_path: Path, workers: int) -> None:
    plan, other = toy(seeds=[0, 1]), Store(tmp_path)
    cells = [stages_of(cell) for cell in read_plan(plan)[0].cells()]
    first = next(s for s in cells[0] if s.kind == "victim")
    reached, most = threading.Event(), len(cells[1]) + sum(s.kind in ("data", "control") for s in cells[0])

    def listen(progress: Progress) -> None:
        if progress.done == most:
            reached.set()

    found: list[Record] = []
    thread = threading.Thread(target=lambda: found.extend(run(plan, store=tmp_path, workers=workers, listener=listen)))
    with other.claim(first.key()):
        assert other.claimed(first.key()) and not other.claimed("0" * 64)
        thread.start()
        assert reached.wait(60), "all that does not wait for the claimed stage is done meanwhile"
    thread.join(60)
    assert not other.claimed(first.key())
    other.close()
    assert [record.status for record in found] == ["done", "done"]


def test_two_threads_on_one_store_compute_every_stage_once(tmp_path: Path, undisturbed: list[dict[str, Any]]) -> None:
    watch(tmp_path)
    found: dict[int, Any] = {}

    def work(i: int) -> None:
        found[i] = facts(run(SWEEP, store=tmp_path))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == {0: undisturbed, 1: undisturbed}
    assert set(saved(tmp_path).values()) == {1}


def test_threads_on_different_plans_do_not_disturb_each_others_seeds(
    tmp_path: Path, undisturbed: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch's global generator, which seeds weights and dropout, is one for all threads: one computes at a time."""
    compute, inside, most = runner.compute, [], []
    found: dict[int, Any] = {}

    def watched(stage: Stage, bench: Bench) -> Result:
        inside.append(1)
        time.sleep(0.001)
        most.append(len(inside))
        try:
            return compute(stage, bench)
        finally:
            inside.pop()

    def work(seed: int) -> None:
        found[seed] = facts(run({**SWEEP, "seeds": [seed]}, store=tmp_path / str(seed)))[0]

    monkeypatch.setattr(runner, "compute", watched)
    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [found[seed] for seed in range(2)] == undisturbed
    assert most == [1] * 16


def test_two_workers_give_the_same_bytes_as_one(tmp_path: Path, undisturbed: list[dict[str, Any]]) -> None:
    watch(tmp_path)
    assert facts(run(SWEEP, store=tmp_path, workers=2)) == undisturbed
    assert set(saved(tmp_path).values()) == {1}
    assert all("weights" in r["artefacts"]["victim"] for r in undisturbed)
    assert facts(run(SWEEP, store=tmp_path, workers=0)) == undisturbed


def test_workers_see_the_folder_and_environment_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fork server starts once, with those of its day."""
    run(toy(seeds=[0, 1]), store=tmp_path / "first", workers=2)
    (tmp_path / "elsewhere").mkdir()
    check = "import os\nassert os.environ['MINE'] == 'set'\n"
    (tmp_path / "elsewhere" / "mine.py").write_text(check + MODEL.replace("SCALE", "1"), encoding="utf-8")
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setenv("MINE", "set")
    records = run({**TOY, "victim": {"name": "file", "path": "mine.py"}, "seeds": [0, 1]}, store="here", workers=2)
    assert [r.errors for r in records] == [{}, {}]
    assert len(rows(tmp_path / "elsewhere" / "here")) == 8


def test_a_killed_worker_costs_nothing_but_time(tmp_path: Path) -> None:
    watch(tmp_path / "store")
    deadly = {"name": "deadly", "path": str(tmp_path / "count"), "times": 1}
    records = run(toy(purifiers=[deadly, TUNED]), store=tmp_path / "store", workers=2)
    assert (records[0].status, records[0].errors) == ("done", {})
    assert (tmp_path / "count").read_text(encoding="utf-8") == "xx"
    assert set(saved(tmp_path / "store").values()) == {1}


def test_a_stage_that_kills_its_worker_twice_fails_alone(tmp_path: Path) -> None:
    deadly = {"name": "deadly", "path": str(tmp_path / "count"), "times": 3}
    plan = toy(purifiers=[deadly, TUNED], seeds=[0])
    record = run(plan, store=tmp_path / "store", workers=2)[0]
    label = f"deadly(path={tmp_path / 'count'}, times=3)"
    assert record.status == "failed"
    assert record.errors == {
        f"purifier {label}": "its process was killed twice (signal 9); it may need more memory than there is",
        f"verdict {label}": f"{SKIPPED}purifier {label} failed",
    }
    assert set(record.metrics["purifiers"]) == {"fine-tune(epochs=2)"}
    deadly["times"] = 2  # another option, another key: it dies no more
    assert run({**plan, "purifiers": [deadly]}, store=tmp_path / "store", workers=2)[0].status == "done"


# failures


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("plain", "ValueError: it does not work"),
        ("lines", "RuntimeError: first line"),
        ("empty", "ArithmeticError: no reason given"),
        ("mute", "Mute: no reason given"),
        ("exit", "SystemExit: 3"),
        ("memory", "MemoryError: no reason given"),
        ("bytes", "OSError: [Errno 5] broken: 'caf\\udce9'"),
        ("nan", "purifier 'failing' left a model whose outputs are not finite; try a lower rate, or another"),
        ("notes", "purifier 'failing' has object in its notes under 'unheard of', expected what JSON can hold, like .tolist()"),
    ],
)
def test_a_failed_stage_is_recorded_with_its_reason_and_the_others_go_on(module_store: Path, how: str, reason: str) -> None:
    record = run(toy(purifiers=[{"name": "failing", "how": how}, TUNED]), store=module_store)[0]
    label = "failing" if how == "plain" else f"failing(how={how})"
    assert record.status == "failed"
    assert record.errors == {f"purifier {label}": reason, f"verdict {label}": f"{SKIPPED}purifier {label} failed"}
    assert record.failed == {f"purifier {label}": reason}
    assert "acc" in record.metrics["purifiers"]["fine-tune(epochs=2)"]
    with Store(module_store) as book:
        row = book.stage(record.stages[f"purifier {label}"])
        assert book.records([record.key]) == [record], "what is returned is what is kept"
    assert row is not None
    assert (row.status, row.error) == ("failed", reason)
    assert "Traceback" in row.trace
    assert how in ERRORS or "finite" in row.trace or "JSON" in row.trace


@pytest.fixture(scope="module")
def module_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("shared")
    run(toy(), store=store)
    return store


def test_a_method_that_changes_its_victim_changes_no_other_stage(tmp_path: Path) -> None:
    alone = run(toy(purifiers=[TUNED]), store=tmp_path / "alone")[0].metrics["purifiers"]
    (after,) = run(toy(purifiers=["blanking", TUNED]), store=tmp_path / "after")
    label = next(iter(alone))
    assert after.metrics["purifiers"][label] == alone[label]
    assert after.errors["purifier blanking"].startswith("purifier 'blanking' changed the victim that it was given")


def test_a_failed_stage_is_tried_again_and_the_rest_reused(tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    flag.touch()
    watch(tmp_path / "store")
    plan = toy(purifiers=[{"name": "failing", "path": str(flag)}, TUNED])
    assert run(plan, store=tmp_path / "store")[0].status == "failed"
    assert kinds(tmp_path / "store", "failed") == {"purifier": 1}
    second, computed = again(plan, tmp_path / "store", workers=2)
    assert second[0].status == "failed"
    assert computed == {}
    assert kinds(tmp_path / "store", "failed") == {"purifier": 2}
    flag.unlink()
    third, computed = again(plan, tmp_path / "store")
    assert (third[0].status, third[0].errors) == ("done", {})
    assert computed == {"purifier": 1, "verdict": 1}
    assert third[0].key == second[0].key
    with Store(tmp_path / "store") as book:
        assert book.records() == third


@pytest.mark.parametrize("workers", [1, 2])
def test_what_builds_on_a_failed_stage_is_not_tried_and_says_so(tmp_path: Path, workers: int) -> None:
    watch(tmp_path)
    seen: list[tuple[int, int, int]] = []
    plan = toy(detectors=["spectral"], vary={"attack.target": [0, 9]}, seeds=[0, 1])
    records = run(plan, store=tmp_path, workers=workers, listener=lambda p: seen.append((p.total, p.done, p.failed)))
    assert [r.status for r in records] == ["done", "failed", "done", "failed"]
    errors = records[1].errors
    assert errors.pop("victim").startswith("target class 9 does not exist: the data have classes 0 to 1")
    names = ("judge", "detector spectral", "relearning", "purifier fine-tune(epochs=2)", "verdict fine-tune(epochs=2)")
    assert errors == dict.fromkeys(names, "not tried because victim failed")
    assert kinds(tmp_path, "failed") == {"victim": 2}
    assert seen[-1] == (28, 16 + 0, 2)
    assert set(records[1].seconds) == {"data", "control"}


# damage


def damage(store: Path, row: Any, how: str) -> None:
    with Store(store) as book:
        places = [book.object(digest) for digest in row.artefacts.values()]
    for place in places:
        if how == "removed":
            place.unlink()
            continue
        data = bytearray(place.read_bytes())
        data[len(data) // 2] ^= 1
        place.write_bytes(data[: len(data) // 2] if how == "cut" else data)
        if how == "changed in secret":
            os.utime(place, ns=(SEAL, SEAL))


@pytest.mark.parametrize(
    ("kind", "how"), [("victim", "cut"), ("victim", "changed"), ("verdict", "changed"), ("verdict", "removed")]
)
def test_a_damaged_artefact_is_made_again_by_the_same_command(tmp_path: Path, kind: str, how: str) -> None:
    watch(tmp_path)
    first = run(toy(), store=tmp_path)
    stage = next(s for s in stages_of(read_plan(toy())[0].cells()[0]) if s.kind == kind)
    with Store(tmp_path) as book:
        row = book.stage(stage.key())
    damage(tmp_path, row, how)
    second, computed = again(toy(), tmp_path)
    assert computed == {kind: 1}
    assert facts(second) == facts(first)
    check_whole(tmp_path)


@pytest.mark.parametrize("workers", [1, 2])
def test_damage_found_while_reading_is_repaired_on_the_way(tmp_path: Path, workers: int) -> None:
    first = run(toy(seeds=[0, 1]), store=tmp_path / "whole")
    watch(tmp_path / "store")
    run(toy(purifiers=[], seeds=[0, 1]), store=tmp_path / "store")
    with Store(tmp_path / "store") as book:
        damaged = [book.stage(record.stages[kind]) for record in first for kind in ("victim", "control")]
    for row in damaged:
        damage(tmp_path / "store", row, "changed in secret")
    second, computed = again(toy(seeds=[0, 1]), tmp_path / "store", workers=workers)
    assert [r.errors for r in second] == [{}, {}]
    assert computed == {"victim": 2, "control": 2, "relearning": 2, "purifier": 2, "verdict": 2}
    assert facts(second) == facts(first)
    check_whole(tmp_path / "store")


def test_damage_that_cannot_be_repaired_fails_with_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run(toy(purifiers=[]), store=tmp_path)[0]
    with Store(tmp_path) as book:
        damage(tmp_path, book.stage(first.stages["victim"]), "changed in secret")
    compute = runner.compute

    def broken(stage: Stage, bench: Bench) -> Result:
        if stage.kind == "victim":
            raise ValueError("no more")
        return compute(stage, bench)

    monkeypatch.setattr(runner, "compute", broken)
    record = run(toy(), store=tmp_path)[0]
    name = "purifier fine-tune(epochs=2)"
    assert record.errors[name] == "victim was damaged, had to be made again, and failed"


# listeners, memory, speed


def test_a_listener_is_told_everything_that_happens(tmp_path: Path) -> None:
    seen: list[Progress] = []

    def listen(progress: Progress) -> None:
        seen.append(Progress(progress.total, progress.done, progress.reused, progress.failed, dict(progress.running)))

    run(toy(), store=tmp_path, listener=listen)
    assert (seen[0].total, seen[0].done, seen[0].reused) == (7, 0, 0)
    assert (seen[-1].done, seen[-1].failed, seen[-1].running) == (7, 0, {})
    texts = {what for p in seen for _, what, _ in p.running.values()}
    assert {"training the clean control", "training the victim", "fine-tuning"} <= texts
    assert all(len(p.running) <= 1 for p in seen)
    seen.clear()
    run(toy(), store=tmp_path, listener=listen)
    assert [(p.done, p.reused) for p in seen] == [(7, 7)]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_listener_that_fails_harms_nothing(tmp_path: Path, workers: int, caplog: pytest.LogCaptureFixture) -> None:
    calls: list[int] = []

    def broken(progress: Progress) -> None:
        calls.append(1)
        raise OSError("nobody listens")

    with caplog.at_level(logging.WARNING, logger="ostiary"):
        records = run(toy(seeds=[0, 1]), store=tmp_path, workers=workers, listener=broken)
    assert [r.status for r in records] == ["done", "done"]
    assert len(calls) == 1
    assert "listener failed" in caplog.text


def test_a_sweep_holds_few_models_and_data_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[int] = []
    most: list[int] = []
    victims: weakref.WeakSet[Victim] = weakref.WeakSet()
    init = Victim.__init__

    class Watched(Bench):
        def _once(self, name: str, make: Any) -> Any:
            found = super()._once(name, make)
            held.append(len(self._held))
            return found

    def noted(self: Victim, *args: Any, **options: Any) -> None:
        init(self, *args, **options)
        victims.add(self)

    def count(progress: Progress) -> None:
        if progress.done % 4 == 0 and not progress.running:
            most.append(len(victims))

    monkeypatch.setattr(runner, "Bench", Watched)
    monkeypatch.setattr(Victim, "__init__", noted)
    run(toy(purifiers=[], seeds=list(range(4))), store=tmp_path, listener=count)
    assert max(held) <= 8
    assert len(most) >= 4
    assert 2 <= max(most) <= 8, "models of cells that are done are let go"


def test_with_workers_the_parent_holds_no_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("loaded in the parent")

    monkeypatch.setattr(DataSource, "load", refuse)
    monkeypatch.setattr(Bench, "__init__", refuse)
    records = run(toy(seeds=[0, 1]), store=tmp_path, workers=2)
    assert [r.status for r in records] == ["done", "done"]


def test_cells_are_finished_one_by_one_and_their_records_kept_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compute, calls = runner.compute, []

    def interrupted(stage: Stage, bench: Bench) -> Result:
        calls.append(stage.cell.seed)
        if len(calls) == 18:
            raise KeyboardInterrupt
        return compute(stage, bench)

    monkeypatch.setattr(runner, "compute", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(toy(seeds=[0, 1, 2, 3]), store=tmp_path)
    assert calls == [0] * 7 + [1] * 7 + [2] * 4
    with Store(tmp_path) as book:
        assert [(r.plan["seed"], r.status) for r in book.records()] == [(0, "done"), (1, "done")]


def test_handing_out_thousands_of_stages_takes_little_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    purifiers = [{"name": "fine-tune", "epochs": 2 + i} for i in range(10)]
    plan = toy(purifiers=purifiers, vary={"attack.rate": [0.1 + i / 1000 for i in range(100)]})
    monkeypatch.setattr(runner, "compute", lambda stage, bench: Result({"n": 1.0}))
    began = time.process_time()
    records = run(plan, store=tmp_path)
    assert len(records) == 100
    assert len(rows(tmp_path)) == 2 + 100 * 23
    assert time.process_time() - began < 8.0


def test_a_store_error_in_a_worker_ends_the_run(tmp_path: Path) -> None:
    run(toy(purifiers=[]), store=tmp_path)
    (tmp_path / "objects" / "parts").rmdir()
    (tmp_path / "objects" / "parts").touch()
    with pytest.raises(StoreError, match="is a file, or lies under one"):
        run(toy(seeds=[0, 1]), store=tmp_path, workers=2)
