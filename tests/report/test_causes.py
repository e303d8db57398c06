"""What is left after a defence: the backdoor, or a class that the model has lost."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ostiary.report.causes import causes, false_target


@dataclass
class Run:
    """As much of a record as the figure reads."""

    plan: dict[str, Any]
    metrics: dict[str, Any]
    stages: dict[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        return str(id(self))


def after(asr: float, confusion: list[list[int]]) -> dict[str, Any]:
    return {"asr": {"value": asr, "n": 20}, "confusion": confusion}


def run(seed: int, lift: float = 0.8) -> Run:
    parts = {"dataset": {"name": "tu", "set": "AIDS"}, "victim": {"name": "gin"}, "attack": {"name": "sub-ba", "target": 1}}
    purifiers = {"kept": after(0.9, [[9, 1], [0, 10]]), "lost": after(0.6, [[4, 6], [0, 10]])}
    metrics = {"victim": {"asr_lift": {"value": lift}, "acc": {"value": 0.9}}, "purifiers": purifiers}
    return Run({**parts, "seed": seed, "trainer": {}, "detectors": [], "purifiers": []}, metrics)


def test_false_targets_are_those_of_other_classes() -> None:
    assert false_target({"confusion": [[4, 6], [5, 5]]}, 1) == 0.6
    assert false_target({"confusion": [[8, 1, 1], [2, 8, 0], [1, 0, 9]]}, 0) == 3 / 20


def test_one_point_a_run_and_defence_where_the_attack_works() -> None:
    figure = causes([*(run(seed) for seed in range(6)), run(7, lift=0.1)])[0]  # type: ignore[list-item]
    assert "kept: 6 of 6 points more than 5 above the line, 0 right of 20" in figure.alt
    assert "lost: 0 of 6 points more than 5 above the line, 6 right of 20" in figure.alt
    points = figure.spec["data"]["values"]
    assert len(points) == 12
    assert {(p["defence"], p["untriggered"], p["triggered"]) for p in points} == {("kept", 10.0, 90.0), ("lost", 60.0, 60.0)}
    assert "<svg" in figure.svg()


def test_names_of_defences_are_told_whole_and_ticks_apart() -> None:
    many = [run(seed) for seed in range(6)]
    name = "gcleaner(preset=paper, explainer=integrated-gradients)"
    for each in many:
        each.metrics["purifiers"] = {name: each.metrics["purifiers"]["kept"]}
    drawn = causes(many)[0].svg()  # type: ignore[arg-type]
    assert "\N{HORIZONTAL ELLIPSIS}" not in drawn and "integrated-gradients)" in drawn and ">80<" not in drawn


def test_attacks_on_every_class_at_once_have_no_place_in_it() -> None:
    many = [run(seed) for seed in range(6)]
    for each in many:
        each.plan["attack"]["labels"] = {"name": "multi-target"}
    assert causes(many) == []  # type: ignore[arg-type]


def test_few_runs_are_no_figure() -> None:
    assert causes([run(seed) for seed in range(5)]) == []  # type: ignore[misc]
