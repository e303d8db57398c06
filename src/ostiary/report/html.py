"""The report: one HTML page that needs nothing but itself, and its figures as files for a paper. Reads records only."""

from __future__ import annotations

import contextlib
import json
import math
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup, escape

from ostiary.errors import InvalidInput
from ostiary.experiment.origin import differences
from ostiary.experiment.record import LEFT_OUT, Record, seeds_unlike
from ostiary.experiment.store import Store
from ostiary.metrics.intervals import Estimate
from ostiary.report.levels import curved
from ostiary.report.published import beside, unplaced
from ostiary.report.ranking import COUNTS, RANKING, collapsed, ranking, spread, uneven
from ostiary.report.scans import SCANS, accused, scan_rows
from ostiary.report.tables import (
    DETECTION,
    REACTIVATION,
    RECOVERY,
    STEALTH,
    TITLES,
    Group,
    Row,
    cell,
    detector_rows,
    ends,
    groups,
    reactivation_rows,
    recovery_rows,
    rows,
    seeds,
    stealth_rows,
    text,
)
from ostiary.thresholds import EXACT, WORKS
from ostiary.writing import whole

DRAWN = 8  # groups of a page that get figures; more would make it too heavy to open
TOLD = 6  # defences told in words; of more the best, the table has all


def write_report(records: Sequence[Record], store: str | Path | Store, path: str | Path) -> Path:
    """Write the page for `records` to `path` and return it. store: where the records' stages lie.

    The page works offline, in print and without scripts; with them, figures tell more under the pointer. Only the first
    eight groups get figures. Raises InvalidInput, MissingPackage (extra `report`), StoreError (cannot read or write).
    """
    if not records:
        raise InvalidInput("there is no record to report on; run a plan first")
    from ostiary.report.causes import causes
    from ostiary.report.drawing import bundle
    from ostiary.report.sweeps import sweeps

    grouped = groups(records)
    moving, left, ranks = sweeps(grouped), causes(records), ranking(records)
    titles = {r.title for r in records}
    with _opened(store) as book:
        found = [_section(i, group, book) for i, group in enumerate(grouped, 1)]
    page = _template().render(
        title=next(iter(titles)) if len(titles) == 1 and "" not in titles else "Backdoor report",
        titled=len(titles) > 1,
        sections=found,
        sweeps=moving,
        causes=left,
        columns={n: head for n, head in TITLES.items() if n == "acc" or any(n in r.figures for s in found for r in s["rows"])},
        detection={n: head for n, head in DETECTION.items() if any(n in r.figures for s in found for r in s["detectors"])},
        scans=scan_rows(records),
        scan_titles=SCANS,
        stealth={n: head for n, head in STEALTH.items() if any(n in r.figures for s in found for r in s["stealth"])},
        reactivation=REACTIVATION,
        recovery=RECOVERY,
        ranks=ranks,
        ranking={n: head for n, head in RANKING.items() if any(n in rank.figures for rank in ranks)},
        uneven=uneven(ranks),
        unplaced=unplaced(records),
        drawn=DRAWN,
        now=time.time(),
        bundle=bundle() if moving or left or any(s["figures"] for s in found) else "",
    )
    return save(page, Path(path))


def _template() -> Template:
    here = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined)
    here.filters |= {"flat": _flat, "interval": _interval, "shown": text, "spread": spread, "took": _took}
    here.filters |= {"cell": cell, "seeds": seeds}
    here.filters["breakable"] = lambda label: Markup(re.sub(r"([(,])", r"\1<wbr>", str(escape(label))))
    here.filters["date"] = lambda seconds: time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
    return here.get_template("page.html")


