"""The ranking of defences against figures counted by hand."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import structs

from ostiary.experiment.record import Record
from ostiary.report.ranking import collapsed, ranking, solves, spread, uneven


def figures(asr: float, natural: float = 0.1, drop: float | None = None) -> dict[str, Any]:
    found = {"acc": 0.9, "asr": asr, "natural": natural, "asr_lift": asr - natural, "ra": 1 - asr}
    return {k: {"value": v, "n": 50} for k, v in {**found, **({} if drop is None else {"drop": drop})}.items()}


def record(seed: int, before: float, *, poisoned: int = 20, **after: tuple[float, float] | None) -> Record:
    metrics = {
        "victim": figures(before),
        "attack": {"poisoned": poisoned},
        "purifiers": {name: figures(held[0], drop=held[1]) for name, held in after.items() if held},
        "detectors": {},
        "data": {},
    }
    stages = {f"purifier {name}": "k" for name in after}
    seconds = {f"purifier {name}": 2.0 + seed for name in after}
    return Record(
        **{"key": str(seed), "plan": {"seed": seed}, "metrics": metrics, "seconds": seconds, "doubts": [], "status": "done"},
        **{
            "passed": {},
            "errors": {f"purifier {name}": "no" for name, held in after.items() if not held},
            "stages": stages,
            "artefacts": {},
            "versions": {},
            "git": "",
            "device": "cpu",
        },
        **{"host": {}, "made": 0.0, "title": "", "published": {}},
    )


RECORDS = [
    record(0, 0.9, good=(0.12, 0.0), harsh=(0.1, 0.3), refusing=(0.9, 0.0)),
    record(1, 0.8, good=(0.5, 0.02), harsh=(0.1, 0.2), refusing=None),
    record(2, 0.35, good=(0.1, 0.5), harsh=(0.1, 0.5), refusing=(0.1, 0.0)),  # lift 25: no attack
    record(3, 0.1, poisoned=0, good=(0.1, 0.01), harsh=(0.1, 0.4), refusing=(0.1, 0.0)),
    record(4, 0.1, poisoned=0, good=(0.1, 0.03), harsh=(0.1, 0.4), refusing=(0.1, 0.0)),
]


def test_only_runs_count_in_which_the_attack_works() -> None:
    found = {rank.defence: rank for rank in ranking(RECORDS)}
    assert [rank.defence for rank in ranking(RECORDS)] == ["good", "harsh", "none", "refusing"]
    good = found["good"]
    assert (good.cells, good.failed) == (2, 0)
    assert good.figures["solved"]["value"] == 0.5, "seed 1 keeps a lift of 40 points"
    assert good.figures["asr"]["value"] == pytest.approx(0.31)
    assert good.figures["drop"]["value"] == pytest.approx(0.01)
    assert good.figures["seconds"]["value"] == 2.5
    assert good.figures["clean_drop"]["value"] == pytest.approx(0.02)
    assert found["harsh"].figures["solved"]["value"] == 0, "it costs 20 points and more"
    assert (found["refusing"].cells, found["refusing"].failed) == (1, 1)
    assert found["none"].figures["asr_lift"]["value"] == pytest.approx(0.75)


def test_a_run_that_broke_off_is_not_solved() -> None:
    runs = [
        record(s, 0.9, fragile=(0.1, 0.0) if s == 0 else None, steady=(0.1, 0.0) if s < 3 else (0.9, 0.0)) for s in range(4)
    ]
    found = ranking(runs)
    assert [(r.defence, r.cells, r.failed) for r in found[:2]] == [("steady", 4, 0), ("fragile", 1, 3)]
    assert [r.figures["solved"]["value"] for r in found[:2]] == [0.75, 0.25]
    assert found[1].figures["asr"]["value"] == pytest.approx(0.1), "of the run that it came through"


def test_where_nothing_is_solved_lost_accuracy_counts_as_much_as_what_is_left() -> None:
    runs = [record(s, 0.9, ruinous=(0.1, 0.6), mild=(0.5, 0.0)) for s in (0, 1)]
    assert [r.defence for r in ranking(runs)] == ["mild", "ruinous", "none"]


def test_a_clean_model_counts_once() -> None:
    """However many attacks were asked about it at rate 0."""
    clean = [
        structs.replace(r, key=f"{r.key}{i}", stages={**r.stages, "control": r.key}) for r in RECORDS[3:] for i in range(3)
    ]
    found = {r.defence: r for r in ranking([*RECORDS[:3], *clean])}
    assert found["good"].figures["clean_drop"]["n"] == 2


def test_a_defence_that_refused_in_all_runs_is_listed_last() -> None:
    found = ranking([record(s, 0.9, good=(0.1, 0.0), refusing=None) for s in (0, 1)])
    assert [(rank.defence, rank.cells, rank.failed) for rank in found] == [("good", 2, 0), ("none", 2, 0), ("refusing", 0, 2)]
    assert found[-1].figures == {}


def test_spread_is_that_over_runs() -> None:
    found = {rank.defence: rank for rank in ranking(RECORDS)}
    assert spread("asr", found["good"].figures["asr"]) == "31.0 ± 26.9"
    assert spread("solved", found["good"].figures["solved"]) == "50.0"
    assert spread("seconds", found["good"].figures["seconds"]) == "2.5 ± 0.7"
    assert spread("ra", None) == "-"


def test_a_warning_where_defences_were_tried_in_unlike_runs() -> None:
    assert uneven(ranking(RECORDS)) == "", "a run in which a defence refused counts, too"
    more = [*RECORDS, record(5, 0.9, good=(0.2, 0.0))]
    assert uneven(ranking(more)).startswith("The defences were tried in 2 to 3 runs, not all in the same")


def test_one_run_or_one_defence_is_no_ranking() -> None:
    assert ranking(RECORDS[:1]) == []
    assert ranking([record(s, 0.9, good=(0.1, 0.0)) for s in (0, 1)]) == []


def test_saying_one_class_only_solves_nothing() -> None:
    useful, lost = ({**figures(0.1, drop=0.0), "confusion": c} for c in ([[40, 5], [5, 50]], [[0, 45], [0, 55]]))
    assert solves(useful)
    assert not solves(lost)
    assert collapsed(lost)
    assert not collapsed(useful)


def test_a_run_with_several_records_counts_once() -> None:
    """As two plans leave that list other purifiers for the same attack and victim."""
    other = [structs.replace(r, stages={**r.stages, "judge": r.key}) for r in RECORDS]
    late = [record(seed, before, late=(0.1, 0.0)) for seed, before in ((0, 0.9), (1, 0.8))]
    again = [structs.replace(r, key=f"{r.key} again", stages={**r.stages, "judge": r.key}) for r in late]
    found = {rank.defence: rank for rank in ranking([*other, *again])}
    before = {rank.defence: rank for rank in ranking(RECORDS)}
    assert found["none"].cells == 2 and found["good"].figures == before["good"].figures
    assert (found["late"].cells, found["late"].figures["solved"]["value"]) == (2, 1.0)


def test_five_points_are_five_points() -> None:
    held = figures(0.1, drop=0.9 - 0.85)
    assert held["drop"]["value"] > 0.05 and solves(held)


def test_a_defence_that_was_left_out_has_not_failed() -> None:
    left = record(5, 0.9, good=(0.1, 0.0))
    left = structs.replace(left, stages={**left.stages, "purifier spared": "k"})
    assert "spared" not in {rank.defence for rank in ranking([*RECORDS, left])}
