"""The tables of a run: cells over their seeds, detectors, rankings, doubts and failures."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from ostiary.experiment.record import seeds_unlike
from ostiary.report import tables
from ostiary.report.published import beside, unplaced
from ostiary.report.ranking import RANKING, ranking, spread, uneven
from ostiary.report.scans import SCANS, accused, scan_rows
from ostiary.terminal.screen import WIDE, say

if TYPE_CHECKING:
    from ostiary.experiment.record import Record

LEGEND = (
    "[ ]: 95 % interval, over seeds or, where it is wider or for one seed, over test inputs. natural: triggered inputs that a "
    "model trained on clean data already sends to the target; lift: ASR - natural. RA: triggered inputs given their true "
    "label. DER: 0.5 is no gain, 1 the best."
)
NEAR = "How near recovered triggers come to the attacker's"
UNKNOWN = "No attack is named, so there is no rate of success: whether the model has a backdoor is for detectors to say."
Rows = Callable[[tables.Group], list[tables.Row]]
Found = Sequence[tuple[tables.Group, list[tables.Row]]]
FOLDED = 26  # most columns of a defence in a ranking that is short of room
_NUMBER = re.compile(r"(\d+(?:\.\d+)?)")


def results(out: Console, records: Sequence[Record]) -> None:
    """The table of all cells over their seeds, detectors, doubts, and stages that failed."""
    groups = tables.groups(records)
    for title in dict.fromkeys(r.title for r in records if r.title):
        say(out, title, "bold")
    if len(groups) == 1:
        say(out, _heading(groups[0]), "bold")
    lines = [row for group in groups for row in tables.rows(group)]
    if any(row.figures for row in lines):
        _figures(out, groups, tables.rows, "defence", {c: tables.TITLES[c] for c in (*tables.COLUMNS, "seconds")})
        say(out, LEGEND if any("asr" in row.figures for row in lines) else UNKNOWN, "dim")
    _ranking(out, records)
    having = [g for g in groups if tables.detector_rows(g)]
    if having:
        out.line()
        _figures(out, having, tables.detector_rows, "detector", tables.DETECTION)
    for line in accused(groups[0].records) if len(groups) == 1 else ():
        say(out, line, "dim")
    for row in scan_rows(records):
        out.line()
        shown = [f"{title} {tables.text(name, row.figures[name])}" for name, title in SCANS.items()]
        say(out, f"{row.defence} over all victims, backdoored (lift of 30 points or more) and clean: {', '.join(shown)}")
    several = len({g.plan["attack"]["name"] for g in groups if g.plan["attack"]}) > 1
    _section(out, "How fast the backdoor comes back", groups, tables.reactivation_rows, "model", tables.REACTIVATION)
    _section(out, NEAR, groups, tables.recovery_rows, "defence", tables.RECOVERY)
    _section(out, "How visible the triggers are", groups if several else (), tables.stealth_rows, "attack", tables.STEALTH)
    _beside(out, groups)
    doubts = [*_repeated(groups, _doubts), *_unlike(groups)]
    for heading, found, style in (("Doubts", doubts, "yellow"), ("Failed", _repeated(groups, _failures), "red")):
        if found:
            out.line()
            say(out, heading, f"bold {style}")
        for line in found:
            say(out, f"- {line}", style)


def _section(out: Console, title: str, groups: Sequence[tables.Group], rows: Rows, of: str, titles: dict[str, str]) -> None:
    """A table under its title, of those cells that have a line of it."""
    if having := [g for g in groups if rows(g)]:
        out.line()
        say(out, title, "bold")
        _figures(out, having, rows, of, titles)


def preview(out: Console, runs: Sequence[dict[str, Any]], stages: int, left: int, trusted: Sequence[str]) -> None:
    """What a run would do: every cell with its seeds, and how many of its stages are still to compute. trusted: whose code
    it would execute besides ours."""
    cells: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        cells.setdefault(run["cell"], []).append(run)
    for name, own in cells.items():
        seeds, open_ = ", ".join(str(r["seed"]) for r in own), sum(len(r["left"]) for r in own)
        say(out, f"{name}: seed{'s' * (len(own) > 1)} {seeds}; {open_ or 'no'} stage{'s' * (open_ != 1)} to compute")
    plural = "s" * (len(runs) > 1), "s" * (len(cells) > 1)
    said = f"{len(runs)} run{plural[0]} of {len(cells)} cell{plural[1]}, {stages} stages, {stages - left} of them done"
    say(out, f"{said}; shared stages count once", "bold")
    if trusted:
        say(out, f"a run executes {', '.join(trusted)}: read them first if they are not yours", "yellow")


def _ranking(out: Console, records: Sequence[Record]) -> None:
    """The defences of a sweep in their order; without standard deviations where these do not fit."""
    found = ranking(records)
    if not found:
        return
    columns = {c: t for c, t in RANKING.items() if any(c in rank.figures for rank in found)}
    heads = ["runs", "failed", *columns.values()]
    lines = [(r.defence, [str(r.cells), str(r.failed), *(spread(c, r.figures.get(c)) for c in columns)]) for r in found]
    means = [(defence, [figure.partition(" ±")[0] for figure in own]) for defence, own in lines]
    out.line()
    say(out, "Defences, each over those runs in which it was tried and the attack works (lift of 30 points and more)", "bold")
    if uneven(found):
        say(out, uneven(found), "yellow")
    forms = [(lines, False), (lines, True), (means, True)]
    shown = [_ranked(heads, held, tight=tight) for held, tight in forms]
    printed = _first_that_fits(out, shown)
    if printed is None:
        for defence, own in lines:
            say(out, f"{defence}: {', '.join(f'{head} {figure}' for head, figure in zip(heads, own, strict=True))}")
    solved = "of all runs, failed ones too: lift and accuracy drop of at most 5 points, by more than saying one class"
    say(out, f"mean{'' if printed is shown[-1] else ' ± standard deviation'} over runs. solved: {solved}.", "dim")


def _ranked(heads: Sequence[str], lines: Sequence[tuple[str, list[str]]], *, tight: bool) -> Table:
    table = _headed("defence", heads, [cells for _, cells in lines], tight=tight)
    for defence, cells in lines:
        folded = textwrap.wrap(defence, FOLDED, break_on_hyphens=False) if tight else [defence]
        table.add_row("\n".join(folded), *cells)
    return table


def _beside(out: Console, groups: Sequence[tables.Group]) -> None:
    """What the paper prints beside ours, one line per figure."""
    found = [
        (g, [b for b in beside(g.records[0], tables.rows(g), len(g.records)) if b.ours])
        for g in groups
        if g.records[0].published
    ]
    lost = unplaced([r for g in groups for r in g.records])
    if not lost and not any(lines for _, lines in found):
        return
    out.line()
    say(out, "Published, ours, and ours less published", "bold")
    if lost:
        say(out, f"of no run here, and left out: {', '.join(lost)}", "dim")
    for group, lines in found:
        for line in lines:
            say(out, f"{_heading(group)}: {line.what}: {line.theirs}, {line.ours}, {line.difference or '-'}")


def where(out: Console, records: Sequence[Record], store: str) -> None:
    """Where the records are, and what to do with them."""
    out.line()
    keys = ", ".join(r.key[:8] for r in records[:6]) + (", ..." if len(records) > 6 else "")
    say(out, f"records: {len(records)} in {store} ({keys}); see ostiary show --store {store}")
    say(out, f"report:  ostiary report --store {store}")


def _figures(out: Console, groups: Sequence[tables.Group], rows: Rows, what: str, titles: dict[str, str]) -> None:
    """One table for all groups; lines of text where the terminal is too narrow for it."""
    found = [(group, rows(group)) for group in groups]
    columns = {c: t for c, t in titles.items() if any(c in row.figures for _, lines in found for row in lines)}
    if _first_that_fits(out, [_grouped(found, what, columns, tight=tight) for tight in (False, True)]) is None:
        _as_lines(out, found, columns)


def _first_that_fits(out: Console, forms: Sequence[Table]) -> Table | None:
    """Print the first of these that is narrow enough and return it. Names of lines fold in all but the first form."""
    free = out.options.update(max_width=WIDE)
    for i, table in enumerate(forms):
        needed = Measurement.get(out, free, table)
        if (needed.minimum if i else needed.maximum) <= out.width:
            out.print(table)
            return table
    return None


def _headed(what: str, heads: Iterable[str], lines: Sequence[Sequence[str]], *, tight: bool) -> Table:
    """A table without rows whose columns hold the cells of these lines whole; only the first column, `what`, folds."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 0 if tight else 1, 0, 0), pad_edge=False)
    table.add_column("\n" * tight + what, overflow="fold", min_width=12)
    for i, title in enumerate(heads):
        header = _two_lines(title) if tight else title
        shown = [*header.split("\n"), *(cells[i] for cells in lines)]
        table.add_column(header, justify="right", no_wrap=True, min_width=max(map(len, shown)))
    return table


