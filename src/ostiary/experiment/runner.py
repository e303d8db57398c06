"""The pipeline: expand a plan into stages, compute each once, resume, and assemble records.

data -+-> control (clean victim) ----------+-------------------------------+
      +-> victim (attack, training) -+-----+-> judge, relearning           |
                                     +-> detector                          |
                                     +-> purifier -+----> verdict <--------+
                                                   +----> rescan, where no attack is known
"""

from __future__ import annotations

import contextlib
import functools
import heapq
import os
import pickle
import tempfile
import threading
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ostiary.console import listening, log
from ostiary.errors import BadSpec, InvalidInput, OstiaryError, StoreError
from ostiary.experiment.assembly import assemble
from ostiary.experiment.bench import Bench
from ostiary.experiment.compute import Result, compute
from ostiary.experiment.origin import Origin, present
from ostiary.experiment.plan import Cell, Plan, read_plan
from ostiary.experiment.pool import ONE_PROCESS, Pool
from ostiary.experiment.record import LEFT_OUT, SKIPPED, Record, StageRow, encode
from ostiary.experiment.stages import Stage, stages_of
from ostiary.experiment.store import DATABASE, Damaged, Store, now
from ostiary.thresholds import EXACT


@dataclass
class Progress:
    """What a listener is told: counts of unique stages, and what runs now (stage key -> (name, what, share))."""

    total: int = 0
    done: int = 0
    reused: int = 0
    failed: int = 0
    running: dict[str, tuple[str, str, float]] = field(default_factory=dict)


Listener = Callable[[Progress], None]
DEFAULT_STORE = "ostiary-store"
SLOW = ("torch._dynamo", "sklearn.ensemble")  # imported on first use by optimizers and the stealth figures: seconds
_alone = threading.Lock()  # torch has one global generator and one thread count per process


def run(
    plan: str | Path | Mapping[str, Any] | Plan,
    *,
    changes: Iterable[str] = (),
    store: str | Path = DEFAULT_STORE,
    workers: int = 1,
    device: str = "cpu",
    listener: Listener | None = None,
) -> list[Record]:
    """Run a plan (file, mapping or Plan, with `option=value` changes) and return one Record per cell and seed.

    Finished stages are taken from the store; failed ones are tried again. workers: processes (1: this one, 0: one
    per core). Raises OstiaryError for a plan or store that cannot be used; a stage that fails is recorded instead.
    """
    device = str(device)
    _check(workers, device)
    settings, passed = read_plan(plan, changes)
    cells = settings.cells()
    records: dict[int, Record] = {}
    with Store(store) as book:

        def finish(i: int) -> None:
            records[i] = assemble(book, cells[i], passed, settings, job.reasons)
            book.save_record(records[i], now())

        job = _Job(book, cells, device, listener or (lambda _: None), finish)
        job.run(workers)
    return [records[i] for i in range(len(cells))]


@dataclass(frozen=True)
class Preview:
    """What a run would do. cells: each with the names of its stages that are still to compute; stages, left: unique ones."""

    cells: list[tuple[Cell, list[str]]]
    stages: int
    left: int


def preview(
    plan: str | Path | Mapping[str, Any] | Plan, *, changes: Iterable[str] = (), store: str | Path = DEFAULT_STORE
) -> Preview:
    """What `run` with the same arguments would do; nothing is computed or written. Raises what `run` would raise."""
    settings, _ = read_plan(plan, changes)
    cells = settings.cells()
    with tempfile.TemporaryDirectory() as empty:
        there = (Path(store) / DATABASE).exists()  # where there is a folder alone, a run would make the store
        with Store(store if there else empty, create=not there) as book:
            job = _Job(book, cells, "cpu", lambda _: None, lambda _: None)
            found = job.found()
    left = [(cell, [s.name for s in stages_of(cell) if s.key() not in found]) for cell in cells]
    return Preview(left, len(job.stages), len(job.stages.keys() - found))


