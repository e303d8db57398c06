"""Which records of a store a command is about."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ostiary.errors import UnknownName

if TYPE_CHECKING:
    from ostiary.experiment.record import Record


def shown(store: Path, prefixes: Sequence[str], plan: Path | None) -> list[Record]:
    """As `records_of`, but only what is asked for by its key may tell of data or a model as the files were before."""
    from ostiary.experiment.record import latest

    records = records_of(store, prefixes, plan)
    return records if prefixes else latest(records)


def records_of(store: Path, prefixes: Sequence[str], plan: Path | None) -> list[Record]:
    """The records of a store, oldest first, or those of a plan, or whose keys start with one of the prefixes."""
    from ostiary.experiment.store import Store

    book = Store(store, create=False)
    with contextlib.closing(book):
        records = book.records()
    if plan is not None:
        from ostiary.experiment.selection import of_plan

        records = of_plan(records, plan)
        if not records:
            raise UnknownName(f"no record in {store} is of the plan {plan}; run it, or leave --plan out to see what is there")
    for prefix in prefixes:
        if not any(r.key.startswith(prefix) for r in records):
            where = shlex.quote(str(store))
            raise UnknownName(f"no record in {store} has a key that starts with '{prefix}'; see ostiary show --store {where}")
    return [r for r in records if not prefixes or r.key.startswith(tuple(prefixes))]


def one(key: str, store: Path) -> Record:
    """The one record whose key starts so."""
    records = records_of(store, (key,), None)
    if len(records) > 1:
        raise UnknownName(f"{len(records)} records in {store} have keys that start with '{key}'; give more characters")
    return records[0]
