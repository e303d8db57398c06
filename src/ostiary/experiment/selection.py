"""Which records of a store a plan is about. Apart from the exchange of results, which needs no network library."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec

from ostiary.experiment.plan import Plan, read_plan
from ostiary.experiment.record import Record
from ostiary.experiment.stages import record_key


def of_plan(records: Iterable[Record], source: str | Path | Plan) -> list[Record]:
    """Those of the records that tell of a plan's cells, in its order, with its title, the figures it publishes, what it sets.

    A record is of its stages, so that several plans may share one, which in the store bears all that of the plan run last.
    """
    plan, passed = read_plan(source)
    held = {record.key: record for record in records}
    found = [held[key] for key in map(record_key, plan.cells()) if key in held]
    return [msgspec.structs.replace(r, title=plan.title, published=plan.published, passed=passed) for r in found]
