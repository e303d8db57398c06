"""What people read: tables, lists and progress, fitted to the terminal. Never imports torch itself."""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import yaml
from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from ostiary.component import Component, Entry, Json, catalogue, hints, part_of, plain
from ostiary.report import tables
from ostiary.report.published import beside
from ostiary.report.ranking import RANKING, ranking, spread
from ostiary.report.scans import SCANS, scan_rows

if TYPE_CHECKING:
    from ostiary.experiment.record import Record
    from ostiary.experiment.runner import Listener, Progress

WIDE = 10_000  # columns of a pipe or a file: nothing is wrapped
SHOWN = 8  # running stages drawn at once
LEGEND = (
    "[ ]: 95 % interval, over seeds or, for one seed, over test inputs. natural: triggered inputs that a model trained on "
    "clean data already sends to the target; lift: ASR - natural. RA: triggered inputs given their true label. DER: 0.5 is "
    "no gain, 1 the best."
)
Rows = Callable[[tables.Group], list[tables.Row]]
Found = Sequence[tuple[tables.Group, list[tables.Row]]]
_NUMBER = re.compile(r"(\d+(?:\.\d+)?)")


class _Console(Console):
    def on_broken_pipe(self) -> NoReturn:
        raise BrokenPipeError


def console(*, stderr: bool = False) -> Console:
    """A console as wide as the terminal; without one, plain and so wide that nothing is wrapped."""
    found = _Console(stderr=stderr, markup=False, highlight=False, emoji=False)
    if not found.is_terminal:
        found.width = WIDE
    return found


def say(out: Console, text: str, style: str = "", hang: int = 2) -> None:
    """A sentence; wrapped where there is a terminal, further lines indented by `hang`."""
    for i, line in enumerate(Text(text, style).wrap(out, max(20, out.width - hang))):
        line.rstrip()
        out.print(Text(" " * hang * (i > 0)) + line)


# results


def results(out: Console, records: Sequence[Record]) -> None:
    """The table of all cells over their seeds, detectors, doubts, and stages that failed."""
    groups = tables.groups(records)
    for title in dict.fromkeys(r.title for r in records if r.title):
        say(out, title, "bold")
    if len(groups) == 1:
        say(out, _heading(groups[0]), "bold")
    if any(row.figures for group in groups for row in tables.rows(group)):
        _figures(out, groups, tables.rows, "defence", {c: tables.TITLES[c] for c in (*tables.COLUMNS, "seconds")})
        say(out, LEGEND, "dim")
    _ranking(out, records)
    having = [g for g in groups if tables.detector_rows(g)]
    if having:
        out.line()
        _figures(out, having, tables.detector_rows, "detector", tables.DETECTION)
    for row in scan_rows(records):
        out.line()
        shown = [f"{title} {tables.text(name, row.figures[name])}" for name, title in SCANS.items()]
        say(out, f"{row.defence} over all victims, backdoored (lift of 30 points or more) and clean: {', '.join(shown)}")
    purified = [g for g in groups if tables.reactivation_rows(g)]
    if purified:
        out.line()
        say(out, "How fast the backdoor comes back", "bold")
        _figures(out, purified, tables.reactivation_rows, "model", tables.REACTIVATION)
    if len({g.plan["attack"]["name"] for g in groups}) > 1:
        out.line()
        say(out, "How visible the triggers are", "bold")
        _figures(out, groups, tables.stealth_rows, "attack", tables.STEALTH)
    _beside(out, groups)
    for heading, pick, style in (("Doubts", _doubts, "yellow"), ("Failed", _failures, "red")):
        found = _repeated(groups, pick)
        if found:
            out.line()
            say(out, heading, f"bold {style}")
        for line in found:
            say(out, f"- {line}", style)


def _ranking(out: Console, records: Sequence[Record]) -> None:
    """The defences of a sweep over all runs in which the attack works."""
    found = ranking(records)
    if not found:
        return
    columns = {c: t for c, t in RANKING.items() if any(c in rank.figures for rank in found)}
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for title in ("defence", "runs", "failed", *columns.values()):
        table.add_column(title, no_wrap=True, justify="left" if title == "defence" else "right")
    for rank in found:
        figures = (spread(c, rank.figures.get(c)) for c in columns)
        table.add_row(rank.defence, str(rank.cells), str(rank.failed), *figures)
    out.line()
    say(out, "Defences over all runs in which the attack works (lift of 30 points and more)", "bold")
    out.print(table)
    solved = "lift and accuracy drop of at most 5 points, by more than saying one class"
    say(out, f"mean ± standard deviation over runs. solved: {solved}.", "dim")


