"""Published figures of the plans stand under names that the plan has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from ostiary.experiment.plan import read_plan

PLANS = Path(__file__).parents[2] / "plans"


def named(published: Mapping[str, Any]) -> Iterator[str]:
    """The keys right above figures."""
    for key, value in published.items():
        if isinstance(value, Mapping):
            yield from [key] if {"asr", "acc"} & set(value) else named(value)


@pytest.mark.parametrize("path", sorted(PLANS.rglob("*.yaml")), ids=lambda p: p.stem)
def test_published_figures_stand_under_a_defence_or_an_attack_of_the_plan(path: Path, request: pytest.FixtureRequest) -> None:
    if "npz" in path.read_text():
        request.getfixturevalue("needs_data")
    plan, _ = read_plan(str(path))
    cells = [cell.plan for cell in plan.cells()] if plan.published else []
    labels = {purifier.label() for cell in cells for purifier in cell.purifiers}
    known = labels | {label.partition("(")[0] for label in labels} | {cell.attack.name for cell in cells} | {"none"}
    assert set(named(plan.published)) <= known
