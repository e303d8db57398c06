"""The pipeline: expand a plan into stages, compute each once, resume, and assemble records.

    data -+-> control (clean victim) ----------+-------------------------------+
          +-> victim (attack, training) -+-----+-> judge                       |
                                         +-> detector                          |
                                         +-> purifier ------> verdict <--------+
"""

from __future__ import annotations

import hashlib
import os
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ostiary.component import Json
from ostiary.console import listening, log
from ostiary.errors import OstiaryError, StoreError
from ostiary.experiment.plan import Cell, Plan, read_plan
from ostiary.experiment.pool import Pool
from ostiary.experiment.record import Record, StageRow, canonical, git_revision, host, versions
from ostiary.experiment.stages import Bench, Stage, compute, stages_of
from ostiary.experiment.store import Store, now


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
    settings, passed = read_plan(plan, changes)
    cells = settings.cells()
    book = Store(store)
    try:
        stages = {s.key(): s for cell in cells for s in stages_of(cell)}
        book.forget_failures(set(stages))
        job = _Job(book, stages, str(store), device, listener or (lambda _: None))
        job.run(workers)
        records = [assemble(book, cell, passed, settings, device) for cell in cells]
        for record in records:
            book.save_record(record)
        return records
    finally:
        book.close()


class _Job:
    """Every unique stage of a run, handed out as soon as its upstream is there."""

    def __init__(self, store: Store, stages: dict[str, Stage], folder: str, device: str, listener: Listener) -> None:
        self.store, self.stages, self.folder, self.device, self.listener = store, stages, folder, device, listener
        self.upstream = {key: {u.key() for u in s.upstream()} for key, s in stages.items()}
        self.status: dict[str, str] = {}
        self.progress = Progress(total=len(stages))

    def run(self, workers: int) -> None:
        for key in self.stages:
            row = self.store.stage(key)
            if row is not None and row.status == "done":
                self.settle(key, "done")
                self.progress.reused += 1
        self.listener(self.progress)
        left = [k for k in self.stages if k not in self.status]
        n = min(workers or len(os.sched_getaffinity(0)), len(left))
        if n > 1:
            self.in_pool(n)
        elif left:
            self.here(left)

    def settle(self, key: str, status: str) -> None:
        self.status[key] = status
        self.progress.running.pop(key, None)
        self.progress.done += status == "done"
        self.progress.failed += status != "done"

    def ready(self, key: str) -> bool:
        return key not in self.status and all(self.status.get(u) == "done" for u in self.upstream[key])

    def skip_blocked(self) -> None:
        """Stages under a failed one are not tried."""
        blocked = True
        while blocked:
            blocked = False
            for key in self.stages:
                if key not in self.status and any(self.status.get(u) in ("failed", "skipped") for u in self.upstream[key]):
                    self.status[key] = "skipped"
                    blocked = True

    def here(self, left: list[str]) -> None:
        work = _worker(self.store, self.device)
        for key in left:
            self.skip_blocked()
            if not self.ready(key):
                continue

            def note(what: str, done: float, key: str = key) -> None:
                self.progress.running[key] = (self.stages[key].name, what, done)
                self.listener(self.progress)

            note("", 0.0)
            with listening(note):
                self.settle(key, work(self.stages[key]))
            self.listener(self.progress)

    def in_pool(self, n: int) -> None:
        pool = Pool(n, _open_worker, (self.folder, self.device), preload=["ostiary.experiment.stages"])
        handed: set[str] = set()

        def hand_out() -> None:
            for key, stage in self.stages.items():
                if key not in handed and self.ready(key):
                    handed.add(key)
                    pool.submit(stage)

        try:
            hand_out()
            for kind, stage, value in pool.events():
                key = stage.key()
                if kind == "progress":
                    self.progress.running[key] = (stage.name, *value)
                elif kind == "done":
                    self.settle(key, value)
                else:
                    error, trace = value
                    if isinstance(error, StoreError):
                        raise error
                    _save_failure(self.store, stage, error, trace, 0.0)
                    self.settle(key, "failed")
                self.skip_blocked()
                hand_out()
                self.listener(self.progress)
        finally:
            pool.close()