def _beside(out: Console, groups: Sequence[tables.Group]) -> None:
    """What the paper prints beside ours, one line per figure."""
    found = [(g, [b for b in beside(g.records[0], tables.rows(g)) if b.ours]) for g in groups if g.records[0].published]
    if not any(lines for _, lines in found):
        return
    out.line()
    say(out, "Published, ours, and ours less published", "bold")
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
    loose, tight = (_table(found, what, columns, tight=t) for t in (False, True))
    free = out.options.update(max_width=WIDE)
    if Measurement.get(out, free, loose).maximum <= out.width:
        out.print(loose)
    elif Measurement.get(out, free, tight).minimum <= out.width:
        out.print(tight)
    else:
        _as_lines(out, found, columns)


def _table(found: Found, what: str, columns: dict[str, str], *, tight: bool) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 0 if tight else 1, 0, 0), pad_edge=False)
    table.add_column("\n" * tight + what, overflow="fold", min_width=12)
    for name, title in columns.items():
        header = _two_lines(title) if tight else title
        shown = [*header.split("\n"), *(_cell(row, name) for _, lines in found for row in lines)]
        table.add_column(header, justify="right", no_wrap=True, min_width=max(map(len, shown)))
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
    return tables.text(column, row.figures.get(column), interval=column == "asr")


def _two_lines(title: str) -> str:
    first, _, second = title.rpartition(" ") if len(title) < 12 else title.partition(" % ")
    return f"{first}\n{second}"


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
    n = max((int(f["n"]) for name, f in row.figures.items() if name != "seconds"), default=0)
    return "" if n == len(group.records) else f" ({n} of {len(group.records)} seeds)"


def _doubts(record: Record) -> Iterator[tuple[str, str]]:
    """(label of the part or nothing, doubt)."""
    labels = [*record.metrics.get("purifiers", {}), *record.metrics.get("detectors", {})]
    for doubt in record.doubts:
        label = next((name for name in labels if doubt.startswith(f"{name}: ")), "")
        yield label, doubt.removeprefix(f"{label}: ")


def _failures(record: Record) -> Iterator[tuple[str, str]]:
    yield from record.errors.items()


def _repeated(groups: Sequence[tables.Group], pick: Callable[[Record], Iterable[tuple[str, str]]]) -> list[str]:
    """Sentences of all seeds and groups, each once; where only numbers differ, with the range of each number."""
    alike: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for group in groups:
        for record in group.records:
            for label, text in pick(record):
                alike.setdefault((label, _NUMBER.sub("#", text)), []).append((group.name, text))
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


# records


def keys(out: Console, records: Sequence[Record]) -> None:
    """The keys by which single records are asked for."""
    out.line()
    say(out, "Records", "bold")
    for group in tables.groups(records):
        for record in group.records:
            made = datetime.fromtimestamp(record.made).strftime("%Y-%m-%d %H:%M")
            say(out, f"{record.key[:12]}  {made}  {record.status:6}  {group.name}, seed {record.plan.get('seed')}")


def detail(out: Console, record: Record) -> None:
    """One record: figures, every setting, every stage, and what it was made with."""
    results(out, [record])
    out.line()
    say(out, "Other figures", "bold")
    for name, value in _numbers({k: v for k, v in record.metrics.items() if k != "purifiers"}):
        say(out, f"{name}: {value}")
    for heading, mapping in (("Settings", record.plan), ("Published", record.published)):
        if mapping:
            out.line()
            say(out, heading, "bold")
            for line in yaml.safe_dump(mapping, sort_keys=False, default_flow_style=None, width=WIDE).splitlines():
                out.print(Text(line), soft_wrap=True)
    out.line()
    say(out, "Stages", "bold")
    for name, key in record.stages.items():
        state = f"{record.seconds[name]:.1f} s" if name in record.seconds else "failed" if name in record.failed else "not run"
        say(out, f"{key[:12]}  {state:>9}  {name}")
    out.line()
    made = datetime.fromtimestamp(record.made).astimezone().isoformat(timespec="seconds")
    packages = ", ".join(f"{k} {v}" for k, v in record.versions.items())
    say(out, f"record {record.key}, {record.status}, made {made} on {record.device}")
    say(out, f"with {packages}, revision {record.git or 'unknown'}")


