"""A record from the stages of its cell."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from ostiary.component import Json
from ostiary.experiment.origin import UNTOLD, Origin, united, unlike
from ostiary.experiment.plan import Cell, Plan
from ostiary.experiment.record import GROUPS, LEFT_OUT, SKIPPED, Record, StageRow
from ostiary.experiment.stages import record_key, stages_of
from ostiary.experiment.store import Store, now


def assemble(store: Store, cell: Cell, passed: dict[str, Json], plan: Plan, reasons: Mapping[str, str]) -> Record:
    """The record of one cell from its stages; `reasons`: stage key -> why it failed or was not tried."""
    stages = stages_of(cell)
    left_out = {s.key(): r for s in stages if (r := reasons.get(s.key(), "")).startswith(LEFT_OUT)}
    rows = {s.name: (s, store.told(s.key())) for s in stages if s.key() not in left_out}
    metrics: dict[str, Any] = {"victim": {}, "detectors": {}, "purifiers": {}, "data": {}, "attack": {}}
    doubts, errors, seconds, artefacts = [*set(left_out.values())], {}, {}, {}
    for name, (stage, row) in rows.items():
        if row is None or row.status != "done" or stage.key() in reasons:
            errors[name] = reasons.get(stage.key(), "it is no longer in the store; run the same command again")
            continue
        seconds[name] = row.seconds
        artefacts[name] = row.artefacts
        label = stage.part.label() if stage.part else ""
        doubts += [f"{label}: {d}" if label else d for d in row.doubts]
        _place(metrics, stage.kind, label, row.metrics)
    old = next(iter(store.records([record_key(cell)])), None)
    origins = _origins({n: row for n, (_, row) in rows.items() if row and not errors.get(n, "").startswith(SKIPPED)}, old)
    common, apart = united(origins)
    return Record(
        key=record_key(cell),
        plan=cell.spec(),
        metrics=metrics,
        seconds=seconds,
        doubts=list(dict.fromkeys([*doubts, *unlike("stages", {name: [origin] for name, origin in origins.items()})])),
        status="failed" if errors else "done",
        passed=passed,
        errors=errors,
        stages={s.name: s.key() for s in stages},
        artefacts=artefacts,
        made=_made(old, seconds, [row for _, row in rows.values() if row]) if old and not errors else now(),
        title=plan.title,
        published=plan.published,
        apart=apart,
        **msgspec.structs.asdict(common),
    )


def _origins(rows: Mapping[str, StageRow], old: Record | None) -> dict[str, Origin]:
    """Of each stage; of those computed before stages told theirs what a record of them says."""
    said = {name: old.origin(name) for name in old.seconds} if old else {}
    return {name: said.get(name, UNTOLD) if row.origin == UNTOLD else row.origin for name, row in rows.items()}


def _made(old: Record, seconds: Mapping[str, float], rows: Iterable[StageRow]) -> float:
    """When the record was made, which it was before where nothing is new."""
    same = old.seconds.keys() == seconds.keys() and all(row.made <= old.made for row in rows)
    return old.made if same else now()


def _place(metrics: dict[str, Any], kind: str, label: str, found: dict[str, Any]) -> None:
    group = metrics[GROUPS[kind]]
    if label:
        group = group.setdefault(label, {})
    group |= found
