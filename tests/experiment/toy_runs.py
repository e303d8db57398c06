"""Toy plans that run in half a second, parts that misbehave on request, and runs in processes that may be killed."""

from __future__ import annotations

import contextlib
import hashlib
import multiprocessing
import os
import signal
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import torch

from ostiary.context import Context
from ostiary.evidence import Evidence
from ostiary.experiment.record import Record
from ostiary.experiment.runner import SLOW, run
from ostiary.experiment.store import Store
from ostiary.models.victim import Victim
from ostiary.purifiers.base import Purifier

Plan = dict[str, Any]
TOY: Plan = {
    "dataset": {"name": "toy-graphs"},
    "victim": {"name": "gin", "hidden": 8, "layers": 2},
    "trainer": {"epochs": 2},
    "attack": {"name": "sub-ba", "rate": 0.1},
}
TOY_IMAGES: Plan = {  # changes of TOY
    "dataset": "toy-images",
    "victim": {"name": "preact-resnet", "width": 4, "blocks": [1]},
    "trainer": {"epochs": 1},
    "attack": "badnets",
    "purifiers": [],
}
TUNED = {"name": "fine-tune", "epochs": 2}
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload([*SLOW, "ostiary.experiment.runner", "ostiary.data.toy", "ostiary.models.graph_nets"])


def toy(**changes: Any) -> Plan:
    return {**TOY, "purifiers": [TUNED], **changes}


# parts that misbehave


class Deadly(Purifier, name="deadly"):
    """Kills its own process the first `times` times; `path` keeps count."""

    path: str
    times: int = 1

    def cleanse(self, evidence: Evidence, ctx: Context) -> Victim:
        count = Path(self.path)
        with count.open("a") as file:
            file.write("x")
        if count.stat().st_size <= self.times:
            os.kill(os.getpid(), signal.SIGKILL)
        return evidence.victim.clone()


class Failing(Purifier, name="failing"):
    """Fails in the way called `how` while the file `path` exists; without a path always."""

    path: str = ""
    how: str = "plain"

    def cleanse(self, evidence: Evidence, ctx: Context) -> Victim:
        if self.path and not Path(self.path).exists():
            return evidence.victim.clone()
        if self.how == "notes":
            found = evidence.victim.clone()
            found.notes["unheard of"] = object()
            return found
        if self.how == "nan":
            found = evidence.victim.clone()
            for parameter in found.module.parameters():
                parameter.data.fill_(float("nan"))
            return found
        raise ERRORS[self.how]


class Mute(Exception):
    def __str__(self) -> str:
        raise ValueError("cannot say")


ERRORS: dict[str, BaseException] = {
    "plain": ValueError("it does not work"),
    "lines": RuntimeError("\n  first line\nsecond line"),
    "empty": ArithmeticError(),
    "mute": Mute(),
    "exit": SystemExit(3),
    "memory": MemoryError(),
    "bytes": OSError(5, "broken", "caf\udce9"),
}


class Blanking(Purifier, name="blanking"):
    """Breaks the rule: changes the victim that it is given."""

    def cleanse(self, evidence: Evidence, ctx: Context) -> Victim:
        with torch.no_grad():
            for p in evidence.victim.parameters():
                p.zero_()
        return evidence.victim


class Meddling(Purifier, name="meddling"):
    """Changes the file `path` while it works."""

    path: str

    def cleanse(self, evidence: Evidence, ctx: Context) -> Victim:
        with Path(self.path).open("a", encoding="utf-8") as file:
            file.write("\n# changed\n")
        return evidence.victim.clone()


# what came of a run


def facts(records: list[Record]) -> list[dict[str, Any]]:
    """Everything of records that does not depend on when, where and how fast they were made."""
    names = ("key", "plan", "metrics", "doubts", "status", "errors", "stages", "artefacts", "device", "title")
    return [{name: getattr(record, name) for name in names} for record in records]


@contextmanager
def database(store: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(store / "ostiary.sqlite", isolation_level=None)) as db:
        yield db


def watch(store: Path) -> None:
    """From now on, every stage saved by whatever process is noted in the database itself."""
    Store(store).close()
    with database(store) as db:
        db.execute("create table saved (key text, status text)")
        db.execute("create trigger noted after insert on stage begin insert into saved values (new.key, new.status); end")


