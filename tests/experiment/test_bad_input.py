"""What goes through `ostiary.run` and cannot work: one clear sentence, raised before work or recorded with the stage."""

from __future__ import annotations

import os
import shutil
import sqlite3
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from toy_runs import TOY, TUNED, Child, Plan, check_whole, database, facts, rows, toy

import ostiary
from ostiary.component import Component
from ostiary.errors import BadSpec, InvalidInput, OstiaryError, StoreError, UnknownName
from ostiary.experiment import store as store_module
from ostiary.experiment.origin import Origin
from ostiary.experiment.store import Store
from ostiary.purifiers.fine_tune import FineTune


def raised(kind: type[OstiaryError], *parts: str, plan: Any = None, **options: Any) -> None:
    """`run` raises one sentence."""
    with pytest.raises(kind) as error:
        ostiary.run(toy() if plan is None else plan, **options)
    sentence(str(error.value), *parts)


def sentence(text: str, *parts: str) -> None:
    assert "\n" not in text
    assert "Traceback" not in text
    for part in parts:
        assert part in text


# raised before any work


@pytest.mark.parametrize(
    ("changes", "kind", "parts"),
    [
        (["dataset=toy-graph"], UnknownName, ["unknown dataset 'toy-graph'", "did you mean 'toy-graphs'?"]),
        (["victim=gim"], UnknownName, ["unknown victim 'gim'", "did you mean"]),
        (["detectors=[sepctral]"], UnknownName, ["unknown detector 'sepctral'", "did you mean 'spectral'?"]),
        (["purifiers=[{name: fine-tune, epoch: 3}]"], UnknownName, ["no option 'epoch'", "did you mean 'epochs'?"]),
        (["trainer.epochs=many"], BadSpec, ["option epochs", "'many'"]),
        (["trainer.epochs=-1"], BadSpec, ["option epochs"]),
        (["attack.rate=2"], BadSpec, ["option rate", "<= 1.0"]),
        (["attack.target=-1"], BadSpec, ["option target"]),
        (["dataset={name: npz, path: nowhere.npz}"], InvalidInput, ["there is no file nowhere.npz"]),
    ],
)
def test_a_bad_plan_is_refused_before_any_work(
    tmp_path: Path, changes: list[str], kind: type[OstiaryError], parts: list[str]
) -> None:
    raised(kind, *parts, changes=changes, store=tmp_path / "store")
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("workers", [-1, 1.5, "2", None])
def test_a_bad_number_of_workers(tmp_path: Path, workers: Any) -> None:
    raised(BadSpec, "workers is a number of processes", repr(workers), store=tmp_path, workers=workers)


@pytest.mark.parametrize("device", ["warp", "cuda:77", "", None, 3.5])
def test_a_bad_device(tmp_path: Path, device: Any) -> None:
    raised(InvalidInput, "the device", "cannot be used here", "try cpu", store=tmp_path, device=device)


def test_a_plan_file_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_bytes(b"\xff\xfe\x00")
    raised(InvalidInput, "plan.yaml is no text in UTF-8", plan=tmp_path / "plan.yaml", store=tmp_path / "store")
    raised(InvalidInput, "is a folder", plan=tmp_path, store=tmp_path / "store")
    raised(BadSpec, "a plan is a YAML file, a mapping or a Plan", plan=7, store=tmp_path / "store")


# recorded with the stage


@pytest.mark.parametrize(
    ("changes", "stage", "parts"),
    [
        (["attack.target=2"], "victim", ["target class 2 does not exist", "classes 0 to 1"]),
        (["attack.rate=0.001"], "victim", ["rate 0.001 of 160 training samples", "poisons none; raise rate"]),
        (["attack={name: gradient-clba, rate: 0}"], "victim", ["it has none at rate 0; raise rate"]),
        (["attack=badnets"], "victim", ["attack 'badnets' works on image data, not graph"]),
        (["dataset.clean_rate=0.9"], "data", ["clean_rate 0.9 asks for 180 samples"]),
        (["dataset.test_rate=1"], "data", ["the train part would hold no sample"]),
        (["dataset.n=1"], "data", ["one class only"]),
        (["dataset.n_classes=1"], "data", ["one class only"]),
        (["trainer.lr=1e30"], "control", ["lr"]),
        (["victim={name: file, path: nowhere.py}"], "control", ["there is no file nowhere.py"]),
        (["dataset.clean_rate=0"], "purifier fine-tune(epochs=2)", ["needs clean"]),
        (["dataset=digits"], "control", ["victim 'gin' works on graph, node data, not image"]),
    ],
)
def test_what_only_shows_in_a_stage_is_recorded_there(tmp_path: Path, changes: list[str], stage: str, parts: list[str]) -> None:
    record = ostiary.run(toy(), changes=changes, store=tmp_path)[0]
    assert record.status == "failed"
    sentence(record.errors[stage], *parts)
    for name, reason in record.errors.items():
        sentence(reason)
        assert name in record.stages
    assert set(record.errors) | set(record.seconds) == set(record.stages), "every stage is done, failed or was not tried"