def _check(workers: int, device: str) -> None:
    if not isinstance(workers, int) or workers < 0:
        raise BadSpec(f"workers is a number of processes, 0 for one per core; got {workers!r}")
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InvalidInput(f"the device '{device}' cannot be used here ({_first_line(str(error))}); try cpu") from error


class _Job:
    """Every unique stage of a run, handed out in the plan's order as soon as its upstream is there.

    finish: called with the number of a cell when the last of its stages is settled. reasons: stage key -> why it failed
    or was not tried.
    """

    def __init__(self, store: Store, cells: list[Cell], device: str, listener: Listener, finish: Callable[[int], None]) -> None:
        self.store, self.device, self.listener, self.finish = store, device, listener, finish
        self.stages: dict[str, Stage] = {}
        self.cells: dict[str, list[int]] = defaultdict(list)  # stage -> the cells it belongs to
        self.left: list[int] = []  # cell -> how many of its stages are not settled
        for i, cell in enumerate(cells):
            own = {stage.key(): stage for stage in stages_of(cell)}
            self.left.append(len(own))
            for key, stage in own.items():
                self.stages.setdefault(key, stage)
                self.cells[key].append(i)
        self.waits = {key: {u.key() for u in [*stage.upstream(), *_gate(stage)]} for key, stage in self.stages.items()}
        self.below: dict[str, list[str]] = defaultdict(list)
        for key, upstream in self.waits.items():
            for u in upstream:
                self.below[u].append(key)
        self.place = {key: i for i, key in enumerate(self.stages)}
        self.ready = [(i, key) for key, i in self.place.items() if not self.waits[key]]  # a heap: it is sorted
        self.settled: set[str] = set()
        self.reasons: dict[str, str] = {}
        self.progress = Progress(total=len(self.stages))

    @functools.cached_property
    def origin(self) -> Origin:
        """Asked once for all stages and workers of a run."""
        named = self.device.startswith("cuda") and torch.cuda.is_available()
        return present(self.device, torch.cuda.get_device_name(self.device) if named else "")

    def run(self, workers: int) -> None:
        found = self.found()
        for key in (k for k in self.stages if k in found):
            self.progress.reused += 1
            self.settle(key)
        for key in [*self.settled]:
            self.leave_out(key)
        self.tell()
        n = min(workers or _cores(), len(self.stages) - len(self.settled))
        if n > 1:
            self.in_pool(n)
        elif n == 1:
            self.here()

    def found(self) -> set[str]:
        """The stages that need not be computed: finished ones, and of those told by another store whatever no stage reads
        that is still to do."""
        readers: dict[str, list[str]] = defaultdict(list)
        spared: set[str] = set()
        for key, stage in self.stages.items():
            for upstream in stage.upstream():
                readers[upstream.key()].append(key)
            if stage.kind == "judge" and self.too_weak(stage):
                spared |= {later.key() for later in stages_of(stage.cell) if _gate(later)}
        found: set[str] = set()
        for key in reversed(self.stages):
            row = self.store.told(key)
            if row is not None and row.status == "done":
                idle = all(reader in found or reader in spared for reader in readers[key])
                if not row.elsewhere or idle or self.store.stage(key) is not None:
                    found.add(key)
        return found

    def here(self) -> None:
        bench = Bench(self.store, self.origin)
        while (stage := self.next()) is not None:
            note = functools.partial(self.note, stage)
            note("", 0.0)
            with listening(note):
                reason = make(stage, bench)
            self.settle(stage.key(), reason)
            self.leave_out(stage.key())
            self.tell()

    def in_pool(self, n: int) -> None:
        surroundings = (str(self.store.folder.absolute()), dict(os.environ), self.origin)
        pool = Pool(n, _open_worker, surroundings, preload=_modules(self.stages.values()))
        try:
            self.hand_out(pool)
            for kind, stage, value in pool.events():
                if kind == "progress":
                    self.note(stage, *value)
                    continue
                self.settle(stage.key(), value if kind == "done" else self.lost(stage, *value))
                self.leave_out(stage.key())
                self.hand_out(pool)
                self.tell()
        finally:
            pool.close()

    def next(self) -> Stage | None:
        """The first stage of the plan that can start; one that another run is at only where there is no other."""
        busy: list[tuple[int, str]] = []
        found = None
        while self.ready and found is None:
            place, key = heapq.heappop(self.ready)
            if key not in self.settled and self.store.claimed(key):
                busy.append((place, key))
            elif key not in self.settled:
                found = key
        for entry in busy:
            heapq.heappush(self.ready, entry)
        if found is None and busy:
            found = heapq.heappop(self.ready)[1]
        return None if found is None else self.stages[found]

    def hand_out(self, pool: Pool) -> None:
        """No more than can start: what waits in the pool cannot be overtaken by what comes earlier in the plan."""
        while pool.free > 0 and (stage := self.next()) is not None:
            try:
                pool.submit(stage)
            except (pickle.PicklingError, AttributeError, TypeError) as error:
                raise BadSpec(f"{stage.name} cannot be handed to another process ({error}); {ONE_PROCESS}") from error

    def settle(self, key: str, reason: str = "") -> None:
        """A stage is done, or has failed for a reason; then what builds on it is not tried."""
        self.progress.running.pop(key, None)
        self.progress.done += not reason
        self.progress.failed += bool(reason)
        self.close(key, reason)
        if not reason:
            for below in self.below[key]:
                self.waits[below].discard(key)
                if not self.waits[below]:
                    heapq.heappush(self.ready, (self.place[below], below))
            return
        blocked = [*self.below[key]]
        while blocked:
            below = blocked.pop()
            if below not in self.settled:
                self.close(below, f"{SKIPPED}{self.stages[key].name} failed")
                blocked += self.below[below]

    def leave_out(self, key: str) -> None:
        """After a judge's word: what is not worth running where the attack's lift is too small (finished stages stay)."""
        stage = self.stages[key]
        if stage.kind != "judge" or key in self.reasons or not self.too_weak(stage):
            return
        for later in stages_of(stage.cell):
            if _gate(later) and later.key() not in self.settled:
                self.progress.total -= 1
                self.close(later.key(), f"{LEFT_OUT}{100 * stage.cell.plan.least_lift:.0f} points")

    def too_weak(self, judge: Stage) -> bool:
        """Whether a judge has found the attack's lift too small for its plan."""
        least = judge.cell.plan.least_lift
        row = self.store.told(judge.key()) if least > 0 else None
        return row is not None and row.status == "done" and _below(row.metrics, least)

    def close(self, key: str, reason: str) -> None:
        self.settled.add(key)
        if reason:
            self.reasons[key] = reason
        for i in self.cells[key]:
            self.left[i] -= 1
            if self.left[i] == 0:
                self.finish(i)

    def lost(self, stage: Stage, error: Exception, trace: str) -> str:
        """Why a stage that its worker could not bring to an end has failed."""
        if isinstance(error, StoreError):
            raise error
        row = self.store.stage(stage.key())
        if row is not None and row.status == "done":  # another run has made it meanwhile
            return ""
        return _save_failure(self.store, stage, error, trace, 0.0, self.origin)

    def note(self, stage: Stage, what: str, done: float) -> None:
        self.progress.running[stage.key()] = (stage.name, what, done)
        self.tell()

    def tell(self) -> None:
        """A listener that fails is not asked again; raised inside a stage, its error would look like the stage's own."""
        try:
            self.listener(self.progress)
        except Exception:  # noqa: BLE001 - whatever a listener does wrong, the run goes on
            log.warning("the progress listener failed and is told no more", exc_info=True)
            self.listener = lambda _: None