def saved(store: Path, status: str = "done") -> Counter[str]:
    """Key -> how often it was saved since `watch`."""
    with database(store) as db:
        return Counter(key for (key,) in db.execute("select key from saved where status = ?", (status,)))


def kinds(store: Path, status: str = "done") -> Counter[str]:
    """Kind of stage -> how often it was saved since `watch`."""
    with database(store) as db:
        known = dict(db.execute("select key, kind from stage"))
    return sum((Counter({known[key]: n}) for key, n in saved(store, status).items()), Counter())


def rows(store: Path) -> dict[str, tuple[str, float]]:
    """Key -> (status, when made) of the stages in a store."""
    if not (store / "ostiary.sqlite").exists():
        return {}
    with database(store) as db:
        if not db.execute("select 1 from sqlite_master where name = 'stage'").fetchone():
            return {}
        return {key: (status, made) for key, status, made in db.execute("select key, status, made from stage")}


def check_whole(store: Path) -> None:
    """The database is sound, what can be seen of objects is whole, and every stage has its artefacts."""
    found = rows(store)
    if not found:
        return
    with database(store) as db:
        assert db.execute("pragma integrity_check").fetchall() == [("ok",)]
        (records,) = db.execute("select count(*) from record").fetchone()
    for file in (store / "objects").glob("[0-9a-f][0-9a-f]/*"):
        assert hashlib.blake2b(file.read_bytes(), digest_size=20).hexdigest() == file.parent.name + file.name
    with closing(Store(store)) as book:
        assert all(book.stage(key) is not None for key in found)
        assert len(book.records()) == records, "damaged ones are left out"


# processes


def _server() -> dict[str, Any]:
    """Where the fork server of this process is to be found."""
    forkserver.ensure_running()
    server = forkserver._forkserver  # type: ignore[attr-defined]
    return {k: v for k, v in vars(server).items() if k in ("_forkserver_address", "_forkserver_authkey")}


def _call(pipe: Any, address: dict[str, Any], function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    server: Any = forkserver._forkserver  # type: ignore[attr-defined]
    vars(server).update(address, ensure_running=lambda: None)  # workers come from the tests' server: seconds saved
    try:
        pipe.send((True, function(*args)))
    except BaseException as error:  # noqa: BLE001 - told to the test
        pipe.send((False, f"{type(error).__name__}: {error}"))


class Child:
    """`function(*args)` in a process of its own, with all libraries loaded before it starts."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.pipe, there = CONTEXT.Pipe()
        self.process = CONTEXT.Process(target=_call, args=(there, _server(), function, args))
        try:
            self.process.start()
        except OSError:  # a child that is killed while it asks for a worker takes the server with it
            time.sleep(0.2)
            self.process = CONTEXT.Process(target=_call, args=(there, _server(), function, args))
            self.process.start()
        there.close()

    def result(self, seconds: float = 60.0) -> Any:
        """What the function returned; an AssertionError with the error it raised."""
        try:
            assert self.pipe.poll(seconds), "the process gave no answer in time"
            good, value = self.pipe.recv()
        finally:
            self.end()
        assert good, value
        return value

    def kill(self) -> None:
        assert self.process.pid is not None
        with contextlib.suppress(ProcessLookupError):  # it may just have come to its end
            os.kill(self.process.pid, signal.SIGKILL)
        self.end()

    def end(self) -> None:
        self.process.join(10)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self.pipe.close()


def run_as(mark: str, plan: Plan, store: str, workers: int = 1) -> list[dict[str, Any]]:
    """`run` with a file that tells when it starts and which processes work for it."""

    def note(progress: Any) -> None:
        pids = [str(p.pid) for p in multiprocessing.active_children()]
        Path(f"{mark}.part").write_text("\n".join(pids), encoding="utf-8")
        os.replace(f"{mark}.part", mark)  # this process may be killed while it writes

    Path(mark).touch()
    return facts(run(plan, store=store, workers=workers, listener=note))


def wait_for(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.01)


def alive(pid: int) -> bool:
    """Whether any thread of a process runs; one that waits to be reaped does not."""
    place = Path(f"/proc/{pid}")
    try:
        state = (place / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
        return state not in "ZX" or len(list((place / "task").iterdir())) > 1
    except (FileNotFoundError, ProcessLookupError):
        return False


LINUX = sys.platform == "linux"