def _open_worker(folder: str, device: str) -> Callable[[Stage], str]:
    return _worker(Store(folder), device)


def _worker(store: Store, device: str) -> Callable[[Stage], str]:
    """A function that brings one stage to an end and says how: done or failed."""
    import torch

    bench = Bench(store, device)

    def work(stage: Stage) -> str:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # one thread per process: two on two busy cores are slower than one
        try:
            return settle(stage, bench)
        finally:
            torch.set_num_threads(threads)

    return work


def settle(stage: Stage, bench: Bench) -> str:
    """Compute a stage unless the store has it, and save what came of it."""
    store, key = bench.store, stage.key()
    with store.claim(key):
        row = store.stage(key)
        if row is not None and row.status == "done":
            return "done"
        began = now()
        try:
            result = compute(stage, bench)
        except StoreError:
            raise
        except Exception as error:  # noqa: BLE001 - any failure of a method is recorded, the other stages go on
            _save_failure(store, stage, error, traceback.format_exc(), now() - began)
            return "failed"
        artefacts = {name: store.put_object(data) for name, data in result.artefacts.items()}
        upstream = [u.key() for u in stage.upstream()]
        store.save_stage(
            StageRow(
                key, stage.kind, stage.name, stage.spec(), upstream, "done", now() - began, now(), result.metrics, result.doubts, artefacts
            )
        )
    return "done"


def _save_failure(store: Store, stage: Stage, error: Exception, trace: str, seconds: float) -> None:
    reason = str(error) if isinstance(error, OstiaryError) else f"{type(error).__name__}: {str(error) or 'no reason given'}"
    log.debug("stage %s failed: %s", stage.name, trace)
    upstream = [u.key() for u in stage.upstream()]
    row = StageRow(
        stage.key(), stage.kind, stage.name, stage.spec(), upstream, "failed", seconds, now(), error=reason.splitlines()[0], trace=trace
    )
    store.save_stage(row)


def assemble(store: Store, cell: Cell, passed: dict[str, Json], plan: Plan, device: str) -> Record:
    """The record of one cell from its stages."""
    rows = {s.name: (s, store.stage(s.key())) for s in stages_of(cell)}
    metrics: dict[str, Any] = {"victim": {}, "detectors": {}, "purifiers": {}, "data": {}, "attack": {}}
    doubts, errors, seconds, artefacts = [], {}, {}, {}
    for name, (stage, row) in rows.items():
        if row is None:
            continue
        if row.status != "done":
            errors[name] = row.error
            continue
        seconds[name] = row.seconds
        artefacts[name] = row.artefacts
        label = stage.part.label() if stage.part else ""
        doubts += [f"{label}: {d}" if label else d for d in row.doubts]
        if stage.kind in ("detector", "purifier", "verdict"):
            group = metrics["detectors" if stage.kind == "detector" else "purifiers"]
            group[label] = {**group.get(label, {}), **row.metrics}
        else:
            home = {"data": "data", "victim": "attack", "judge": "victim", "control": "victim"}[stage.kind]
            metrics[home] |= row.metrics
    spec = cell.spec()
    key = hashlib.blake2b(canonical([s.key() for s in stages_of(cell)]), digest_size=20).hexdigest()
    done = all(row is not None and row.status == "done" for _, row in rows.values())
    return Record(
        key=key,
        plan=spec,
        metrics=metrics,
        seconds=seconds,
        doubts=doubts,
        status="done" if done else "failed",
        passed=passed,
        errors=errors,
        stages={name: stage.key() for name, (stage, _) in rows.items()},
        artefacts=artefacts,
        versions=versions(),
        git=git_revision(),
        device=device,
        host=host(),
        made=now(),
        title=plan.title,
        published=plan.published,
    )

