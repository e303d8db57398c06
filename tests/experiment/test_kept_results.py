"""Figures that are kept in the repository: a run of the same plan goes on from them, but for methods revised since."""

from __future__ import annotations

from pathlib import Path

import pytest

from ostiary.experiment.exchange import read_records
from ostiary.experiment.plan import Plan
from ostiary.experiment.record import Record
from ostiary.experiment.stages import Stage, record_key, stages_of

KEPT = sorted((Path(__file__).parents[2] / "results").glob("*.jsonl.xz"))


def revised_since(stage: Stage) -> bool:
    return "revisions" in stage.spec() or any(map(revised_since, stage.upstream()))


def stages(record: Record) -> tuple[str, list[Stage]]:
    """(key of the record, its stages) as a plan of today asks for them."""
    plan = Plan(**{k: v for k, v in record.plan.items() if k != "seed"}, seeds=(record.plan["seed"],))
    (cell,) = plan.cells()
    return record_key(cell), stages_of(cell)


@pytest.mark.parametrize("path", KEPT, ids=lambda p: p.name.partition(".")[0])
def test_a_new_option_does_not_orphan_what_was_kept(path: Path, needs_data: Path) -> None:
    """An option that came to an older method is in its `added`; a method whose results changed has a new `revision`."""
    records = read_records(path)
    for record in records[:: max(1, len(records) // 8)]:
        key, asked = stages(record)
        assert {s.name for s in asked} == set(record.stages)
        lost = [s.name for s in asked if record.stages[s.name] != s.key() and not revised_since(s)]
        assert lost == [], f"{record.key[:8]}: a run would compute these anew"
        assert record.key == key or any(map(revised_since, asked))