def save_figures(records: Sequence[Record], store: str | Path | Store, folder: str | Path) -> list[Path]:
    """Write every figure of `records` as an SVG file into `folder`: `NCI1-gcn-gta-1a2b3c4d-scatter.svg`, ... (data, victim and
    attack of a cell, a mark of its settings, name), and those about several cells by their name alone."""
    from ostiary.report.causes import causes
    from ostiary.report.figures import figures
    from ostiary.report.sweeps import file_stem, sweeps

    grouped, written = groups(records), []
    with _opened(store) as book:
        made = [(figure.name, figure) for figure in (*sweeps(grouped), *causes(records))]
        made += [(f"{file_stem(g.plan)}-{figure.name}", figure) for g in grouped for figure in figures(g, book)[0]]
    for name, figure in made:
        written.append(save(figure.file(), Path(folder) / f"{name}.svg"))
    return written


def _opened(store: str | Path | Store) -> contextlib.AbstractContextManager[Store]:
    """A store that was given open stays open."""
    return contextlib.nullcontext(store) if isinstance(store, Store) else contextlib.closing(Store(store, create=False))


def save(content: str, path: Path) -> Path:
    """The file appears whole or not at all."""
    with whole(path) as part:
        part.write_text(content, encoding="utf-8", errors="backslashreplace")
    return path


def _section(number: int, group: Group, store: Store) -> dict[str, Any]:
    """Everything the page says of one group."""
    from ostiary.report.certified import certified_tables
    from ostiary.report.figures import figures, first

    made, missing = figures(group, store) if number <= DRAWN else ([], [])
    lines, records = rows(group), group.records
    apart = set().union(*map(curved, records))
    return {
        "id": f"group-{number}",
        "name": group.name,
        "titles": list(dict.fromkeys(r.title for r in records if r.title)),
        "records": records,
        "first": first(group) or records[0],
        "headline": _headline(group, [line for line in lines if line.defence not in apart]),
        "unknown": not group.plan.get("attack"),
        "accused": accused(records),
        "rows": lines,
        "doubts": _merged(records, lambda r: r.doubts) + [(sentence, "") for sentence in seeds_unlike(records)],
        "failures": _merged(records, _failures),
        "published": beside(records[0], lines, len(records)),
        "detectors": detector_rows(group),
        "stealth": stealth_rows(group),
        "reactivation": reactivation_rows(group),
        "recovery": recovery_rows(group),
        "certified": certified_tables(group),
        "figures": made,
        "missing": missing,
        "passed": [r.passed for i, r in enumerate(records) if all(r.passed != q.passed for q in records[:i])],
        "versions": ", ".join(dict.fromkeys(f"{k} {v}" for r in records for k, v in r.versions.items())),
        "apart": _merged(records, lambda r: [differences(r.apart)] if r.apart else []),
        "stages": list(dict.fromkeys(s for r in records for s in (*r.stages, *r.seconds))),
    }


def _headline(group: Group, lines: list[Row]) -> dict[str, Any]:
    """The result in words: the victim, then one line per purifier, of many the best. Empty without a result."""
    before = lines[0].figures
    if "acc" not in before:
        return {}
    took = _number(before, "asr") - _number(before, "natural") >= WORKS - EXACT
    told = lines[1:] if len(lines) - 1 <= TOLD else sorted(lines[1:], key=lambda line: _rank(line.figures))[:TOLD]
    after = []
    for line in told:
        if "acc" not in line.figures:  # it failed everywhere, as is said elsewhere
            continue
        own = _before(group, line) or before
        few = f"({own['acc']['n']} of {before['acc']['n']} seeds)" if own["acc"]["n"] < before["acc"]["n"] else ""
        verdict = _verdict(own, line.figures, _unsolved(group, line)) if took else ""
        after.append((line, " ".join(w for w in (verdict, few) if w), own))
    again = any("scans" in m for r in group.records for m in r.metrics.get("purifiers", {}).values())
    return {"before": before, "took": took, "after": after, "more": len(lines) - 1 - len(told), "again": again}


def _before(group: Group, line: Row) -> dict[str, Estimate]:
    """The victim's figures over the seeds in which the purifier of this line was judged; nothing where in none."""
    having = tuple(r for r in group.records if "acc" in r.metrics.get("purifiers", {}).get(line.defence, {}))
    return rows(replace(group, records=having))[0].figures if having else {}


