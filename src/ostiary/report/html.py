"""The report: one HTML page that needs nothing but itself, and its figures as files for a paper. Reads records only."""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ostiary.errors import InvalidInput, StoreError
from ostiary.experiment.record import Record, canonical
from ostiary.experiment.store import Store
from ostiary.report.tables import COLUMNS, TITLES, Group, Row, detector_rows, groups, rows, text

DRAWN = 8  # groups of a page that get figures; more would make it too heavy to open
MEANING = {
    "acc": "accuracy: clean test inputs called by their true class",
    "asr": "attack success: triggered test inputs of other classes called as the attacker wants",
    "natural": "the same share for a model trained on clean data: what the trigger does without any backdoor",
    "asr_lift": "ASR minus natural, in points: what the backdoor adds",
    "ra": "robust accuracy: triggered inputs called by their true class",
    "drop": "accuracy that the purifier cost, in points",
    "der": "defence effectiveness, (1 + ASR removed - ACC lost) / 2: 0.5 changes nothing, 1 is perfect",
    "seconds": "time to train the victim (first row) or to purify it",
}
SCORES = {
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "tpr_at_fpr_1": "TPR % at 1 % FPR",
    "tpr_at_fpr_5": "TPR % at 5 % FPR",
    "tpr": "TPR %",
    "fpr": "FPR %",
    "precision": "precision %",
    "found_target": "target found %",
}


def write_report(records: Sequence[Record], store: str | Path | Store, path: str | Path) -> Path:
    """Write the page for `records` to `path` and return it. store: where the records' stages lie.

    The page opens offline, in print and without scripts; with them, figures tell more under the pointer. Of more than
    eight groups the first eight get figures. Raises InvalidInput without records, MissingPackage without altair or
    vl-convert-python, StoreError for a store that cannot be read or a path that cannot be written.
    """
    if not records:
        raise InvalidInput("there is no record to report on; run a plan first")
    from ostiary.report.figures import bundle

    with _opened(store) as book:
        found = [_section(i, group, book) for i, group in enumerate(groups(records), 1)]
    title = next((r.title for r in records if r.title), "") or "Backdoor report"
    here = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined)
    page = here.get_template("page.html").render(
        title=title,
        sections=found,
        columns={c: (TITLES[c], MEANING[c]) for c in (*COLUMNS, "seconds")},
        scores=SCORES,
        drawn=DRAWN,
        made=time.strftime("%Y-%m-%d %H:%M", time.localtime()),
        bundle=bundle() if any(s["figures"] for s in found) else "",
    )
    return _save(page, Path(path))


def save_figures(records: Sequence[Record], store: str | Path | Store, folder: str | Path) -> list[Path]:
    """Write every figure of `records` as an SVG file into `folder`: `1-scatter.svg`, ... (group number, name)."""
    from ostiary.report.figures import INK, figures

    written = []
    with _opened(store) as book:
        for number, group in enumerate(groups(records), 1):
            for figure in figures(group, book)[0]:
                drawn = figure.svg().replace(f'"{INK}"', '"#1a1a1a"')  # not every SVG reader knows currentColor
                written.append(_save(drawn, Path(folder) / f"{number}-{figure.name}.svg"))
    return written


@contextlib.contextmanager
def _opened(store: str | Path | Store) -> Iterator[Store]:
    if isinstance(store, Store):
        yield store
        return
    book = Store(store, create=False)
    try:
        yield book
    finally:
        book.close()


def _save(content: str, path: Path) -> Path:
    """The file appears whole or not at all."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".part-{os.getpid()}-{path.name}")
        try:
            part.write_text(content, encoding="utf-8", errors="backslashreplace")
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(f"{path} cannot be written ({error.strerror or error}); choose another place for the report") from error
    return path


def _section(number: int, group: Group, store: Store) -> dict[str, Any]:
    """Everything the page says of one group."""
    from ostiary.report.figures import figures, first

    made, missing = figures(group, store) if number <= DRAWN else ([], [])
    lines, records, shown = rows(group), group.records, first(group) or group.records[0]
    passed: dict[bytes, Record] = {canonical(r.passed): r for r in reversed(records)}
    drawn: dict[str, list[Any]] = {}
    for figure in made:
        drawn.setdefault(figure.part, []).append(figure)
    return {
        "id": f"group-{number}",
        "name": group.name,
        "seeds": [r.plan.get("seed") for r in records],
        "headline": _headline(lines),
        "rows": [{"name": line.defence, "cells": [_cell(c, line) for c in (*COLUMNS, "seconds")], "n": _seeds(line)} for line in lines],
        "doubts": _merged(records, [(r, d) for r in records for d in r.doubts]),
        "failures": _merged(records, [(r, f) for r in records for f in _failures(r)]),
        "published": _published(records[0].published, lines),
        "detectors": [(d.defence, [text(c, d.figures.get(c)) for c in SCORES]) for d in detector_rows(group)],
        "figures": drawn,
        "missing": missing,
        "plan": list(_flat({k: v for k, v in group.plan.items() if k != "seed"})),
        "passed": [list(_flat(r.passed)) for r in reversed(passed.values())],
        "facts": list(_flat(shown.metrics)),
        "shown": shown.plan.get("seed"),
        "runs": [_run(r) for r in records],
        "versions": ", ".join(dict.fromkeys(f"{k} {v}" for r in records for k, v in r.versions.items())),
        "stages": [(s, [_took(r, s) for r in records]) for s in dict.fromkeys(s for r in records for s in (*r.stages, *r.seconds))],
    }


def _headline(lines: list[Row]) -> dict[str, Any]:
    """The result in words: the victim, then one line per purifier."""
    before = lines[0].figures
    if "acc" not in before:
        return {}
    took = _number(before, "asr") - _number(before, "natural") >= 0.3
    shown = {c: text(c, before.get(c)) for c in ("acc", "asr", "natural")}
    after = [
        {"name": line.defence, "acc": text("acc", line.figures.get("acc")), "asr": text("asr", line.figures.get("asr"))}
        | {"words": _verdict(before, line.figures) if took else ""}
        for line in lines[1:]
    ]
    return {**shown, "took": took, "after": after, "n": _seeds(lines[0])}


def _verdict(before: dict[str, Any], after: dict[str, Any]) -> str:
    """Within 5 points of the clean model's rate, lowered by 5 points or more, or neither; 5 points of accuracy count as a cost."""
    if "asr" not in after:
        return "no result"
    asr, natural, was = _number(after, "asr"), _number(after, "natural"), _number(before, "asr")
    found = "down to the clean model's rate" if asr - natural <= 0.05 else "lower, not gone" if was - asr >= 0.05 else "still there"
    drop = _number(after, "drop")
    return found + (f", for {100 * drop:.0f} points of accuracy" if drop >= 0.05 else "")


