"""A pool of processes with one thread each, by a fork server if there is one. A killed worker's task is handed out again."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from ostiary.console import listening
from ostiary.errors import OstiaryError

Work = Callable[[Any], Any]
TRIES = 2
ONE_PROCESS = "define its classes in a module of their own, or use workers=1"
PATIENCE = 5.0  # seconds for a worker to go when asked


@dataclass
class _Worker:
    process: Any
    pipe: Connection
    task: Any = None


class Lost(OstiaryError):
    """No worker could bring this task to an end: it died twice, or cannot load it."""


class Pool:
    """`make` builds the worker's function inside the worker; tasks (hashable) and results must be picklable.

    Workers end with their parent, however it ends.
    """

    def __init__(self, n: int, make: Callable[..., Work], args: tuple[Any, ...], preload: Iterable[str] = ()) -> None:
        server = "forkserver" in multiprocessing.get_all_start_methods()
        self._context: Any = multiprocessing.get_context("forkserver" if server else "spawn")
        if preload and server:
            self._context.set_forkserver_preload(list(preload))
        self._make, self._args = make, args
        self._queue: deque[Any] = deque()
        self._lost: dict[Any, int] = {}
        self._workers: list[_Worker] = []
        try:
            for _ in range(n):
                self._workers.append(self._start())
        except BaseException:
            self.close()
            raise

    def _start(self) -> _Worker:
        here, there = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(there, self._make, self._args), daemon=True)
        with _interrupts_ignored():  # inherited: an interrupt is for the parent, who then ends the workers
            try:
                process.start()
            except OSError:  # the fork server has just died; the next start begins with a new one
                time.sleep(0.2)
                _start_again(process)
        there.close()
        return _Worker(process, here)

    @property
    def free(self) -> int:
        """How many tasks could start at once."""
        return sum(w.task is None for w in self._workers) - len(self._queue)

    def submit(self, task: Any) -> None:
        self._queue.append(task)
        self._hand_out()

    def _hand_out(self) -> None:
        for i, worker in enumerate(self._workers):
            if worker.task is None and self._queue:
                task = self._queue[0]
                try:
                    worker.pipe.send(task)
                except OSError:  # it died idle: no task is to blame
                    worker = self._renew(i)
                    with contextlib.suppress(OSError):  # dead again: `events` sees the end of its pipe
                        worker.pipe.send(task)
                worker.task = self._queue.popleft()

    def _renew(self, i: int) -> _Worker:
        self._workers[i].pipe.close()
        self._workers[i].process.join()
        self._workers[i] = self._start()
        return self._workers[i]

    def events(self) -> Iterator[tuple[str, Any, Any]]:
        """("progress", task, (what, share)), ("done", task, result) or ("failed", task, (error, trace)), until all is done."""
        while self._queue or any(w.task is not None for w in self._workers):
            busy = {w.pipe: w for w in self._workers if w.task is not None}
            for pipe in wait(list(busy)):
                worker = busy[pipe]  # type: ignore[index]
                task = worker.task
                try:
                    kind, value = worker.pipe.recv()
                except (EOFError, OSError):
                    yield from self._replace(worker)
                    continue
                if kind != "progress":
                    worker.task = None
                yield kind, task, value
            self._hand_out()

    def _replace(self, worker: _Worker) -> Iterator[tuple[str, Any, Any]]:
        """A new process for a dead one; its task goes to the front of the queue, or is given up."""
        task = worker.task
        self._renew(self._workers.index(worker))
        code = worker.process.exitcode
        self._lost[task] = self._lost.get(task, 0) + 1
        if self._lost[task] < TRIES:
            self._queue.appendleft(task)
        else:
            yield "failed", task, (Lost(_why(code)), "")

    def close(self) -> None:
        for worker in self._workers:
            worker.process.terminate()
        for worker in self._workers:
            worker.process.join(PATIENCE)
            if worker.process.is_alive():  # a user's code may catch the signal
                worker.process.kill()
                worker.process.join()
            worker.pipe.close()


def _start_again(process: Any) -> None:
    try:
        process.start()
    except OSError as error:
        advice = "set TMPDIR to a shorter path" if "AF_UNIX path" in str(error) else "use fewer workers"
        raise Lost(f"no process can be started ({error.strerror or error}); {advice}") from error


def _why(code: int | None) -> str:
    if code is not None and code < 0:
        return f"its process was killed twice (signal {-code}); it may need more memory than there is"
    guard = "if __name__ == '__main__'"
    return f"its process ended twice (exit code {code}), see stderr; a script must call run with workers under {guard}"


@contextlib.contextmanager
def _interrupts_ignored() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    was = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, was)


def _serve(pipe: Connection, make: Callable[..., Work], args: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what an interrupt means
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        work = make(*args)
    except Exception as error:  # noqa: BLE001 - reported to the parent, which raises it
        failure: Any = (error, traceback.format_exc())

        def work(task: Any) -> Any:
            raise failure[0]

    with listening(lambda what, done: _tell(pipe, "progress", (what, done))):
        while True:
            try:
                task = pipe.recv()
            except (EOFError, OSError):
                return
            except Exception as error:  # noqa: BLE001 - a class that only the parent knows, as in a notebook
                _tell(pipe, "failed", (Lost(f"its process cannot load it ({error}); {ONE_PROCESS}"), traceback.format_exc()))
                continue
            try:
                answer = ("done", work(task))
            except Exception as error:  # noqa: BLE001 - reported to the parent, which records it
                answer = ("failed", (_portable(error), traceback.format_exc()))
            _tell(pipe, *answer)


def _tell(pipe: Connection, kind: str, value: Any) -> None:
    try:
        pipe.send((kind, value))
    except OSError:
        os._exit(1)  # nobody listens any more; raised here, it would look like a failure of the task


def _end_with_parent() -> None:
    """A parent that was killed cannot end its workers; a worker inside a long task would not notice for hours."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _portable(error: Exception) -> Exception:
    """The error itself where it can cross a pipe, else its words."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001 - any failure to pickle means the words must do
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