def _rank(figures: dict[str, Estimate]) -> float:
    """ASR, where an attack is known, and lost accuracy together, the best first; without a result last."""
    asr = _number(figures, "asr") if "asr" in figures or "acc" not in figures else 0.0
    left = asr + max(0.0, _number(figures, "drop"))
    return math.inf if math.isnan(left) else left


def _unsolved(group: Group, line: Row) -> list[str]:
    """What a mean hides, in words: seeds with which the trigger still works, or the model says one class only."""
    held = [r.metrics.get("purifiers", {}).get(line.defence, {}) for r in group.records]
    works = sum(m["asr_lift"]["value"] > COUNTS + EXACT for m in held if m.get("asr_lift", {}).get("value") is not None)
    one = sum(map(collapsed, held))
    count = sum("acc" in m for m in held)
    found = ((works, "the trigger still works"), (one, "the model says one class only"))
    return [f"{what} with {n} of {count} seeds" if count > 1 else what for n, what in found if n]


def _verdict(before: dict[str, Estimate], after: dict[str, Estimate], but: Sequence[str] = ()) -> str:
    """5 points are the least that counts: above the clean model's rate, below the victim's, or of accuracy lost.

    but: what speaks against it where the mean is down to the clean model's rate."""
    if "asr" not in after:
        return "no result"
    asr, drop = _number(after, "asr"), _number(after, "drop")
    lower = "lower, not gone" if _number(before, "asr") - asr >= COUNTS - EXACT else "still there"
    gone = asr - _number(after, "natural") <= COUNTS + EXACT
    found = ", but ".join(["down to the clean model's rate", *but]) if gone else lower
    return found + (f", for {100 * drop:.0f} points of accuracy" if drop >= COUNTS - EXACT else "")


def _number(figures: dict[str, Estimate], name: str) -> float:
    value = figures.get(name, {}).get("value")
    return math.nan if value is None else float(value)


def _interval(column: str, figures: dict[str, Estimate]) -> str:
    limits = ends(column, figures.get(column)) or ()
    shown = ", ".join(f"{e:.2f}" if column == "der" else f"{100 * e:z.1f}" for e in limits)
    return f"[{shown}]" if shown else ""


def _merged(records: Sequence[Record], said: Callable[[Record], list[str]]) -> list[tuple[str, str]]:
    """(sentence, which seeds), each sentence once."""
    found: dict[str, list[str]] = {}
    for record in records:
        for sentence in said(record):
            found.setdefault(sentence, []).append(str(record.plan.get("seed")))
    return [(s, "" if len(seeds) == len(records) else f"seed {', '.join(seeds)}") for s, seeds in found.items()]


def _failures(record: Record) -> list[str]:
    """Stages that failed, and those not run for it; what a plan leaves out where its attack fails is a doubt."""
    spared = any(doubt.startswith(LEFT_OUT) for doubt in record.doubts)
    left = [] if spared else [stage for stage in record.stages if _took(record, stage) == "not run"]
    return [f"{s}: {reason}" for s, reason in record.errors.items()] + ([f"not run: {', '.join(left)}"] if left else [])


def _took(record: Record, stage: str) -> str:
    if stage in record.seconds:
        return f"{record.seconds[stage]:.2f}"
    return "failed" if stage in record.failed else "not run"


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Dotted path and text of every setting or figure; counts per class are drawn instead."""
    if isinstance(value, dict) and value and "value" not in value:
        for key, inner in value.items():
            if key not in ("confusion", "triggered_as"):
                yield from _flat(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list) and any(isinstance(v, dict) for v in value):
        yield from (pair for i, inner in enumerate(value) for pair in _flat(inner, f"{path}[{i}]"))
    else:
        yield path, _plain(value)


def _plain(value: Any) -> str:
    if isinstance(value, dict) and "value" in value:
        ends = "" if value.get("low") is None else f" [{_plain(value['low'])}, {_plain(value.get('high'))}]"
        return _plain(value["value"]) + ends + (f", n = {value['n']}" if "n" in value else "")
    shown = f"{value:.6g}" if isinstance(value, float) else value
    return shown if isinstance(shown, str) else json.dumps(value, ensure_ascii=False, default=str)