def _gate(stage: Stage) -> list[Stage]:
    """The judge whose word a detector or purifier and what follows from it wait for."""
    gated = stage.cell.plan.least_lift > 0 and stage.kind in ("detector", "relearning", "purifier", "verdict")
    return [Stage("judge", stage.cell)] if gated else []


def _below(metrics: Mapping[str, Any], least: float) -> bool:
    if "asr_lift" not in metrics:  # no attack is known, whatever may be there
        return False
    lift = metrics["asr_lift"]["value"]
    return lift is None or lift < least - EXACT


def _open_worker(folder: str, environment: dict[str, str], origin: Origin) -> Callable[[Stage], str]:
    os.environ.update(environment)  # the fork server has that of the day it was started
    bench = Bench(Store(folder), origin)
    return lambda stage: make(stage, bench)


def _modules(stages: Iterable[Stage]) -> list[str]:
    """What every worker will need, to be imported once."""
    kinds: set[type] = set()
    for stage in stages:
        plan = stage.cell.plan
        kinds |= {type(part) for part in (plan.dataset, plan.victim, plan.attack, stage.part) if part is not None}
    return [*SLOW, "ostiary.experiment.runner", *sorted(k.__module__ for k in kinds if k.__module__.startswith("ostiary."))]


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def make(stage: Stage, bench: Bench) -> str:
    """Compute a stage unless the store has it, and save what came of it; returns why it failed, or nothing."""
    store, key = bench.store, stage.key()
    with store.claim(key):
        row = store.stage(key)
        if row is not None and row.status == "done":
            return ""
        began = now()
        try:
            result = _compute(stage, bench)
            encode([result.metrics, result.doubts])  # a method may return what is no JSON
        except StoreError:
            raise
        except (Exception, SystemExit) as error:  # noqa: BLE001 - any failure of a method is recorded, the others go on
            return _save_failure(store, stage, error, traceback.format_exc(), now() - began, bench.origin)
        artefacts = {name: store.put_object(data) for name, data in result.artefacts.items()}
        took = now() - began + result.borrowed
        found = {"metrics": result.metrics, "doubts": result.doubts, "artefacts": artefacts, "origin": bench.origin}
        store.save_stage(_row(stage, "done", took, **found))
    return ""


