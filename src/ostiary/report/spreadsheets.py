"""The tables of a report as files: .csv to calculate with, .tex for a paper. Reads records only."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ostiary.experiment.record import Record
from ostiary.metrics.intervals import Estimate
from ostiary.report.certified import certified_tables, curves
from ostiary.report.html import save
from ostiary.report.published import beside, paired
from ostiary.report.ranking import RANKING, Rank, ranking, spread
from ostiary.report.scans import SCANS, scan_rows
from ostiary.report.tables import (
    COLUMNS,
    DETECTION,
    REACTIVATION,
    RECOVERY,
    STEALTH,
    TITLES,
    Group,
    Row,
    detector_rows,
    ends,
    few,
    groups,
    reactivation_rows,
    recovery_rows,
    rows,
    seeds,
    stealth_rows,
    text,
)

Line = dict[str, Any]


def save_tables(records: Sequence[Record], folder: str | Path) -> list[Path]:
    """Write the tables of the page into `folder`: runs.csv (a line per run and defence; rates as shares of 1), and as .csv
    (shares of 1, ends of the 95 % interval but of seconds, how many seeds or runs) and as .tex (percent or points; needs the
    package booktabs) defences, ranking, reactivation, recovery, stealth, detectors, scans, certified and published.

    Tables without a line are left out, and their files from before removed. Raises StoreError where nothing can be written.
    """
    found = groups(records)
    tables = {
        "runs": ([line for group in found for r in group.records for line in _run(group.name, r)], ""),
        "defences": _by_seed([row for group in found for row in rows(group)], "defence", TITLES),
        "ranking": _ranked(ranking(records)),
        "reactivation": _by_seed([row for group in found for row in reactivation_rows(group)], "model", REACTIVATION),
        "recovery": _by_seed([row for group in found for row in recovery_rows(group)], "defence", RECOVERY),
        "stealth": _by_seed([row for group in found for row in stealth_rows(group)], "of", STEALTH),
        "detectors": _by_seed([row for group in found for row in detector_rows(group)], "detector", DETECTION),
        "scans": _scanned(scan_rows(records)),
        "certified": _certified(found),
        "published": _published(found),
    }
    written = []
    for name, (lines, latex) in tables.items():
        for kind, content in (("csv", _csv(lines) if lines else ""), ("tex", latex if lines else "")):
            file = Path(folder) / f"{name}.{kind}"
            if content:
                written.append(save(content, file))
            else:
                file.unlink(missing_ok=True)
    return written


def _run(cell: str, record: Record) -> list[Line]:
    """The victim and what every defence made of it, as measured in one run."""
    plan, metrics = record.plan, record.metrics
    own = {k: (plan[k] or {}).get("name") for k in ("dataset", "victim", "attack")} | {"set": plan["dataset"].get("set")}
    models = {"none": metrics.get("victim", {}), **metrics.get("purifiers", {})}
    lines = []
    for defence, held in models.items():
        stage = "victim" if defence == "none" else f"purifier {defence}"
        figures = {c: held[c]["value"] for c in COLUMNS if c in held} | {"seconds": record.seconds.get(stage)}
        lines.append({"key": record.key, "cell": cell, **own, "seed": plan["seed"], "defence": defence, **figures})
    return lines


def _by_seed(found: Sequence[Row], what: str, titles: Mapping[str, str]) -> tuple[list[Line], str]:
    """Means over seeds with their intervals; the last column says over how many seeds."""
    heads = {n: head for n, head in titles.items() if any(n in row.figures for row in found)}
    lines = [{"cell": row.group, what: row.defence, **_numbers(row.figures, heads), "seeds": seeds(row)} for row in found]
    cells = [(row.group, [_plain(row.defence), *(_figure(n, row) for n in heads), str(seeds(row))]) for row in found]
    said = "mean over seeds [95 % interval]"
    return lines if heads else [], _latex(said, [what, *heads.values(), "seeds"], cells)


def _ranked(found: Sequence[Rank]) -> tuple[list[Line], str]:
    heads = {n: head for n, head in RANKING.items() if any(n in rank.figures for rank in found)}
    own = [{"defence": rank.defence, "runs": rank.cells, "failed": rank.failed} for rank in found]
    lines = [line | _numbers(rank.figures, heads) for line, rank in zip(own, found, strict=True)]
    cells = [
        ("", [*(_plain(str(v)) for v in line.values()), *(_math(spread(n, rank.figures.get(n))) for n in heads)])
        for line, rank in zip(own, found, strict=True)
    ]
    return lines, _latex(
        "mean and standard deviation, each over those runs in which it was tried",
        ["defence", "runs", "failed", *heads.values()],
        cells,
    )


def _scanned(found: Sequence[Row]) -> tuple[list[Line], str]:
    lines = [{"scan": row.defence, **_numbers(row.figures, SCANS)} for row in found]
    cells = [("", [_plain(row.defence), *(_interval(n, row.figures.get(n)) for n in SCANS)]) for row in found]
    return lines, _latex("over models [95 % interval]", ["scan", *SCANS.values()], cells)


def _certified(found: Sequence[Group]) -> tuple[list[Line], str]:
    lines: list[Line] = []
    for group in found:
        for curve in curves(group):
            own = {"cell": group.name, "defence": curve.defence, "change": curve.kind}
            lines += [own | {"radius": r} | _numbers({"share": s}, ["share"]) for r, s in curve.shares.items()]
    parts = [
        _latex(
            f"{group.name}: certified accuracy %, {t['name']}",
            t["heads"],
            [("", list(map(_math, line))) for line in t["lines"]],
        )
        for group in found
        for t in certified_tables(group)
    ]
    return lines, "\n".join(parts)


def _published(found: Sequence[Group]) -> tuple[list[Line], str]:
    told = [(g, b) for g in found for b in beside(g.records[0], rows(g), len(g.records)) if b.ours]
    heads = ["figure", "published", "ours", "ours less published"]
    lines = [
        {"cell": g.name, "defence": p.defence, "figure": p.name, "published": p.theirs, **_number("ours", p.name, p.ours or {})}
        for g in found
        for p in paired(g.records[0], rows(g))
    ]
    cells = [(g.name, [_plain(b.what), *map(_math, b[1:])]) for g, b in told]
    return lines, _latex("ours: mean over seeds [95 % interval]", heads, cells)


def _numbers(figures: Mapping[str, Estimate], names: Iterable[str]) -> Line:
    line: Line = {}
    for name in names:
        line |= _number(name, name, figures.get(name, {}))
    return line


def _number(head: str, name: str, figure: Estimate) -> Line:
    """The columns of one figure: its value, ends as the page prints them, spread and number."""
    limits = ends(name, figure) or (None, None)
    given = ("low", "high") if "low" in figure and name != "seconds" else ()
    held = {f"{head}_{end}": limit for end, limit in zip(given, limits, strict=False)}
    held |= {f"{head}_sd": figure["sd"]} if "sd" in figure else {}
    return {head: figure.get("value"), **held, f"{head}_n": figure.get("n")} if figure else {}


def _csv(lines: Sequence[Line]) -> str:
    """Columns in the order in which lines bring them; what is not known stays empty."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(dict.fromkeys(k for line in lines for k in line)), lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: _cell(v) for k, v in ln.items()} for ln in lines)
    return out.getvalue()


