"""Published figures of the plans stand under names that the plan has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from ostiary.errors import BadSpec, UnknownName
from ostiary.experiment.plan import read_plan
from ostiary.experiment.plan_file import PUBLISHED, check_published, read_file
from ostiary.experiment.record import Record
from ostiary.report.published import unplaced
from ostiary.report.tables import FIGURES

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
    if "hello_kitty.png" in path.read_text():
        request.getfixturevalue("stand_in")
    plan, _ = read_plan(str(path))
    cells = [cell.plan for cell in plan.cells()] if plan.published else []
    labels = {purifier.label() for cell in cells for purifier in cell.purifiers}
    known = labels | {label.partition("(")[0] for label in labels} | {cell.attack.name for cell in cells} | {"none"}
    assert set(named(plan.published)) <= known


def test_metrics_of_papers_are_those_that_reports_set_beside_them() -> None:
    assert set(PUBLISHED) == set(FIGURES)


@pytest.mark.parametrize(
    ("given", "kind", "words"),
    [
        ({"sub-ba": {"asr": "97 %"}}, BadSpec, "published: asr is '97 %', expected a number; put remarks under another name"),
        ({"acc": None}, BadSpec, "published: acc is None, expected a number"),
        ({"acc": True}, BadSpec, "published: acc is True, expected a number"),
        ({"acc": float("nan")}, BadSpec, "published: acc is nan, expected a number"),
        (
            {"fine-tune": {"acc": 0.9, "asrr": 0.1}},
            UnknownName,
            "published: 'asrr' is no metric, and a remark would be text; did you mean 'asr'?",
        ),
        ({"size": 2024}, UnknownName, "published: 'size' is no metric, and a remark would be text; known: acc, .*"),
    ],
)
def test_figures_that_cannot_be_placed_are_refused(
    given: dict[str, Any], kind: type[Exception], words: str, tmp_path: Path
) -> None:
    with pytest.raises(kind, match=words):
        check_published(given)
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump({"dataset": "toy-graphs", "victim": "gin", "published": given}))
    for source in (tmp_path / "plan.yaml", {"dataset": "toy-graphs", "victim": "gin", "published": given}):
        with pytest.raises(kind, match=words):
            read_plan(source)


def test_figures_and_remarks_are_read(tmp_path: Path) -> None:
    text = "published: {source: a paper, asr: 97, fine-tune: {acc: 0.9, claim: it is gone}}"
    (tmp_path / "plan.yaml").write_text(text)
    assert read_file(tmp_path / "plan.yaml")["published"]["asr"] == 97


def test_names_that_match_no_run_are_told() -> None:
    paper = {
        "gta": {"fine-tune": {"acc": 0.9}, "set=AIDS": {"asr": 1.0}},
        "nda": {"acc": 0.8},
        "none": {"acc": 0.9},
        "source": "x",
    }
    plan = {"dataset": {"name": "tu", "set": "AIDS"}, "victim": {"name": "gin"}, "attack": {"name": "gta"}}
    own = {"key": "k", "metrics": {}, "seconds": {}, "doubts": [], "status": "done", "plan": plan, "published": paper}
    record = Record(**own, stages={"purifier fine-tune(epochs=3)": "k"})
    assert unplaced([record]) == ["nda"]
    assert unplaced([Record(**{**own, "plan": {**plan, "attack": None}})]) == ["gta", "fine-tune", "nda"]