USER = {
    "syntax": ("def make(:\n", "cannot be imported: SyntaxError"),
    "nothing": ("x = 1\n", "has no function or class 'make'"),
    "raises": ("raise RuntimeError('line one\\nline two')\n", "cannot be imported: RuntimeError: line one"),
    "leaves": ("import sys\nsys.exit(4)\n", "SystemExit: 4"),
    "no module": ("def make():\n    return 3\n", "returned int, expected an nn.Module"),
    "wrong shape": ("import torch\ndef make():\n    return torch.nn.Linear(1, 1)\n", ""),
}


@pytest.mark.parametrize("case", USER)
def test_a_users_model_that_does_not_work(tmp_path: Path, case: str) -> None:
    code, part = USER[case]
    (tmp_path / "mine.py").write_text(code, encoding="utf-8")
    record = ostiary.run({**TOY, "victim": {"name": "file", "path": str(tmp_path / "mine.py")}}, store=tmp_path / "store")[0]
    assert set(record.errors) == {"control", "victim", "judge"}
    sentence(record.errors["control"], part)
    assert record.errors["judge"] == "not tried because control failed"


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut short", b"\x80\x04 a pickle"])
def test_a_users_data_that_cannot_be_read(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "mine.npz").write_bytes(content)
    plan = {**TOY, "dataset": {"name": "npz", "path": str(tmp_path / "mine.npz")}}
    record = ostiary.run(plan, store=tmp_path / "store")[0]
    sentence(record.errors["data"], "mine.npz is no .npz with arrays")
    assert record.errors["victim"] == "not tried because data failed"


def local_part() -> type[Component]:
    class Local(FineTune, name="only-here"):
        """A class that no other process can find."""

    return Local


def test_a_part_that_only_this_process_knows(tmp_path: Path) -> None:
    part = local_part()(epochs=1)
    assert ostiary.run(toy(purifiers=[part]), store=tmp_path / "one")[0].status == "done"
    raised(BadSpec, "cannot be handed to another process", "use workers=1", plan=toy(purifiers=[part], seeds=[0, 1]),
           store=tmp_path / "two", workers=2)  # fmt: skip


# stores