def _cell(value: Any) -> Any:
    """What is not known is empty; text that a spreadsheet would take for a formula is marked as text."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return f"'{value}" if isinstance(value, str) and value[:1] in tuple("=+-@\t\r") else value


def _latex(said: str, heads: Sequence[str], cells: Sequence[tuple[str, Sequence[str]]]) -> str:
    """cells: (cell of the sweep, one line of the table as LaTeX); cells of a sweep stand apart."""
    several = len({group for group, _ in cells}) > 1
    lines = [
        f"% {_plain(said)}",
        f"\\begin{{tabular}}{{l{'r' * (len(heads) - 1)}}}",
        "\\toprule",
        f"{' & '.join(map(_plain, heads))} \\\\",
    ]
    lines.append("\\midrule")
    last = None
    for group, line in cells:
        if several and group != last:
            lines += ["\\midrule"] if last is not None else []
            lines.append(f"\\multicolumn{{{len(heads)}}}{{l}}{{{_plain(group)}}} \\\\")
        last = group
        lines.append(f"{' & '.join(line)} \\\\")
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", ""])


def _figure(name: str, row: Row) -> str:
    """With its interval and, where not all of the row's seeds have it, over how many."""
    return _interval(name, row.figures.get(name)) + few(name, row)


def _interval(name: str, figure: Estimate | None) -> str:
    return _math(text(name, figure, interval=True))


def _math(words: str) -> str:
    """Figures as LaTeX sets them, with a minus for a hyphen."""
    if not re.fullmatch(r"[-+0-9.±\[\], ]*[0-9][-+0-9.±\[\], ]*", words):
        return _plain(words)
    return f"${words.replace('±', chr(92) + 'pm').replace(' [', chr(92) + '; [')}$"


def _plain(words: str) -> str:
    """As LaTeX prints it."""
    return (
        re.sub(r"([#$%&_{}])", r"\\\1", " ".join(words.split()).replace("\\", "/")).replace("^", r"\^{}").replace("~", r"\~{}")
    )
