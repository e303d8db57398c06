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
from ostiary.report.html import save
from ostiary.report.ranking import RANKING, ranking
from ostiary.report.tables import COLUMNS, DETECTION, TITLES, Row, detector_rows, groups, rows, text

Line = dict[str, Any]


def save_tables(records: Sequence[Record], folder: str | Path) -> list[Path]:
    """Write into `folder`: runs.csv (a line per run and defence; rates as shares of 1), defences, detectors and ranking as
    .csv (mean, ends of the 95 % interval, how many runs) and .tex (percent or points; needs the package booktabs).

    Tables without a line are left out. Raises StoreError where nothing can be written.
    """
    found = groups(records)
    judged = [row for group in found for row in rows(group) if row.figures]
    seen = [row for group in found for row in detector_rows(group) if row.figures]
    ranks = [Row("", rank.defence, rank.figures) for rank in ranking(records)]
    detection = {n: head for n, head in DETECTION.items() if any(n in row.figures for row in seen)}
    parts = {
        "runs": ([line for group in found for r in group.records for line in _run(group.name, r)], ""),
        "defences": (_lines(judged, "defence", TITLES), _latex(judged, "defence", TITLES)),
        "detectors": (_lines(seen, "detector", detection), _latex(seen, "detector", detection)),
        "ranking": (_lines(ranks, "defence", RANKING), _latex(ranks, "defence", RANKING)),
    }
    written = []
    for name, (lines, latex) in parts.items():
        if lines:
            written.append(save(_csv(lines), Path(folder) / f"{name}.csv"))
            written += [save(latex, Path(folder) / f"{name}.tex")] if latex else []
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


def _lines(found: Sequence[Row], what: str, names: Iterable[str]) -> list[Line]:
    lines = []
    for row in found:
        line: Line = {"cell": row.group, what: row.defence}
        for name in names:
            figure = row.figures.get(name, {})
            ends = {f"{name}_{end}": figure[end] for end in ("low", "high", "sd") if end in figure}
            line |= {name: figure.get("value"), **ends, f"{name}_n": figure.get("n")} if figure else {}
        lines.append(line)
    return lines


def _csv(lines: Sequence[Line]) -> str:
    """Columns in the order in which lines bring them; what is not known stays empty."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(dict.fromkeys(k for line in lines for k in line)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(
        {k: "" if v is None or (isinstance(v, float) and math.isnan(v)) else v for k, v in ln.items()} for ln in lines
    )
    return out.getvalue()


def _latex(found: Sequence[Row], what: str, titles: Mapping[str, str]) -> str:
    """Mean, and half the width of its 95 % interval where there is one; cells of a sweep apart."""
    shown = {n: head for n, head in titles.items() if any(n in row.figures for row in found)}
    several = len({row.group for row in found}) > 1
    lines = ["% mean, and half the width of its 95 % interval"]
    lines += [f"\\begin{{tabular}}{{l{'r' * len(shown)}}}", "\\toprule", _joined([what, *shown.values()]), "\\midrule"]
    last = None
    for row in found:
        if several and row.group != last:
            lines += ["\\midrule"] if last is not None else []
            lines.append(f"\\multicolumn{{{len(shown) + 1}}}{{l}}{{{_plain(row.group)}}} \\\\")
        last = row.group
        lines.append(f"{_plain(row.defence)} & {' & '.join(_figure(n, row.figures.get(n)) for n in shown)} \\\\")
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", ""])


def _figure(name: str, figure: Estimate | None) -> str:
    shown = text(name, figure)
    ends = [math.nan if figure is None or figure.get(end) is None else float(figure[end]) for end in ("low", "high")]
    wide = ends[1] - ends[0]
    return shown if math.isnan(wide) else f"${shown} \\pm {text(name, {'value': wide / 2})}$"


def _joined(words: Sequence[str]) -> str:
    return " & ".join(map(_plain, words)) + " \\\\"


def _plain(words: str) -> str:
    """As LaTeX prints it."""
    return re.sub(r"([#$%&_{}])", r"\\\1", words.replace("\\", "/")).replace("^", r"\^{}").replace("~", r"\~{}")
