"""What a paper prints, beside what came out here."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from ostiary.experiment.record import Record
from ostiary.metrics.intervals import Estimate
from ostiary.report.tables import FIGURES, UNSCALED, Row, purifiers, short, text


class Paired(NamedTuple):
    """One figure of a paper in the units of a record, and ours, if there is one."""

    defence: str
    name: str
    theirs: float
    ours: Estimate | None


class Beside(NamedTuple):
    """One figure in words: of what, the paper's, ours, ours less theirs; a remark has the first two only."""

    what: str
    theirs: str
    ours: str = ""
    difference: str = ""


def beside(record: Record, lines: Sequence[Row], seeds: int = 1) -> list[Beside]:
    """Remarks, then the figures of `paired` in words. seeds: how many runs the group has; a mean over fewer, of those that gave
    a figure, says so."""
    found = [
        Beside(k, v if isinstance(v, str) else json.dumps(v)) for label, k, v in _given(record, lines) if not _is_figure(k, v)
    ]
    for label, name, theirs, mine in paired(record, lines):
        few = f" ({mine['n']} of {seeds} seeds)" if mine and mine.get("n", seeds) < seeds else ""
        shown = text(name, {"value": theirs}), text(name, mine, interval=True) + few, _less(name, mine, theirs)
        found.append(Beside(f"{label}: {FIGURES[name]}", *shown))
    return found


def paired(record: Record, lines: Sequence[Row]) -> list[Paired]:
    """What the record's plan says that a paper prints of its cell, each figure with ours of `lines`.

    Of `{metric: value}` and `{purifier: {metric: value}}`, both also under names of the cell's parts (an attack's name,
    `set=AIDS`, `surrogate=gin`, nested in any order). All in percent as soon as one rate of the plan is above 1. Anything
    else stands as it is."""
    ours, unit = _ours(lines), 100 if any(abs(v) > 1 for v in _rates(record.published)) else 1
    rates = {(label, k): v for label, k, v in _given(record, lines) if _is_figure(k, v)}
    scaled = {(label, k): v if k in UNSCALED else v / unit for (label, k), v in rates.items()}
    return [Paired(label, k, v, ours.get(label, {}).get(k)) for (label, k), v in scaled.items()]


def _ours(lines: Sequence[Row]) -> dict[str, dict[str, Estimate]]:
    found = {line.defence.partition("(")[0]: line.figures for line in reversed(lines)}
    return found | {line.defence: line.figures for line in lines}  # a paper's name stands for the method with any options


def _given(record: Record, lines: Sequence[Row]) -> list[tuple[str, str, Any]]:
    """(defence, key, value) of all that is published of the record's cell."""
    given = _of_cell(record.published, _names(record.plan), {"none", *_ours(lines)})
    parts = [(k, v) if isinstance(v, dict) else ("none", {k: v}) for k, v in given.items()]
    return [(label, k, v) for label, held in parts for k, v in held.items() if not isinstance(v, dict)]


def _is_figure(name: str, value: Any) -> bool:
    return name in FIGURES and isinstance(value, int | float)


def unplaced(records: Sequence[Record]) -> list[str]:
    """Names over published figures that stand for nothing in any of the records."""
    labels = {label for r in records for label in purifiers(r)}
    known = {"none", *labels, *(label.partition("(")[0] for label in labels)}.union(*(_names(r.plan) for r in records))
    return [n for n in dict.fromkeys(n for r in records for n in _over_figures(r.published)) if n not in known]


def _rates(given: dict[str, Any]) -> Iterator[float]:
    for name, value in given.items():
        if isinstance(value, dict):
            yield from _rates(value)
        elif name in FIGURES and name not in UNSCALED and isinstance(value, int | float):
            yield value


def _over_figures(given: dict[str, Any]) -> Iterator[str]:
    for name, value in given.items():
        if isinstance(value, dict):
            yield name
            yield from _over_figures(value)


def _less(name: str, mine: Estimate | None, theirs: float) -> str:
    if mine is None or text(name, mine) == "-":
        return ""
    shown = text(name, {"value": float(mine["value"]) - theirs})
    return shown if shown.startswith("-") else f"+{shown}"


def _names(plan: dict[str, Any]) -> set[str]:
    """What may stand for the cell: names of its parts, and `option=value` of their options."""
    parts = [plan[kind] for kind in ("dataset", "victim", "attack") if plan[kind]]
    return {p["name"] for p in parts} | {f"{k}={short(v)}" for p in parts for k, v in p.items()}


def _of_cell(given: dict[str, Any], names: set[str], defences: set[str]) -> dict[str, Any]:
    """The entries under the cell's own names, moved up; what stands beside these under other names is about other cells."""
    mine = any(key in names and isinstance(value, dict) for key, value in given.items())
    found: dict[str, Any] = {}
    for key, value in given.items():
        if not isinstance(value, dict) or key in defences:
            found[key] = {**found.get(key, {}), **value} if isinstance(value, dict) else value
        elif key in names:
            for inner, held in _of_cell(value, names, defences).items():
                both = isinstance(held, dict) and isinstance(found.get(inner), dict)
                found[inner] = {**found[inner], **held} if both else held
        elif not mine and "=" not in key and not any(isinstance(v, dict) for v in value.values()):
            found[key] = value
    return found
