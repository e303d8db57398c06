"""What a run computes and what it need not: findings that a defence takes over, cells in which the attack does not work."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from toy_runs import TOY, database, kinds, toy, watch

from ostiary.context import Context
from ostiary.detectors.base import Detector, Findings
from ostiary.evidence import Evidence
from ostiary.experiment import runner
from ostiary.experiment.compute import Result
from ostiary.experiment.record import LEFT_OUT
from ostiary.experiment.runner import Progress, run
from ostiary.experiment.store import Store


class Counted(Detector, name="counted"):
    """Draws scores, slowly."""

    modalities = frozenset({"graph"})
    needs = frozenset({"train"})
    about = "train"

    def examine(self, evidence: Evidence, ctx: Context) -> Findings:
        time.sleep(0.05)
        scores = torch.rand(len(evidence.train), generator=ctx.rng("scores"))
        return Findings(scores, scores > 0.9)


def test_a_defence_takes_over_what_its_detector_has_found_and_gives_the_same_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    examine = Counted.examine

    def counting(self: Counted, evidence: Evidence, ctx: Context) -> Findings:
        asked.append(self.name)
        return examine(self, evidence, ctx)

    monkeypatch.setattr(Counted, "examine", counting)
    plan = toy(purifiers=[{"name": "retrain-without", "detector": "counted"}])
    label = "purifier retrain-without(detector=counted)"
    alone, together = (
        run({**plan, "detectors": detectors}, store=tmp_path / f"{len(detectors)}")[0] for detectors in ([], ["counted"])
    )
    assert asked == ["counted", "counted"]  # once in each run
    assert alone.artefacts[label] == together.artefacts[label] and not alone.errors
    assert together.seconds[label] >= together.seconds["detector counted"] >= 0.05  # what it took over counts as its own

    with Store(tmp_path / "1") as book:  # the findings are lost: the defence asks again
        book.object(together.artefacts["detector counted"]["scores"]).unlink()
    with database(tmp_path / "1") as db:
        db.execute("delete from stage where kind = 'purifier'")
    again = run({**plan, "detectors": ["counted"]}, store=tmp_path / "1")[0]
    assert again.artefacts[label] == alone.artefacts[label] and len(asked) == 3


@pytest.mark.parametrize(
    ("lift", "least", "runs"), [(-0.1, 0.0, True), (None, 0.0, True), (None, 0.3, False), (0.3, 0.3, True)]
)
def test_defences_run_from_the_least_lift_on_and_always_without_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lift: float | None, least: float, runs: bool
) -> None:
    monkeypatch.setattr(runner, "compute", lambda stage, bench: Result({"asr_lift": {"value": lift}}))
    record = run(toy(least_lift=least), store=tmp_path)[0]
    assert bool(record.metrics["purifiers"]) == runs and record.status == "done"


@pytest.mark.parametrize("workers", [1, 2])
def test_where_the_attack_does_not_work_no_defence_is_run_and_the_record_says_so(tmp_path: Path, workers: int) -> None:
    watch(tmp_path / "s")
    weak = {"name": "sub-ba", "rate": 0.0}
    plan = toy(vary={"attack": [TOY["attack"], weak]}, detectors=["spectral"], least_lift=0.01, trainer={"epochs": 10})
    works, fails = run(plan, store=tmp_path / "s", workers=workers)
    assert works.metrics["victim"]["asr_lift"]["value"] >= 0.01 > fails.metrics["victim"]["asr_lift"]["value"]
    assert works.metrics["purifiers"] and works.metrics["detectors"]
    assert not any(d.startswith(LEFT_OUT) for d in works.doubts)
    assert not fails.metrics["purifiers"] and not fails.metrics["detectors"] and fails.status == "done" and not fails.errors
    assert [d for d in fails.doubts if d.startswith(LEFT_OUT)] == [f"{LEFT_OUT}1 points"]
    assert kinds(tmp_path / "s")["purifier"] == kinds(tmp_path / "s")["verdict"] == kinds(tmp_path / "s")["detector"] == 1

    told: list[Progress] = []
    run(plan, store=tmp_path / "s", workers=workers, listener=lambda p: told.append(replace(p)))
    assert told[-1].done == told[-1].reused == told[-1].total  # resumed: nothing to do, nothing waits
    everything = run({**plan, "least_lift": 0.0}, store=tmp_path / "s")[1]
    assert everything.metrics["purifiers"]
    kept = run(plan, store=tmp_path / "s")[1]  # what was computed is not hidden
    assert kept.metrics["purifiers"] == everything.metrics["purifiers"]