def _number(figures: dict[str, Any], name: str) -> float:
    value = figures.get(name, {}).get("value")
    return math.nan if value is None else float(value)


def _seeds(line: Row) -> int:
    return int(line.figures.get("acc", {}).get("n", 0))


def _cell(column: str, line: Row) -> tuple[str, str]:
    """(figure, interval); differences may be negative, so nothing is cut at 0 here."""
    figure = line.figures.get(column)
    ends = [figure.get(k) for k in ("low", "high")] if figure else []
    if column == "seconds" or any(e is None or math.isnan(e) for e in ends):
        ends = []
    shown = [f"{e:.2f}" if column == "der" else f"{100 * e:.0f}" for e in ends]
    return text(column, figure), f"[{', '.join(shown)}]" if shown else ""


def _merged(records: Sequence[Record], said: list[tuple[Record, str]]) -> list[tuple[str, str]]:
    """(sentence, which seeds), each sentence once."""
    found: dict[str, list[str]] = {}
    for record, sentence in said:
        found.setdefault(sentence, []).append(str(record.plan.get("seed")))
    return [(s, "" if len(seeds) == len(records) else f"seed {', '.join(seeds)}") for s, seeds in found.items()]


def _failures(record: Record) -> list[str]:
    left = [s for s in record.stages if s not in record.seconds and s not in record.errors]
    blocked = [f"not run: {', '.join(left)}"] if left else []
    return [f"{stage}: {reason}" for stage, reason in record.errors.items()] + blocked


def _took(record: Record, stage: str) -> str:
    if stage in record.seconds:
        return f"{record.seconds[stage]:.2f}"
    return "failed" if stage in record.errors else "not run"


def _published(given: dict[str, Any], lines: list[Row]) -> list[tuple[str, str, str]]:
    """(what, theirs, ours) of `{metric: value}` for the victim and `{purifier: {metric: value}}`; anything else as it stands."""
    ours = {line.defence: line.figures for line in lines}
    found = []
    for key, value in given.items():
        label, held = (key, value) if isinstance(value, dict) else ("none", {key: value})
        for name, figure in held.items():
            if name in TITLES and isinstance(figure, int | float):
                rate = figure / 100 if abs(figure) > 1 and name != "seconds" else figure  # papers write percent
                mine = text(name, ours.get(label, {}).get(name), interval=True)
                found.append((f"{label}: {TITLES[name]}", text(name, {"value": rate}), mine))
            else:
                found.append((name if held is not value else f"{label}: {name}", _plain(figure), ""))
    return found


def _run(record: Record) -> list[str]:
    host = " ".join(f"{v} cores" if k == "cores" else str(v) for k, v in record.host.items())
    made = time.strftime("%Y-%m-%d %H:%M", time.localtime(record.made))
    return [str(record.plan.get("seed")), record.status, made, record.git or "-", record.device, host, record.key[:12]]


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Dotted path and text of every setting or figure; counts per class are drawn instead."""
    if isinstance(value, dict) and value and "value" not in value:
        for key, inner in value.items():
            if key not in ("confusion", "triggered_as"):
                yield from _flat(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list) and any(isinstance(v, dict) for v in value):
        for i, inner in enumerate(value):
            yield from _flat(inner, f"{path}[{i}]")
    else:
        yield path, _plain(value)


def _plain(value: Any) -> str:
    if isinstance(value, dict) and "value" in value:
        low, high = value.get("low"), value.get("high")
        shown = _plain(value["value"]) + (f" [{_plain(low)}, {_plain(high)}]" if low is not None else "")
        return shown + (f", n = {value['n']}" if "n" in value else "")
    if isinstance(value, float):
        return f"{value:.6g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
