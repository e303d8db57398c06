"""The pool on its own, with small functions in place of stages."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pytest
import windows
from toy_runs import LINUX, Child, alive, wait_for

from ostiary.console import progress
from ostiary.errors import BadSpec
from ostiary.experiment import pool as module
from ostiary.experiment.pool import Lost, Pool

Task = tuple[str, Any]


def make(folder: str = "") -> Callable[[Task], Any]:
    if folder == "broken":
        raise BadSpec("no work can be made")

    def work(task: Task) -> Any:
        return getattr(Works(), task[0])(task[1])

    return work


class Works:
    """What a task can ask for by name."""

    def double(self, x: Any) -> Any:
        return 2 * x

    def pid(self, x: Any) -> int:
        time.sleep(0.05)
        return os.getpid()

    def tell(self, x: Any) -> Any:
        for share in (0.0, 0.5, 1.0):
            progress("working", share)
        return x

    def fail(self, x: Any) -> None:
        raise BadSpec(f"{x} is bad")

    def fail_oddly(self, x: Any) -> None:
        class Local(Exception):  # cannot be pickled
            pass

        raise Local("what it says")

    def die(self, x: tuple[str, int]) -> str:
        """Killed the first x[1] times; the file x[0] keeps count."""
        with open(x[0], "a", encoding="utf-8") as file:
            file.write("x")
        if os.stat(x[0]).st_size <= x[1]:
            os.kill(os.getpid(), signal.SIGKILL)
        return "alive"

    def leave(self, code: int) -> None:
        os._exit(code)

    def sleep(self, x: tuple[str, float]) -> None:
        Path(x[0]).write_text(str(os.getpid()), encoding="utf-8")
        time.sleep(x[1])

    def stay(self, mark: str) -> None:
        """Does not leave when asked to."""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        Path(mark).write_text(str(os.getpid()), encoding="utf-8")
        time.sleep(60)


@pytest.fixture
def pool() -> Iterator[Pool]:
    made = Pool(2, make, ())
    yield made
    made.close()


def results(pool: Pool, *tasks: Task) -> dict[Task, tuple[str, Any]]:
    for task in tasks:
        pool.submit(task)
    return {task: (kind, value) for kind, task, value in pool.events() if kind != "progress"}


def test_every_task_is_answered(pool: Pool) -> None:
    tasks = [("double", i) for i in range(20)]
    assert results(pool, *tasks) == {task: ("done", 2 * task[1]) for task in tasks}
    assert pool.free == 2
    assert list(pool.events()) == []


def test_tasks_go_to_both_workers_and_free_counts_idle_ones(pool: Pool) -> None:
    assert pool.free == 2
    pool.submit(("pid", 0))
    assert pool.free == 1
    pool.submit(("pid", 1))
    pool.submit(("pid", 2))
    assert pool.free == -1
    found = results(pool)
    assert len({value for _, value in found.values()}) == 2


def test_tasks_may_be_submitted_while_others_run(pool: Pool) -> None:
    pool.submit(("double", 1))
    seen = []
    for _, _task, value in pool.events():
        seen.append(value)
        if value < 64:
            pool.submit(("double", value))
    assert seen == [2, 4, 8, 16, 32, 64]


def test_progress_comes_before_the_result(pool: Pool) -> None:
    pool.submit(("tell", "x"))
    assert [(kind, value) for kind, _, value in pool.events()] == [
        ("progress", ("working", 0.0)),
        ("progress", ("working", 0.5)),
        ("progress", ("working", 1.0)),
        ("done", "x"),
    ]


def test_errors_cross_the_pipe_and_harm_nobody_else(pool: Pool) -> None:
    found = results(pool, ("fail", "it"), ("fail_oddly", 0), ("double", 4))
    kind, (error, trace) = found["fail", "it"]
    assert (kind, type(error), str(error)) == ("failed", BadSpec, "it is bad")
    assert "in fail" in trace
    kind, (error, trace) = found["fail_oddly", 0]
    assert (kind, str(error)) == ("failed", "Local: what it says")
    assert found["double", 4] == ("done", 8)


def test_a_killed_worker_is_replaced_and_its_task_done(pool: Pool, tmp_path: Path) -> None:
    task = ("die", (str(tmp_path / "count"), 1))
    found = results(pool, task, ("double", 1), ("double", 2))
    assert found == {task: ("done", "alive"), ("double", 1): ("done", 2), ("double", 2): ("done", 4)}
    assert (tmp_path / "count").read_text(encoding="utf-8") == "xx"


@pytest.mark.parametrize("task", [("die", ("count", 9)), ("leave", 3)])
def test_a_task_that_kills_twice_is_given_up_and_the_others_go_on(
    pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: Task
) -> None:
    if task[0] == "die":
        task = ("die", (str(tmp_path / "count"), 9))
    found = results(pool, task, *(("double", i) for i in range(6)))
    kind, (error, trace) = found.pop(task)
    assert (kind, type(error), trace) == ("failed", Lost, "")
    expected = "killed twice (signal 9); it may need more memory" if task[0] == "die" else "ended twice (exit code 3)"
    assert expected in str(error)
    assert "\n" not in str(error)
    assert all(kind == "done" for kind, _ in found.values())
    assert len(found) == 6


def test_a_worker_that_dies_idle_costs_no_task_a_try(pool: Pool) -> None:
    for _ in range(3):
        pids = {value for _, value in results(pool, ("pid", 0), ("pid", 1)).values()}
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        wait_for(lambda pids=pids: not any(alive(p) for p in pids))  # type: ignore[misc]
    assert results(pool, ("double", 1), ("double", 2)) == {("double", 1): ("done", 2), ("double", 2): ("done", 4)}
    assert pool._lost == {}


class Known:
    """Pickled by its name; a worker looks for it in vain."""


def test_a_task_that_a_worker_cannot_load_is_one_sentence(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Known, "__module__", "os")
    monkeypatch.setattr(os, "Known", Known, raising=False)
    found = results(pool, ("double", Known), ("double", 3))
    kind, (error, _) = found["double", Known]
    assert (kind, type(error)) == ("failed", Lost)
    assert "cannot load it (Can't get attribute 'Known'" in str(error)
    assert "use workers=1" in str(error)
    assert found["double", 3] == ("done", 6)


def test_work_that_cannot_be_made_fails_every_task_with_its_error() -> None:
    pool = Pool(1, make, ("broken",))
    try:
        found = results(pool, ("double", 1), ("double", 2))
    finally:
        pool.close()
    assert [(kind, str(value[0])) for kind, value in found.values()] == [("failed", "no work can be made")] * 2


def test_close_ends_workers_in_the_middle_of_a_task(tmp_path: Path) -> None:
    pool = Pool(2, make, ())
    pool.submit(("sleep", (str(tmp_path / "pid"), 60.0)))
    wait_for(lambda: (tmp_path / "pid").exists() and bool((tmp_path / "pid").read_text(encoding="utf-8")))
    pool.close()
    assert not alive(int((tmp_path / "pid").read_text(encoding="utf-8")))


def test_close_ends_workers_that_will_not_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.1)
    pool = Pool(1, make, ())
    pool.submit(("stay", str(tmp_path / "pid")))
    wait_for(lambda: (tmp_path / "pid").exists() and bool((tmp_path / "pid").read_text(encoding="utf-8")))
    pool.close()
    assert not alive(int((tmp_path / "pid").read_text(encoding="utf-8")))


def test_a_fork_server_that_just_died_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = forkserver.connect_to_new_process, []

    def refuse_once(*args: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            raise ConnectionRefusedError(111, "Connection refused")
        return real(*args)

    monkeypatch.setattr(forkserver, "connect_to_new_process", refuse_once)
    pool = Pool(1, make, ())
    try:
        assert results(pool, ("double", 4)) == {("double", 4): ("done", 8)}
    finally:
        pool.close()
    assert len(calls) == 2


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (BlockingIOError(11, "Resource temporarily unavailable"), "Resource temporarily unavailable); use fewer workers"),
        (OSError("AF_UNIX path too long"), "AF_UNIX path too long); set TMPDIR to a shorter path"),
    ],
)
def test_no_further_process(monkeypatch: pytest.MonkeyPatch, error: OSError, said: str) -> None:
    def refuse(*_: Any) -> None:
        raise error

    monkeypatch.setattr(forkserver, "connect_to_new_process", refuse)
    with pytest.raises(Lost) as found:
        Pool(2, make, ())
    assert str(found.value) == f"no process can be started ({said}"


def test_workers_where_there_is_no_fork_server(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        windows.pretend(patch)
        pool = Pool(1, make, (), preload=["a module that is not there"])
    try:
        assert isinstance(pool._context, multiprocessing.context.SpawnContext)
        assert results(pool, ("double", 4)) == {("double", 4): ("done", 8)}
    finally:
        pool.close()


def own_pool(marks: list[str]) -> None:
    pool = Pool(2, make, ())
    for mark in marks:
        pool.submit(("sleep", (mark, 60.0)))
    list(pool.events())


@pytest.mark.skipif(not LINUX, reason="reads /proc")
def test_workers_do_not_outlive_a_killed_parent(tmp_path: Path) -> None:
    marks = [tmp_path / "a", tmp_path / "b"]
    child = Child(own_pool, [str(m) for m in marks])
    wait_for(lambda: all(m.exists() and m.read_text(encoding="utf-8") for m in marks))
    pids = [int(m.read_text(encoding="utf-8")) for m in marks]
    assert all(alive(p) for p in pids)
    child.kill()
    wait_for(lambda: not any(alive(p) for p in pids), seconds=5.0)


def test_a_script_without_a_guard_is_told_so(tmp_path: Path) -> None:
    """multiprocessing imports the script in every worker; there it must not start a pool again."""
    script = tmp_path / "script.py"
    script.write_text(
        "from ostiary.experiment.pool import Pool\n"
        "pool = Pool(1, int, ())\n"
        "pool.submit('x')\n"
        "print(*(value[0] for kind, task, value in pool.events()))\n"
        "pool.close()\n",
        encoding="utf-8",
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60, check=True)
    assert "a script must call run with workers under if __name__ == '__main__'" in done.stdout