def _compute(stage: Stage, bench: Bench) -> Result:
    """`compute`; results upstream that turn out to be damaged are made again first."""
    try:
        with _alone, _one_thread():
            return compute(stage, bench)
    except Damaged as error:
        log.warning("%s; it is made again now", error)
    for upstream in stage.upstream():
        bench.store.check(upstream.key())
        if make(upstream, bench):
            raise InvalidInput(f"{upstream.name} was damaged, had to be made again, and failed")
    with _alone, _one_thread():
        return compute(stage, bench)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """One thread per process: two on two busy cores are slower, and sums of several threads are not the same bytes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _row(stage: Stage, status: str, seconds: float, **found: Any) -> StageRow:
    upstream = [u.key() for u in stage.upstream()]
    return StageRow(stage.key(), stage.kind, stage.name, stage.spec(), upstream, status, seconds, now(), **found)


def _save_failure(store: Store, stage: Stage, error: BaseException, trace: str, seconds: float, origin: Origin) -> str:
    """Returns the reason, one line."""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - a user's own error may fail to say what it is
        text = ""
    reason = _first_line(text) if isinstance(error, OstiaryError) else f"{type(error).__name__}: {_first_line(text)}"
    log.debug("stage %s failed: %s", stage.name, trace)
    store.save_stage(_row(stage, "failed", seconds, error=reason, trace=_printable(trace), origin=origin))
    return reason


def _first_line(text: str) -> str:
    return next((_printable(line.strip()) for line in text.splitlines() if line.strip()), "no reason given")


def _printable(text: str) -> str:
    """File names may hold bytes that are no UTF-8, and a store cannot."""
    return text.encode("utf-8", "backslashreplace").decode()
