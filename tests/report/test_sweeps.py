"""Figures along a varied number."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from xml.etree import ElementTree

import pytest
from msgspec import structs

from ostiary.experiment.record import Record
from ostiary.report import sweeps as module
from ostiary.report.drawing import Figure, _wrapped
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


def defended(rate: float, defences: list[str], attack: str = "sub-ba") -> Record:
    one = record(rate, 0, rate, attack)
    return structs.replace(one, metrics={**one.metrics, "purifiers": dict.fromkeys(defences, one.metrics["victim"])})


def asr(cells: list[Record]) -> Figure:
    return next(f for f in sweeps(groups(cells)) if f.name == "sweep-attack.rate-asr")


def sheets(figure: Figure) -> list[dict[str, Any]]:
    return list(figure.spec.get("concat", [figure.spec]))


def scales(sheet: dict[str, Any], channel: str) -> Iterator[dict[str, Any]]:
    layers = (layer["encoding"] for layer in sheet["spec"]["layer"])
    return (encoding[channel]["scale"] for encoding in layers if channel in encoding)


@pytest.mark.parametrize("number", [1, 5, 8, 28])
def test_of_many_defences_no_two_lines_of_a_chart_look_alike(number: int) -> None:
    names = [f"defence-{i}" for i in range(number)]
    drawn = sheets(asr([defended(r, names) for r in (0.1, 0.2, 0.3)]))
    told = []
    for sheet in drawn:
        looks = [next(scales(sheet, channel)) for channel in ("color", "shape", "strokeDash")]
        lines = looks[0]["domain"]
        points = sheet["data"]["values"]
        assert {p["line"] for p in points} == set(lines) and len(lines) <= module.LINES
        assert all(len(set(map(str, look["range"]))) == len(lines) for look in looks)
        assert "none" in {p["defence"] for p in points}, "the victim is in every chart"
        told += [p["defence"] for p in points if p["defence"] != "none" and p["at"] == 0.1]
    assert told == names


def test_points_that_coincide_show_around_each_other() -> None:
    (sheet,) = sheets(asr([defended(r, ["a", "b"]) for r in (0.1, 0.2, 0.3)]))
    sizes = next(scales(sheet, "size"))["range"]
    assert sizes == sorted(set(sizes), reverse=True), "what is drawn later is smaller"


def test_differences_are_in_points_and_every_chart_of_them_has_its_own_scale() -> None:
    made = sweeps(groups([defended(r, [f"defence-{i}" for i in range(9)]) for r in (0.1, 0.2, 0.3)]))
    found = {f.name.rpartition("-")[2]: f.spec for f in made}
    titles = {name: sheets(f)[0]["spec"]["layer"][0]["encoding"]["y"]["title"] for name, f in zip(found, made, strict=True)}
    assert titles["cad"] == "CAD, points" and titles["asr"] == "ASR %"
    assert (found["cad"]["resolve"]["scale"]["y"], found["asr"]["resolve"]["scale"]["y"]) == ("independent", "shared")


def test_names_of_lines_and_panels_stand_once_in_the_words_of_a_figure() -> None:
    assert asr([record(r, 0, r) for r in (0.1, 0.2, 0.3)]).alt == "AIDS, gin, sub-ba, 0.1: 10.0 %, 0.2: 20.0 %, 0.3: 30.0 %"


def test_titles_break_between_options() -> None:
    told = _wrapped("gcleaner(preset=paper, heat_by=integrated-gradients, x=1)", 22)
    assert told == ["gcleaner(preset=paper,", "heat_by=", "integrated-gradients,", "x=1)"]
    assert _wrapped("a" * 25, 10) == ["a" * 10, "a" * 10, "a" * 5] and _wrapped("", 10) == [""]
    assert "".join(_wrapped("f(" + "a" * 25 + ", b)", 10)).replace(" ", "") == "f(" + "a" * 25 + ",b)"


def test_defences_have_the_same_look_in_the_panels_of_every_attack() -> None:
    names = [f"defence-{i}" for i in range(9)]
    drawn = sheets(asr([defended(r, names, attack) for attack in ("sub-ba", "gta") for r in (0.1, 0.2, 0.3)]))
    assert [{p["panel"] for p in sheet["data"]["values"]} for sheet in drawn] == 2 * [{"AIDS, gin, sub-ba", "AIDS, gin, gta"}]
    assert [len(next(scales(sheet, "color"))["domain"]) for sheet in drawn] == [6, 5]


def test_many_attacks_are_drawn_in_several_charts() -> None:
    drawn = sheets(asr([record(r, 0, r, f"attack-{i}") for i in range(9) for r in (0.1, 0.2, 0.3)]))
    assert [len({p["line"] for p in sheet["data"]["values"]}) for sheet in drawn] == [5, 4]


def test_of_many_cells_with_many_defences_the_first_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PANELS", 2)
    names = [f"defence-{i}" for i in range(9)]
    figure = asr([defended(r, names, attack) for attack in ("a", "b", "c") for r in (0.1, 0.2, 0.3)])
    assert {p["panel"] for sheet in sheets(figure) for p in sheet["data"]["values"]} == {"AIDS, gin, a", "AIDS, gin, b"}
    assert "Of 3 cells the first 2" in figure.caption


def test_bars_stand_within_their_panel() -> None:
    for sheet in sheets(asr([defended(r, [f"defence-{i}" for i in range(28)]) for r in (0.1, 0.2, 0.3)])):
        beside = [layer["mark"]["xOffset"] for layer in sheet["spec"]["layer"] if "xOffset" in layer["mark"]]
        assert len(set(beside)) == len(beside) > 2
        assert all(max(map(abs, beside)) < scale["padding"] and scale["nice"] is False for scale in scales(sheet, "x"))


def test_long_names_are_told_whole() -> None:
    names = [f"method-{i}(an-option='\"<b>, another-option=another-value, teacher=x(lr=0.5))" for i in range(7)]
    drawn = ElementTree.fromstring(asr([defended(r, names) for r in (0.1, 0.2, 0.3)]).svg())
    words = "".join("".join(e.itertext()) for e in drawn.iter() if e.tag.endswith("}text")).replace(" ", "")
    assert "\N{HORIZONTAL ELLIPSIS}" not in words
    assert all(name.replace(" ", "") in words for name in names)
    assert float(drawn.get("width", "inf")) < 700