def _numbers(found: dict[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    """Every number of nested metrics that the tables leave out, with its interval and count."""
    for name, value in found.items():
        if name in tables.COLUMNS or name in tables.DETECTION:
            continue
        if isinstance(value, dict) and "value" in value:
            low, high = value.get("low"), value.get("high")
            interval = f" [{low:.4g}, {high:.4g}]" if low is not None and high is not None else ""
            shown = "-" if value["value"] is None else f"{value['value']:.4g}"
            yield path + name, f"{shown}{interval}" + (f", n {value['n']}" if "n" in value else "")
        elif isinstance(value, dict):
            yield from _numbers(value, f"{path}{name} / ")
        elif isinstance(value, int | float | str):
            yield path + name, f"{value:.4g}" if isinstance(value, float) else str(value)


# the catalogue


def entries(out: Console, found: Sequence[Entry]) -> None:
    """Names, kinds of data and summaries, room by room."""
    width = max(len(e.name) for e in found) if found else 0
    for kind in dict.fromkeys(e.kind for e in found):
        rows = [e for e in found if e.kind == kind]
        table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column(min_width=width, no_wrap=True, style="cyan")
        table.add_column(min_width=12, no_wrap=True, style="dim")
        table.add_column(overflow="fold")
        for entry in rows:
            table.add_row(entry.name, ", ".join(entry.modalities), entry.summary)
        say(out, kind, "bold")
        out.print(table)
        out.line()
    say(out, "explain one: ostiary options ROOM NAME", "dim")


def describe(cls: type[Component]) -> dict[str, Json]:
    """A component and its options as plain values."""
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    shown = []
    for name, hint in hints(cls).items():  # type: ignore[arg-type]
        field = fields[name]
        factory = field.default_factory
        required = field.default is dataclasses.MISSING and factory is dataclasses.MISSING
        default = None if required else field.default if factory is dataclasses.MISSING else factory()
        part = part_of(hint)
        option = {"name": name, "type": readable(hint), "default": plain(default), "required": required}
        shown.append(option | ({"part": part.kind} if part else {}))
    found: dict[str, Json] = {"kind": cls.kind, "name": cls.name, "doc": _doc(cls), "options": shown}
    for fact in ("modalities", "controls", "needs"):
        if getattr(cls, fact, None):
            found[fact] = sorted(getattr(cls, fact))
    if cls.presets:
        found["presets"] = {name: plain(own) for name, own in cls.presets.items()}
    if getattr(cls, "recipe", None):
        found["recipe"] = dict(cls.recipe)  # type: ignore[attr-defined]
    if getattr(cls, "recipes", None):
        found["recipes"] = {modality: cls.training([modality]) for modality in cls.recipes}  # type: ignore[attr-defined]
    return found


def _doc(cls: type[Component]) -> str:
    """The text of a class and, where it inherits options, of the classes that define them."""
    texts = [inspect.cleandoc(cls.__doc__ or "")]
    for base in cls.__mro__[1:]:
        text = inspect.cleandoc(base.__doc__ or "")
        defines = set(inspect.get_annotations(base)) & set(hints(cls))  # type: ignore[arg-type]
        if defines and not text.startswith(f"{base.__name__}("):  # dataclasses put the signature where a text is missing
            texts.append(text)
    return "\n\n".join(texts)


def options(out: Console, found: dict[str, Json]) -> None:
    """A component's text, then one line for each option."""
    say(out, f"{found['kind']} {found['name']}", "bold")
    for paragraph in found["doc"].split("\n\n"):
        say(out, " ".join(paragraph.split()), hang=0)
        out.line()
    for fact, title in (("modalities", "data"), ("controls", "the attacker controls"), ("needs", "needs")):
        if fact in found:
            say(out, f"{title}: {', '.join(found[fact])}")
    for preset, own in found.get("presets", {}).items():
        say(out, f"preset={preset}: {', '.join(f'{k}={_text_of(v)}' for k, v in own.items())}")
    recipes = {"": found.get("recipe"), **{f" on {m} data": r for m, r in found.get("recipes", {}).items()}}
    for where, recipe in recipes.items():
        if recipe:
            settings = ", ".join(f"{k}={v}" for k, v in recipe.items())
            say(out, f"trained{where} with: {settings} (change with trainer.epochs=..., ...)")
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("option", no_wrap=True, style="cyan")
    table.add_column("type", overflow="fold")
    table.add_column("default", overflow="fold")
    for option in found["options"]:
        default = "(required)" if option["required"] else _text_of(option["default"])
        table.add_row(option["name"], option["type"], default)
    out.print(table if found["options"] else "It has no options.")


def _text_of(value: Json) -> str:
    """A default as it would be written in a plan; a part by its name alone."""
    if isinstance(value, dict):
        return str(value["name"]) if "name" in value else "{}"
    if isinstance(value, list):
        return f"[{', '.join(map(_text_of, value))}]"
    if isinstance(value, bool):
        return "true" if value else "false"
    return "none" if value is None else str(value) or "(empty)"


_PLAIN_TYPES = {int: "whole number", float: "number", bool: "true or false", str: "text", type(None): "none", Any: "anything"}


def readable(hint: Any) -> str:
    """A type as people say it: "number in [0, 1]", "one of white, checker"."""
    args, origin = typing.get_args(hint), typing.get_origin(hint)
    if origin is Literal:
        return f"one of {', '.join(map(str, args))}"
    if origin is typing.Annotated:
        return readable(args[0]) + "".join(map(_limits, args[1:]))
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(readable, args))
    if origin in (tuple, list):
        several = origin is list or args[-1] is ...
        return f"list of: {readable(args[0])}" if several else f"list of {len(args)}: {', '.join(map(readable, args))}"
    part = part_of(hint)
    if part is not None:
        return f"{part.kind}: {', '.join(e.name for e in catalogue(part.kind))}"
    return "mapping" if dict in (origin, hint) else _PLAIN_TYPES.get(hint, str(hint))


def _limits(meta: Any) -> str:
    low, above, high = getattr(meta, "ge", None), getattr(meta, "gt", None), getattr(meta, "le", None)
    below = getattr(meta, "lt", None)
    start = f"[{low:g}" if low is not None else f"({above:g}" if above is not None else ""
    end = f"{high:g}]" if high is not None else f"{below:g})" if below is not None else ""
    if start and end:
        return f" in {start}, {end}"
    return f" from {low:g}" if low is not None else f" above {above:g}" if start else f" up to {end[:-1]}" if end else ""


# progress


@contextmanager
def progress(*, off: bool) -> Iterator[Listener | None]:
    """A listener for a run: live bars on a terminal, a line now and then elsewhere, nothing if off."""
    if off:
        yield None
        return
    err = console(stderr=True)
    if not err.is_terminal:
        yield _Lines(err)
        return
    bars = _Bars(err)
    with bars.shown:
        yield bars


def _summary(state: Progress) -> str:
    failed = f", {state.failed} failed" if state.failed else ""
    reused = f" ({state.reused} reused)" if state.reused else ""
    return f"{state.done} of {state.total} stages done{reused}{failed}"


class _Lines:
    """At most a dozen lines for a whole run."""

    def __init__(self, out: Console) -> None:
        self.out, self.last = out, -1

    def __call__(self, state: Progress) -> None:
        ended = state.done + state.failed
        if self.last < 0 or ended >= self.last + 1 + state.total // 10 or (ended == state.total > self.last):
            self.last = ended
            self.out.print(_summary(state))


class _Bars:
    """One bar for all stages and one for each that runs now; gone when the run ends."""

    def __init__(self, out: Console) -> None:
        from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Shown

        text = TextColumn("{task.description}", markup=False)
        self.shown = Shown(BarColumn(20), text, TimeElapsedColumn(), console=out, transient=True)
        self.all = self.shown.add_task("starting", total=None)
        self.tasks: dict[str, Any] = {}

    def __call__(self, state: Progress) -> None:
        self.shown.update(self.all, total=max(1, state.total), completed=state.done + state.failed, description=_summary(state))
        for key in [k for k in self.tasks if k not in state.running]:
            self.shown.remove_task(self.tasks.pop(key))
        for key, (name, what, share) in state.running.items():
            if key not in self.tasks and len(self.tasks) < SHOWN:
                self.tasks[key] = self.shown.add_task("", total=1.0)
            if key in self.tasks:
                self.shown.update(self.tasks[key], completed=share, description=what or name)