def _grouped(found: Found, what: str, columns: dict[str, str], *, tight: bool) -> Table:
    cells = [[_cell(row, name) for name in columns] for _, lines in found for row in lines]
    table = _headed(what, columns.values(), cells, tight=tight)
    for group, lines in found:
        alone = len(found) > 1 and len(lines) == 1 and lines[0].defence in ("none", "trigger")
        if len(found) > 1 and not alone:
            table.add_row(Text(_heading(group), "bold"))
        for row in lines:
            label = (_heading(group) if alone else row.defence) + _seeds(group, row)
            table.add_row(label, *(_cell(row, c) for c in columns))
        if not alone:
            table.add_section()
    return table


def _cell(row: tables.Row, column: str) -> str:
    wide = ("asr",) if "asr" in row.figures else ("acc", "drop")  # where no attack is known there is room for both
    return tables.cell(column, row, interval=column in wide)


def _two_lines(title: str) -> str:
    if len(title) < 12 or " % " in title:
        first, _, second = title.rpartition(" ") if len(title) < 12 else title.partition(" % ")
        return f"{first}\n{second}"
    middle = min((i for i, c in enumerate(title) if c == " "), key=lambda i: abs(2 * i - len(title)), default=len(title))
    return f"{title[:middle]}\n{title[middle + 1 :]}"