def test_stores_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    raised(StoreError, "is a file, or lies under one", store=tmp_path / "file")
    raised(StoreError, "is a file, or lies under one", store=tmp_path / "file" / "under")
    raised(StoreError, "a store is given by its folder", store=3)
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "ostiary.sqlite").write_bytes(b"no database\n" * 1000)
    raised(StoreError, "cannot be used (file is not a database)", store=tmp_path / "damaged")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A store with a finished run of toy(), and its facts."""
    store = tmp_path_factory.mktemp("finished") / "store"
    return store, facts(ostiary.run(toy(), store=store))


@pytest.fixture
def store(finished: tuple[Path, Any], tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished[0], tmp_path / "store"))


@pytest.mark.parametrize("table", ["record", "stage"])
@pytest.mark.parametrize("body", [b"", b'{"key":'])
def test_damaged_rows_are_replaced_by_the_same_command(
    store: Path, finished: tuple[Path, Any], table: str, body: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with database(store) as db:
        db.execute(f"update {table} set body = ?", (body,))
    if table == "record":
        with Store(store) as book:
            assert book.records() == []
        assert "run its plan again" in caplog.text
    assert facts(ostiary.run(toy(), store=store)) == finished[1]
    with Store(store) as book:
        assert facts(book.records()) == finished[1]


def test_a_database_with_holes(store: Path) -> None:
    place = store / "ostiary.sqlite"
    place.write_bytes(place.read_bytes()[:4096] + b"\xee" * (place.stat().st_size - 4096))
    raised(StoreError, f"the database in {store} cannot be used", "choose another --store", store=store)


def test_a_lost_database_is_built_again_from_nothing(store: Path, finished: tuple[Path, Any]) -> None:
    for place in store.glob("ostiary.sqlite*"):
        place.unlink()
    assert facts(ostiary.run(toy(), store=store)) == finished[1]
    check_whole(store)


def run_as_nobody(plan: Plan, store: str) -> str:
    if os.geteuid() == 0:
        os.setgid(65534)
        os.setuid(65534)
    try:
        return str(ostiary.run(plan, store=store)[0].status)
    except StoreError as error:
        return str(error)


@pytest.mark.parametrize("existing", [False, True])
def test_a_folder_that_may_not_be_written(finished: tuple[Path, Any], existing: bool) -> None:
    folder = Path(tempfile.mkdtemp(prefix="ostiary-test-"))  # pytest's own is closed to other users
    try:
        if existing:
            shutil.copytree(finished[0], folder / "store")
        for place in [*folder.rglob("*"), folder]:
            place.chmod(0o555 if place.is_dir() else 0o444)
        answer = Child(run_as_nobody, toy(), str(folder / "store")).result()
        sentence(answer, f"the store {folder / 'store'} cannot be written", "choose a folder of yours with --store")
    finally:
        for place in [folder, *folder.rglob("*")]:
            place.chmod(0o755)
        shutil.rmtree(folder)


# full disks: finished stages stay, and the same command goes on


def goes_on(store: Path, kept: dict[str, Any], plan: Plan) -> None:
    check_whole(store)
    assert kept.items() <= rows(store).items()
    assert ostiary.run(plan, store=store)[0].status == "done"
    assert kept.items() <= rows(store).items(), "finished stages were reused"
    check_whole(store)


MORE = toy(purifiers=[TUNED, {"name": "fine-tune", "epochs": 3}])


@pytest.mark.parametrize("workers", [1, 2])
def test_a_disk_that_fills_up_with_artefacts(store: Path, monkeypatch: pytest.MonkeyPatch, workers: int) -> None:
    kept = rows(store)
    if workers == 1:
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", _no_space)
            raised(StoreError, f"the disk of {store} is full; free space", plan=MORE, store=store)
    else:
        answer = Child(run_under_limit, {**MORE, "seeds": [0, 1]}, str(store), 2000, workers).result()
        sentence(answer, "full", "free space and run the same command, finished stages are kept")
    goes_on(store, kept, MORE)


def _no_space(*_: Any) -> None:
    raise OSError(28, "No space left on device")


def test_a_disk_that_fills_up_with_the_database(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = rows(store)
    real = sqlite3.connect

    def small(*args: Any, **options: Any) -> sqlite3.Connection:
        db = real(*args, **options)
        pages = db.execute("pragma page_count").fetchone()[0]
        db.execute(f"pragma max_page_count = {pages}")
        return db

    with monkeypatch.context() as patch:
        patch.setattr(store_module.sqlite3, "connect", small)
        raised(StoreError, f"the disk of {store} is full; free space", plan=MORE, store=store)
    goes_on(store, kept, MORE)


def run_under_limit(plan: Plan, store: str, limit: int, workers: int) -> str:
    """What `run` says once this process and its workers may not write files beyond `limit` bytes."""
    import resource

    ostiary.experiment.runner._open_worker = _limited_worker  # type: ignore[attr-defined]
    os.environ["LIMIT"] = str(limit)
    if workers == 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        return str(ostiary.run(plan, store=store, workers=workers)[0].status)
    except StoreError as error:
        return str(error)


def _limited_worker(folder: str, environment: dict[str, str], origin: Origin) -> Any:
    import resource

    from ostiary.experiment import runner

    work = runner._open_worker(folder, environment, origin)
    limit = int(environment["LIMIT"])
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    return work


@pytest.mark.skipif(sys.platform == "win32", reason="limits of POSIX")
@pytest.mark.parametrize("limit", [1, 2000, 30_000])
def test_a_system_that_refuses_to_write(store: Path, limit: int) -> None:
    kept = rows(store)
    answer = Child(run_under_limit, MORE, str(store), limit, 1).result()
    sentence(answer, "full", "free space and run the same command, finished stages are kept")
    goes_on(store, kept, MORE)
