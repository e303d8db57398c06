"""Single records: their keys, and one in all detail."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import yaml
from rich.console import Console
from rich.text import Text

from ostiary.experiment.origin import differences, in_words
from ostiary.report import tables
from ostiary.terminal.results import results
from ostiary.terminal.screen import WIDE, say

if TYPE_CHECKING:
    from ostiary.experiment.record import Record


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
    for name, value in _numbers(record.metrics):
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
    say(out, f"record {record.key}, {record.status}, made {made}")
    say(out, f"computed on {in_words(record.common)}")
    if record.apart:
        say(out, f"not the same for all stages: {differences(record.apart)}")


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
