"""Certified accuracy on the page: drawn, written out, and left away where nothing is certified."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

import ostiary
from ostiary.experiment.record import Record
from ostiary.report.certified import certified, certified_tables, curves
from ostiary.report.drawing import looks
from ostiary.report.tables import groups

PLAN = {
    "dataset": {"name": "toy-graphs", "n": 120},
    "victim": {"name": "gin", "hidden": 8, "layers": 1},
    "attack": {"name": "sub-ba", "rate": 0.1},
    "trainer": {"epochs": 3},
    "purifiers": [
        {"name": "fine-tune", "epochs": 1},
        {"name": "edge-partition", "groups": 4},
        {"name": "joint-partition", "parts": 3, "groups": 7},
    ],
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Record]]:
    store = tmp_path_factory.mktemp("store")
    records = ostiary.run({**PLAN, "seeds": [0, 1]}, store=store)
    assert [r.status for r in records] == ["done", "done"]
    return store, records


def test_the_verdict_holds_a_falling_curve_that_starts_at_the_accuracy(made: tuple[Path, list[Record]]) -> None:
    for record in made[1]:
        found = record.metrics["purifiers"]
        assert "certified" not in found["fine-tune(epochs=1)"]
        edge, joint = found["edge-partition(groups=4)"], found["joint-partition(parts=3, groups=7)"]
        assert set(edge["certified"]) == {"alpha", "edges"}
        assert set(joint["certified"]) == {"alpha", "edges", "poisoned", "joint"}
        for metrics in (edge, joint):
            curve = [share["value"] for share in metrics["certified"]["edges"].values()]
            assert curve[0] == metrics["acc"]["value"]
            assert curve == sorted(curve, reverse=True)
            assert curve[0] > curve[-1] == 0.0


def test_curves_are_means_over_seeds(made: tuple[Path, list[Record]]) -> None:
    (group,) = groups(made[1])
    found = {(c.defence, c.kind): c.shares for c in curves(group)}
    assert {k for _, k in found} == {"edges", "poisoned", "joint"}
    name = "edge-partition(groups=4)"
    runs = [r.metrics["purifiers"][name]["certified"]["edges"]["1"]["value"] for r in made[1]]
    assert found[name, "edges"]["1"]["value"] == pytest.approx(sum(runs) / 2)


def test_a_seed_whose_curve_ends_early_counts_as_none_certified(made: tuple[Path, list[Record]]) -> None:
    longer = made[1][0]
    metrics = msgspec.json.decode(msgspec.json.encode(longer.metrics))
    name = "edge-partition(groups=4)"
    metrics["purifiers"][name]["certified"]["edges"]["16"] = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 20}
    (group,) = groups([msgspec.structs.replace(longer, metrics=metrics), made[1][1]])
    shares = next(c.shares for c in curves(group) if (c.defence, c.kind) == (name, "edges"))
    assert shares["16"]["value"] == pytest.approx(0.25)


def test_figure_and_tables(made: tuple[Path, list[Record]], tmp_path: Path) -> None:
    store, records = made
    (group,) = groups(records)
    (figure,) = certified(group)
    assert figure.svg().startswith("<svg")
    points = figure.spec["data"]["values"]
    assert {p["change"] for p in points} == {"flipped edges of an input", "poisoned training samples"}
    tables = certified_tables(group)
    assert [t["name"] for t in tables] == ["flipped edges of an input", "poisoned training samples", "both together"]
    assert all(len(line) == len(t["heads"]) for t in tables for line in t["lines"])
    page = ostiary.write_report(records, store, tmp_path / "page.html").read_text(encoding="utf-8")
    assert "Certified accuracy over radius" in page
    assert page.count("Certified accuracy, flipped edges of an input") == 1
    assert "group-1-certified" in page


def test_no_two_lines_look_alike(made: tuple[Path, list[Record]]) -> None:
    (group,) = groups(made[1])
    layers = certified(group)[0].spec["spec"]["layer"]
    for channel in ("color", "shape", "strokeDash"):
        scale = next(layer["encoding"][channel]["scale"] for layer in layers if channel in layer["encoding"])
        assert len(set(map(str, scale["range"]))) == len(scale["domain"]) == 2
    many = looks([f"defence-{i}" for i in range(54)])
    assert len(set(map(str, many.values()))) == 54


def test_nothing_is_said_where_nothing_is_certified(made: tuple[Path, list[Record]], tmp_path: Path) -> None:
    store, _ = made
    plain = ostiary.run({**PLAN, "purifiers": PLAN["purifiers"][:1]}, store=store)  # type: ignore[index]
    (group,) = groups(plain)
    assert certified(group) == [] == certified_tables(group)
    assert "Certified" not in ostiary.write_report(plain, store, tmp_path / "page.html").read_text(encoding="utf-8")
