"""The store on its own: what is visible, what is damaged, who may work at once, and disks that refuse."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sqlite3
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import windows
from toy_runs import Child, alive, check_whole, database, rows, wait_for

from ostiary.errors import StoreError
from ostiary.experiment import store as module
from ostiary.experiment.record import Record, StageRow
from ostiary.experiment.store import SEAL, STALE, Damaged, Store

KEY = "ab" * 20
NOBODY = 65534


@pytest.fixture
def book(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "store")
    yield store
    store.close()


def row(key: str = KEY, **changes: Any) -> StageRow:
    return StageRow(key, "data", "data", {}, [], **{"status": "done", "seconds": 0.5, "made": 1.0, **changes})


def record(key: str = KEY, **changes: Any) -> Record:
    figures = {"acc": {"value": 0.5, "low": 0.4, "high": 0.6, "n": 20}}
    plan = {"dataset": {"name": "digits"}, "victim": {"name": "toy"}, "seed": 0}
    return Record(key, plan, {"victim": figures}, {"data": 0.5}, [], "done", **changes)


def refused(error: pytest.ExceptionInfo[StoreError], *parts: str) -> None:
    assert "\n" not in str(error.value)
    for part in parts:
        assert part in str(error.value)


# artefacts


def test_bytes_come_back_under_their_hash_and_are_kept_once(book: Store) -> None:
    digest = book.put_object(b"weights")
    before = book.object(digest).stat()
    assert book.get_object(digest) == b"weights"
    assert book.put_object(b"weights") == digest
    assert book.object(digest).stat().st_ino == before.st_ino, "it was there and is not written again"
    assert before.st_mtime_ns == SEAL
    assert not list((book.folder / "objects" / "parts").iterdir())


@pytest.mark.parametrize("damage", ["cut", "emptied", "changed", "removed", "changed in secret"])
def test_a_damaged_artefact_is_found_and_written_anew(book: Store, damage: str) -> None:
    digest = book.put_object(b"weights")
    book.save_stage(row(artefacts={"weights": digest}))
    assert book.stage(KEY) is not None
    place = book.object(digest)
    if damage == "removed":
        place.unlink()
    else:
        place.write_bytes({"cut": b"weig", "emptied": b""}.get(damage, b"WEIGHTS"))
    if damage == "changed in secret":
        os.utime(place, ns=(SEAL, SEAL))  # seen as soon as somebody reads it
    else:
        assert book.stage(KEY) is None, "a stage without its artefacts is not there"
    with pytest.raises(Damaged, match="run its plan again"):
        book.get_object(digest)
    assert not book.whole(digest)
    assert book.put_object(b"weights") == digest
    assert book.get_object(digest) == b"weights"
    assert book.stage(KEY) is not None


def test_bytes_are_written_over_a_damaged_copy_of_them(book: Store) -> None:
    book.object(book.put_object(b"weights")).write_bytes(b"weig")
    assert book.get_object(book.put_object(b"weights")) == b"weights"


def test_a_copied_store_is_read_once_and_then_trusted(book: Store) -> None:
    digest = book.put_object(b"weights")
    os.utime(book.object(digest))  # as a copy without times has it
    assert book.whole(digest)
    assert book.object(digest).stat().st_mtime_ns == SEAL


def test_an_artefact_outside_the_store_is_never_touched(book: Store, tmp_path: Path) -> None:
    victim = tmp_path / "secret"
    victim.write_text("mine", encoding="utf-8")
    name = "../../../secret"
    book.save_stage(row(artefacts={"weights": name}))
    assert book.stage(KEY) is None
    with pytest.raises(StoreError, match="which is no digest"):
        book.get_object(name)
    assert victim.read_text(encoding="utf-8") == "mine"


def test_half_written_files_of_dead_processes_are_swept_and_those_of_the_living_kept(tmp_path: Path) -> None:
    Store(tmp_path).close()
    parts = tmp_path / "objects" / "parts"
    for name, age in (("old", 2 * STALE), ("new", 0.0)):
        (parts / name).touch()
        os.utime(parts / name, (time.time() - age,) * 2)
    Store(tmp_path).close()
    assert [p.name for p in parts.iterdir()] == ["new"]


# rows


@pytest.mark.parametrize("body", [b"", b"{", b'{"key": 3}', b"\xff\xfe", None, b"[]"])
def test_a_damaged_stage_row_is_no_stage_and_is_replaced(book: Store, body: bytes | None) -> None:
    book.save_stage(row())
    with database(book.folder) as db:
        db.execute("update stage set body = ?", (body,))
    assert book.stage(KEY) is None
    book.save_stage(row())
    assert book.stage(KEY) == row()


def test_a_row_under_a_foreign_key_is_no_stage(book: Store) -> None:
    book.save_stage(row())
    with database(book.folder) as db:
        db.execute("update stage set key = 'other'")
    assert book.stage("other") is None


@pytest.mark.parametrize("body", [b"", b'{"key": "ab', b"\xff", None, b'{"surprise": 1}'])
def test_a_damaged_record_is_one_sentence_and_does_not_hide_the_others(
    book: Store, body: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    book.save_record(record())
    book.save_record(record("cd" * 20))
    with database(book.folder) as db:
        db.execute("update record set body = ? where key = ?", (body, KEY))
    assert book.records() == [record("cd" * 20)]
    (warning,) = caplog.messages
    assert warning.startswith("the record abababababab is corrupt") and warning.endswith("run its plan again")
    assert "\n" not in warning
    assert book.records(["cd" * 20, "unknown"]) == [record("cd" * 20)]
    book.save_record(record())
    assert len(book.records()) == 2


def test_metrics_can_be_asked_for_in_sql(book: Store) -> None:
    book.save_record(record())
    book.save_record(record())
    with database(book.folder) as db:
        found = db.execute("select part, name, value, low, high, n from metric").fetchall()
    assert found == [("victim", "acc", 0.5, 0.4, 0.6, 20)]


# who works at once


def test_a_claim_holds_between_stores_and_threads_of_one_process(book: Store) -> None:
    others = [Store(book.folder) for _ in range(3)]
    got = threading.Event()

    def other() -> None:
        with others[0].claim(KEY):
            got.set()

    with book.claim(KEY):
        thread = threading.Thread(target=other)
        thread.start()
        with others[1].claim("another"):
            pass
        others[1].close()  # with POSIX byte-range locks this would drop the claim
        others[2].close()
        assert not got.wait(0.2)
    thread.join(10)
    assert got.is_set()
    others[0].close()
    assert not list((book.folder / "claims").iterdir()), "claims leave nothing behind"


def crowd(folder: Path) -> list[int]:
    """How many were inside one claim, each time that one of many threads was."""
    inside: list[int] = []
    seen: list[int] = []

    def work(number: int) -> None:
        own = Store(folder)
        for _ in range(40):
            with own.claim(KEY):
                inside.append(number)
                time.sleep(0.0002)
                seen.append(len(inside))
                inside.pop()
        own.close()

    threads = [threading.Thread(target=work, args=(i,)) for i in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return seen


def test_only_one_of_many_threads_is_inside(book: Store) -> None:
    assert crowd(book.folder) == [1] * 200


def test_claims_hold_on_windows_where_open_files_stay(book: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    locks = windows.locks(monkeypatch)

    def held(*_: object) -> None:
        raise PermissionError(errno.EACCES, "another process uses the file")

    with monkeypatch.context() as patch:
        patch.setattr(locks, "POLL", 0.0002)
        patch.setattr(module, "lock", locks.lock)
        patch.setattr(module, "unlock", locks.unlock)
        patch.setattr(Path, "unlink", held)
        assert crowd(book.folder) == [1] * 200
        with book.claim(KEY):
            assert book.claimed(KEY)
        assert (book.folder / "claims" / KEY).exists() and not book.claimed(KEY)
        with book.claim(KEY):
            pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_disk_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(*_: object, **__: object) -> bool:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(module, "lock", refuse)
    with pytest.raises(StoreError) as error:
        Store(tmp_path)
    refused(error, f"the disk of {tmp_path} has no locks ({os.strerror(number)}); choose a --store on a local disk")


def hold(folder: str, mark: str) -> None:
    with Store(folder).claim(KEY):
        Path(mark).touch()
        time.sleep(60)


def test_a_claim_holds_between_processes_and_ends_with_its_owner(book: Store, tmp_path: Path) -> None:
    child = Child(hold, str(book.folder), str(tmp_path / "mark"))
    wait_for((tmp_path / "mark").exists)
    got = threading.Event()

    def other() -> None:
        with book.claim(KEY):
            got.set()

    thread = threading.Thread(target=other)
    thread.start()
    assert not got.wait(0.2)
    pid = child.process.pid
    child.kill()
    assert pid is not None
    assert not alive(pid)
    assert got.wait(10)
    thread.join(10)


def open_often(folder: str, name: str, start: float) -> None:
    for i in range(15):
        time.sleep(max(0.0, start + i / 50 - time.time()))  # all of them at the same moment
        with Store(Path(folder) / str(i)) as store:
            store.save_stage(row(key=name))


def test_a_new_store_may_be_opened_by_many_at_once(tmp_path: Path) -> None:
    children = [Child(open_often, str(tmp_path), str(i), time.time() + 1.0) for i in range(3)]
    for child in children:
        child.result()
    assert all(len(rows(tmp_path / str(i))) == 3 for i in range(15))


# folders and databases that cannot be used


def test_a_store_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StoreError) as error:
        Store(tmp_path / "no", create=False)
    refused(error, "there is no store in", "run a plan first")
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize("place", ["file", "file/under"])
def test_a_path_that_is_a_file(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError) as error:
        Store(tmp_path / place)
    refused(error, f"the store {tmp_path / place} is a file, or lies under one")
    with pytest.raises(StoreError):
        Store(tmp_path / place, create=False)


@pytest.mark.parametrize("place", [None, 3, ["store"]])
def test_what_is_no_path(place: Any) -> None:
    with pytest.raises(StoreError) as error:
        Store(place)
    refused(error, "a store is given by its folder", repr(place))


def test_a_name_that_is_too_long(tmp_path: Path) -> None:
    with pytest.raises(StoreError) as error:
        Store(tmp_path / ("x" * 300))
    refused(error, "File name too long")


def use(folder: Path) -> None:
    with contextlib.closing(Store(folder)) as store:
        store.save_stage(row())
        for i in range(200):
            store.stage(f"{i:040d}")


@pytest.mark.parametrize("damage", ["text", "cut", "holes", "foreign"])
def test_a_damaged_database_is_one_sentence(book: Store, damage: str) -> None:
    for i in range(200):
        book.save_stage(row(f"{i:040d}", trace="x" * 500))
    book.close()
    place = book.database
    if damage == "text":
        place.write_bytes(b"this is no database, whatever its name says\n" * 100)
    elif damage == "cut":
        place.write_bytes(place.read_bytes()[:20_000])
    elif damage == "holes":
        place.write_bytes(place.read_bytes()[:4096] + b"\xee" * (place.stat().st_size - 4096))
    else:
        place.unlink()
        with database(book.folder) as db:
            db.execute("create table stage (something text)")
    with pytest.raises(StoreError) as error:
        use(book.folder)
    refused(error, f"the database in {book.folder} cannot be used", "choose another --store")


def test_a_database_that_another_process_keeps_busy(book: Store) -> None:
    book._db.execute("pragma busy_timeout = 20")
    with database(book.folder) as other:
        other.execute("begin immediate")
        with pytest.raises(StoreError) as error:
            book.save_stage(row())
    refused(error, "another process has kept the database", "busy")
    book.save_stage(row())


def open_as_nobody(folder: str, create: bool) -> str:
    if os.geteuid() == 0:
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    try:
        store = Store(folder, create=create)
    except StoreError as error:
        return str(error)
    return f"{len(store.records())} records, {store.get_object(store.records()[0].artefacts['data']['x'])!r}"


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that every user may enter; pytest's own is private."""
    folder = Path(tempfile.mkdtemp(prefix="ostiary-test-"))
    folder.chmod(0o755)
    yield folder
    for place in [folder, *folder.rglob("*")]:
        if place.is_dir():
            place.chmod(0o755)
    shutil.rmtree(folder)


