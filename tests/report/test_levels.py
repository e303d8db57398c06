"""A purifier at several levels of one option: drawn as a curve, and not told as so many defences."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from msgspec import structs

import ostiary
from ostiary.experiment.record import Record
from ostiary.report import figures, sweeps
from ostiary.report import levels as module
from ostiary.report.causes import causes
from ostiary.report.html import write_report
from ostiary.report.levels import curved, families, levels
from ostiary.report.ranking import ranking
from ostiary.report.tables import groups

LISTED: tuple[dict[str, Any], ...] = (
    {"name": "nad", "p": 2.0, "teacher": {"lr": 0.1}},
    {"name": "nad", "p": 1.0, "teacher": {"lr": 0.1}},
    {"name": "nad", "p": 4.0, "teacher": {"lr": 0.1}},
    {"name": "nad", "p": 4.0, "teacher": {"lr": 0.5}},  # a second option differs
    {"name": "anp", "p": 1.0},
)
LABELS = ("nad", "nad(p=1.0)", "nad(p=4.0)", "nad(p=4.0, teacher=x(lr=0.5))", "anp")


def record(attack: str, seed: int = 0, listed: Any = LISTED, labels: Any = LABELS, **victim: float) -> Record:
    plan = {
        **{"dataset": {"name": "tu", "set": "AIDS"}, "victim": {"name": "gin"}, "attack": {"name": attack, "target": 0}},
        **{"trainer": {}, "detectors": [], "purifiers": list(listed), "seed": seed},
    }
    before = {"acc": 0.9, "asr": 1.0, "ra": 0.0, "natural": 0.05, "asr_lift": 0.95, **victim}
    after = {
        label: {"acc": 0.8, "asr": i / 10, "ra": 0.5, "natural": 0.05, "asr_lift": i / 10, "drop": 0.1}
        for i, label in enumerate(labels, 1)
    }
    metrics = {"victim": _rates(before), "purifiers": {k: _rates(v) | _counts() for k, v in after.items()}, "detectors": {}}
    stages = {"victim": "", **{f"purifier {label}": "" for label in labels}}
    return Record(f"{attack}{seed}", plan, metrics, {}, [], "done", stages=stages)


def _rates(values: dict[str, float]) -> dict[str, Any]:
    return {k: {"value": v, "low": v, "high": v, "n": 9} for k, v in values.items()}


def _counts() -> dict[str, Any]:
    return {"confusion": [[5, 0], [0, 5]], "triggered_as": [1, 1]}


def test_a_family_differs_in_one_number_only() -> None:
    (found,) = levels(record("gta"))
    assert (found.name, found.path) == ("nad", "p")
    assert found.labels == ((2.0, "nad"), (1.0, "nad(p=1.0)"), (4.0, "nad(p=4.0)"))
    assert levels(record("gta", listed=LISTED[1:], labels=LABELS[1:])) == (), "two values make no line"


def test_levels_are_searched_once_for_all_records_of_one_list(monkeypatch: pytest.MonkeyPatch) -> None:
    searched = []
    monkeypatch.setattr(module, "families", lambda items, path: searched.append(path) or families(items, path))
    listed = [{**settings, "rounds": 3} for settings in LISTED]
    found = [levels(record(attack, seed, listed)) for attack in ("gta", "sub-ba") for seed in (0, 1)]
    assert found.count(found[0]) == 4 and found[0]
    assert sorted(searched) == ["p", "rounds", "teacher.lr"]
    assert levels(record("gta", listed=listed, labels=[*LABELS[:2], "other", *LABELS[3:]])) != found[0], "labels count, too"


def test_a_curve_is_named_by_what_all_its_levels_share() -> None:
    listed = [{"name": "d", "detector": {"name": "s", "eps": e}, "epochs": 0} for e in (0.1, 0.2, 0.3)]
    labels = ["d(detector=s, epochs=0)", "d(detector=s(eps=0.2), epochs=0)", "d(detector=s(eps=0.3), epochs=0)"]
    (found,) = levels(record("gta", listed=listed, labels=labels))
    assert (found.name, found.path) == ("d(detector=s, epochs=0)", "detector.eps")


def test_levels_of_one_list_are_no_points_of_causes_where_another_is_united_with_it() -> None:
    both = [(LISTED, LABELS), (({"name": "anp", "p": 2.0},), ("anp(p=2.0)",))]
    runs = [record("gta", seed, listed, labels) for seed in range(6) for listed, labels in both]
    runs = [structs.replace(r, key=f"{i}", stages={**r.stages, "judge": f"{i // 2}"}) for i, r in enumerate(runs)]
    (figure,) = causes(runs)
    drawn = {p["defence"] for p in figure.spec["data"]["values"]}
    assert drawn == {"nad", "nad(p=4.0, teacher=x(lr=0.5))", "anp", "anp(p=2.0)"}
    assert drawn == {rank.defence for rank in ranking(runs)} - {"none"}


def test_the_curve_of_each_cell_stands_beside_the_victim_as_it_came() -> None:
    (made,) = sweeps.sweeps(groups([record("gta"), record("sub-ba", asr=0.7)]))
    points = made.spec["data"]["values"]
    assert (made.name[:-8], made.title) == ("levels-nad-p-", "nad along p")
    assert {p["panel"] for p in points} == {"gta", "sub-ba"}, "the parts that all cells share are not said again"
    asr = {(p["panel"], p["at"]): p["%"] for p in points if "at" in p and p["line"] == "ASR %"}
    assert asr == {(panel, at): v for panel in ("gta", "sub-ba") for at, v in ((2.0, 10.0), (1.0, 20.0), (4.0, 30.0))}
    given = {(p["panel"], p["line"]): p["was"] for p in points if "was" in p}
    assert given[("gta", "ASR %")] == 100.0
    assert given[("sub-ba", "ASR %")] == 70.0
    assert given[("gta", "natural %")] == 5.0
    drawn = list(ElementTree.fromstring(made.svg()).iter())
    dashed = [e for e in drawn if e.get("stroke-dasharray") == "4,4"]
    circles = [e for e in drawn if e.get("transform", "").startswith("translate") and ",0A" in e.get("d", "")]
    assert len(dashed) == 2 * 4
    assert len(circles) == 2 * 3 * 3 + len(made.spec["spec"]["layer"][-1]["encoding"]["color"]["scale"]["domain"]), (
        "and the legend"
    )


def test_a_curves_file_keeps_its_name_whatever_else_there_is() -> None:
    more = [*({"name": "anp", "share": s} for s in (0.1, 0.2, 0.3)), *LISTED]
    labels = [*(f"anp(share={s})" for s in (0.1, 0.2, 0.3)), *LABELS]
    (alone,) = sweeps.sweeps(groups([record("gta")]))
    beside = sweeps.sweeps(groups([record("sub-ba", listed=more, labels=labels), record("gta")]))
    assert len({figure.name for figure in beside}) == 2
    assert alone.name in {figure.name for figure in beside}


def test_lines_are_means_over_seeds() -> None:
    cells = [record("gta", 0), record("gta", 1)]
    cells[1].metrics["purifiers"]["nad"]["asr"] = {"value": 0.3}
    (made,) = sweeps.sweeps(groups(cells))
    (point,) = [p for p in made.spec["data"]["values"] if p.get("at") == 2.0 and p["line"] == "ASR %"]
    assert point["%"] == 20.0
    assert (point["low"], point["high"]) == (0.0, 100.0), "two seeds this far apart say little"


def test_of_many_cells_the_first_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeps, "PANELS", 2)
    (made,) = sweeps.sweeps(groups([record(a) for a in ("gta", "sub-ba", "trap")]))
    assert {p["panel"] for p in made.spec["data"]["values"]} == {"gta", "sub-ba"}
    assert "Of 3 cells the first 2" in made.caption


def test_levels_that_were_not_judged_draw_nothing() -> None:
    failed = record("gta")
    failed.metrics["purifiers"].clear()
    assert sweeps.sweeps(groups([failed])) == []


def test_levels_are_not_told_as_defences_of_their_own() -> None:
    cells = [record("gta", seed) for seed in range(6)]
    assert curved(cells[0]) == {"nad(p=1.0)", "nad(p=4.0)"}, "the level without options is the method itself"
    told = {"nad", "nad(p=4.0, teacher=x(lr=0.5))", "anp"}
    assert {rank.defence for rank in ranking(cells)} == {"none", *told}
    assert {p["defence"] for p in causes(cells)[0].spec["data"]["values"]} == told
    assert [label for label, _ in figures._pictured(cells[0])] == ["none", *(label for label in LABELS if label in told)]


def test_levels_are_told_where_there_is_nothing_else() -> None:
    listed = [{"name": "nad", "p": p} for p in (1.0, 3.0, 4.0)]
    assert curved(record("gta", listed=listed, labels=[f"nad(p={d['p']})" for d in listed])) == set()


def test_levels_of_a_run_are_found_though_a_purifier_fails(tmp_path: Path) -> None:
    refused = {"name": "fine-pruning", "share": 0.3, "oracle": True}
    curve = [{"name": "fine-pruning", "share": s, "epochs": 0} for s in (0, 0.5, 0.9)]
    plan = {
        **{"dataset": {"name": "toy-graphs", "n": 120}, "victim": {"name": "gin", "hidden": 8}, "trainer": {"epochs": 2}},
        **{
            "attack": "sub-ba",
            "purifiers": [refused, *curve],
        },
    }
    (found,) = ostiary.run(plan, store=tmp_path / "store")
    assert found.status == "failed"
    (drawn,) = levels(found)
    assert drawn.name == "fine-pruning(epochs=0)"
    assert [value for value, _ in drawn.labels] == [0.0, 0.5, 0.9]
    pruned = [found.metrics["purifiers"][label]["notes"]["pruned"] for _, label in drawn.labels]
    assert pruned[0] == 0 < pruned[1] < pruned[2]
    page = write_report([found], tmp_path / "store", tmp_path / "page.html").read_text()
    assert "fine-pruning(epochs=0) along share" in page
