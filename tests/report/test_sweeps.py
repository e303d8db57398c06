"""Figures along a varied number."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

from msgspec import structs

from ostiary.experiment.record import Record
from ostiary.report.sweeps import sweeps
from ostiary.report.tables import groups


def record(rate: float, seed: int, asr: float, attack: str = "sub-ba", **more: Any) -> Record:
    plan = {
        "dataset": {"name": "tu", "set": "AIDS"},
        "victim": {"name": "gin", "layers": 3},
        "attack": {"name": attack, "rate": rate, "size": 3, "surrogate": None},
        "trainer": {},
        "seed": seed,
    }
    figures = {"acc": 0.9, "asr": asr, "cad": 0.01, "asr_strict": asr / 2, **more}
    metrics = {"victim": {k: {"value": v} for k, v in figures.items()}, "purifiers": {}, "detectors": {}}
    return Record(key=f"{attack}{rate}{seed}", plan=plan, metrics=metrics, seconds={}, doubts=[], status="done")


def test_lines_join_what_differs_in_one_number_only() -> None:
    cells = [record(r, s, r + s / 10) for r in (0.1, 0.2, 0.3) for s in (0, 1)]
    made = sweeps(groups([*cells, record(0.5, 0, 0.2, "gta"), record(0.6, 0, 0.2, "gta")]))
    assert [f.name for f in made] == ["sweep-attack.rate-asr", "sweep-attack.rate-cad"]
    points = made[0].spec["data"]["values"]
    assert [(p["at"], p["%"]) for p in points] == [(0.1, 15.0), (0.2, 25.0), (0.3, 35.0)]
    assert {(p["line"], p["panel"]) for p in points} == {("sub-ba", "AIDS, gin")}, "two values make no line"
    drawn = ElementTree.fromstring(made[0].svg())
    assert len([e for e in drawn.iter() if e.get("aria-roledescription") == "point" or "mark-symbol" in e.get("class", "")]) > 0


def test_strict_rates_are_those_of_a_papers_own_candidates() -> None:
    own = [record(r, 0, r, "gradient-clba", asr_strict_candidates=0.7) for r in (0.1, 0.2, 0.3)]
    other = [record(r, 0, r) for r in (0.1, 0.2, 0.3)]
    strict = next(f for f in sweeps(groups([*own, *other])) if f.name.endswith("asr_strict"))
    found = {(p["line"], p["at"]): p["%"] for p in strict.spec["data"]["values"]}
    assert found[("gradient-clba", 0.2)] == 70.0
    assert found[("sub-ba", 0.2)] == 10.0
    assert "candidates" in strict.caption


def test_nothing_varied_draws_nothing() -> None:
    assert sweeps(groups([record(0.1, s, 0.5) for s in range(4)])) == []


def test_lines_that_differ_in_another_setting_are_told_apart() -> None:
    def cell(rate: float, size: int) -> Record:
        one = record(rate, 0, rate + size / 10)
        return structs.replace(one, key=f"{rate} {size}", plan={**one.plan, "attack": {**one.plan["attack"], "size": size}})

    made = sweeps(groups([cell(r, s) for r in (0.1, 0.2, 0.3) for s in (1, 2, 3)]))
    drawn = next(f for f in made if f.name == "sweep-attack.rate-asr").spec["data"]["values"]
    found = {(p["line"], p["at"]): p["%"] for p in drawn}
    assert len(drawn) == len(found) == 9 and found["sub-ba(size=2)", 0.1] == 30.0