def locked(folder: Path) -> None:
    for place in [*folder.rglob("*"), folder]:
        place.chmod(0o555 if place.is_dir() else 0o444)


def test_a_folder_that_may_not_be_written(public: Path) -> None:
    locked(public)
    answer = Child(open_as_nobody, str(public / "store"), True).result()
    assert answer.startswith(f"the store {public / 'store'} cannot be written (Permission denied); choose a folder")


def test_a_store_that_may_be_read_but_not_written(public: Path) -> None:
    store = Store(public / "store")
    store.save_record(record(artefacts={"data": {"x": store.put_object(b"weights")}}))
    store.close()
    locked(public)
    assert Child(open_as_nobody, str(public / "store"), False).result() == "1 records, b'weights'"
    answer = Child(open_as_nobody, str(public / "store"), True).result()
    assert "cannot be written" in answer
    assert "\n" not in answer


# full disks


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_disk_that_is_full_while_an_artefact_is_written(book: Store, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    kept = book.put_object(b"before")

    def full(handle: int) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StoreError) as error:
            book.put_object(b"after")
    refused(error, f"the disk of {book.folder} is full", "free space and run the same command", "finished stages are kept")
    assert [p for p in (book.folder / "objects").rglob("*") if p.is_file()] == [book.object(kept)]
    assert book.get_object(book.put_object(b"after")) == b"after"