def _as_lines(out: Console, found: Found, titles: dict[str, str]) -> None:
    for group, lines in found:
        if len(found) > 1:
            say(out, _heading(group), "bold")
        for row in lines:
            shown = [f"{titles[c]} {_cell(row, c)}" for c in titles]
            say(out, f"{row.defence}{_seeds(group, row)}: {', '.join(shown)}")


def _heading(group: tables.Group) -> str:
    n = len(group.records)
    return f"{group.name}, {n} seed{'s' * (n > 1)}"


def _seeds(group: tables.Group, row: tables.Row) -> str:
    """How many seeds a row stands on, where it is not all of them."""
    n = tables.seeds(row)
    return "" if n == len(group.records) else f" ({n} of {len(group.records)} seeds)"


def _doubts(record: Record) -> Iterator[tuple[str, str]]:
    """(label of the part or nothing, doubt)."""
    labels = [*record.metrics.get("purifiers", {}), *record.metrics.get("detectors", {})]
    for doubt in record.doubts:
        label = next((name for name in labels if doubt.startswith(f"{name}: ")), "")
        yield label, doubt.removeprefix(f"{label}: ")


def _unlike(groups: Sequence[tables.Group]) -> list[str]:
    """Doubts about the seeds of a group together, each once."""
    found: dict[str, list[str]] = {}
    for group in groups:
        for sentence in seeds_unlike(group.records):
            found.setdefault(sentence, []).append(group.name)
    return [s if len(groups) == 1 else f"{s} (in {'; '.join(where)})" for s, where in found.items()]


def _failures(record: Record) -> Iterator[tuple[str, str]]:
    yield from record.errors.items()


def _repeated(groups: Sequence[tables.Group], pick: Callable[[Record], Iterable[tuple[str, str]]]) -> list[str]:
    """Sentences of all seeds and groups, each once; where only numbers differ, with the range of each number."""
    alike: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for group in groups:
        for record in group.records:
            for label, text in pick(record):
                alike.setdefault((label, _NUMBER.sub("\0", text)), []).append((group.name, text))
    total, unit, found = sum(len(g.records) for g in groups), "seeds" if len(groups) == 1 else "runs", []
    for (label, _), places in alike.items():
        pieces = zip(*(_NUMBER.split(text) for _, text in places), strict=True)
        text = "".join(_span(p) if i % 2 else p[0] for i, p in enumerate(pieces))
        names = {name for name, _ in places}
        only = f", all in {places[0][0]}" if len(names) == 1 < len(groups) else ""
        count = f" ({len(places)} of {total} {unit}{only})" if total > 1 else ""
        found.append(f"{label}: {text}{count}" if label else text + count)
    return found


def _span(numbers: Sequence[str]) -> str:
    low, high = min(numbers, key=float), max(numbers, key=float)
    return low if float(low) == float(high) else f"{low}-{high}"