def test_a_disk_that_is_full_while_the_database_is_written(book: Store) -> None:
    book.save_stage(row())
    pages = book._db.execute("pragma page_count").fetchone()[0]
    book._db.execute(f"pragma max_page_count = {pages}")
    with pytest.raises(StoreError) as error:
        book.save_stage(row("cd" * 20, trace="x" * 100_000))
    refused(error, f"the disk of {book.folder} is full", "finished stages are kept")
    with pytest.raises(StoreError):
        book.save_record(record(title="x" * 100_000))
    assert book.records() == []
    book._db.execute("pragma max_page_count = 1000000")
    book.save_record(record())
    assert book.stage(KEY) == row()
    assert book.stage("cd" * 20) is None
    check_whole(book.folder)


def write_under_limit(folder: str, limit: int) -> list[str]:
    """What the store says when files may not grow beyond `limit` bytes: a real refusal by the system."""
    import resource

    store = Store(folder)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))  # Python ignores SIGXFSZ
    said = []
    large = row("cd" * 20, trace="x" * 4 * limit)
    for attempt in (lambda: store.put_object(os.urandom(4 * limit)), lambda: store.save_stage(large)):
        try:
            attempt()
        except StoreError as error:
            said.append(str(error))
    return said


@pytest.mark.skipif(sys.platform == "win32", reason="limits of POSIX")
def test_a_system_that_refuses_to_write_more(book: Store) -> None:
    book.save_stage(row(artefacts={"x": book.put_object(b"before")}))
    said = Child(write_under_limit, str(book.folder), 50_000).result()
    assert len(said) == 2
    for sentence in said:
        assert "finished stages are kept" in sentence
        assert "\n" not in sentence
    assert book.stage(KEY) is not None
    assert book.stage("cd" * 20) is None
    check_whole(book.folder)


def test_every_error_of_sqlite_becomes_a_sentence(book: Store) -> None:
    book.close()
    with pytest.raises(StoreError) as error:
        book.stage(KEY)
    refused(error, "closed database")
    assert isinstance(error.value.__cause__, sqlite3.Error)
