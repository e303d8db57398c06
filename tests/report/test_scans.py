"""Scans of models in tables and on the page, and the clean victims (rate 0) that they are judged against."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

import ostiary
from ostiary.experiment.record import Record
from ostiary.experiment.store import Store
from ostiary.report import figures, html
from ostiary.report.scans import accused, scan_rows
from ostiary.report.tables import detector_rows, groups, text

SCAN = {"name": "inversion-scan", "nodes": 2, "steps": 2, "copies": 1, "threshold": -100.0}
LABEL = "inversion-scan(nodes=2, copies=1, steps=2, threshold=-100.0)"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Record]]:
    store = tmp_path_factory.mktemp("store")
    plan: dict[str, Any] = {
        **{"dataset": {"name": "toy-graphs"}, "victim": {"name": "gin", "hidden": 8, "layers": 2}, "trainer": {"epochs": 2}},
        **{"attack": "sub-ba", "detectors": [SCAN, "spectral"], "vary": {"attack.rate": [0.1, 0.0]}},
    }
    return store, ostiary.run(plan, store=store)


def test_rate_0_is_a_clean_model_judged_by_the_trigger(made: Any) -> None:
    _, (backdoored, clean) = made
    assert backdoored.metrics["attack"]["poisoned"] > 0
    assert clean.status == "done"
    assert clean.metrics["attack"]["poisoned"] == 0
    assert clean.metrics["attack"]["triggered"] == clean.metrics["victim"]["asr"]["n"] > 0
    assert clean.metrics["victim"]["asr"] == clean.metrics["victim"]["natural"]  # the same model as the control
    assert "rate 0: nothing is poisoned, the victim learns no backdoor" in clean.doubts
    assert not any("hardly works" in d or "learnt only" in d for d in clean.doubts)
    found = set(clean.metrics["detectors"]["spectral"])
    assert found == {"about", "measure", "info", "classes", "fpr"}  # nothing to tell apart


def test_a_scan_records_its_score_and_its_alarm(made: Any) -> None:
    _, (backdoored, clean) = made
    found = backdoored.metrics["detectors"][LABEL]
    assert found["alarm"] == found["found_target"] == 1.0  # everything is above that threshold
    assert found["score"] == max(line["score"] for line in found["info"]["classes"].values())
    assert "drawn" not in found["info"]
    assert "found_target" not in clean.metrics["detectors"][LABEL]
    row = next(r for r in detector_rows(groups([backdoored])[0]) if r.defence == LABEL)
    assert text("alarm", row.figures["alarm"]) == "100.0"


def test_the_recovered_triggers_are_drawn(made: Any, tmp_path: Path) -> None:
    store, records = made
    book = Store(store, create=False)
    drawn = [f for f in figures.figures(groups(records)[0], book)[0] if f.part == "recovered"]
    book.close()
    assert [f.title for f in drawn] == ["to 0 \N{EM DASH} flagged", "to 1 \N{EM DASH} flagged"]
    assert all("score" in f.caption and "Seed 0" in f.caption for f in drawn)
    page = html.write_report(records, store, tmp_path / "page.html").read_text(encoding="utf-8")
    assert page.count("Recovered triggers</h3>") == 2
    assert "alarm %" in page
    alone = html.write_report([scans_only(r) for r in records], store, tmp_path / "alone.html").read_text(encoding="utf-8")
    assert "alarm %" in alone and "AUPRC</th>" not in alone  # only columns that hold something


def test_the_flagged_classes_are_named(made: Any) -> None:
    _, (backdoored, clean) = made
    most, least = (r.metrics["detectors"][LABEL]["score"] for r in (backdoored, clean))
    assert accused([backdoored]) == [f"{LABEL} flags class 0 and class 1 (highest score {most:.2f})"]
    found = {**clean.metrics["detectors"], LABEL: {**clean.metrics["detectors"][LABEL], "classes": [1]}}
    other = msgspec.structs.replace(clean, metrics={**clean.metrics, "detectors": found})
    assert accused([backdoored, other]) == [f"{LABEL} flags class 1 in 2 of 2, class 0 in 1 of 2 runs"]
    found = {LABEL: {**found[LABEL], "classes": []}}
    assert accused([msgspec.structs.replace(other, metrics={**clean.metrics, "detectors": found})]) == [
        f"{LABEL} flags no class (highest score {least:.2f}, of class {found[LABEL]['highest']})"
    ]


def scans_only(record: Record) -> Record:
    detectors = {k: v for k, v in record.metrics["detectors"].items() if k == LABEL}
    return msgspec.structs.replace(record, metrics={**record.metrics, "detectors": detectors})


def judged(lift: float, poisoned: int, score: float, alarm: bool, target: bool, like: Record) -> Record:
    found = {"score": score, "alarm": float(alarm), "found_target": float(target), "classes": [], "info": {}}
    victim = {**like.metrics["victim"], "asr_lift": {"value": lift, "n": 50}}
    metrics = {**like.metrics, "victim": victim, "attack": {"poisoned": poisoned}, "detectors": {"scan": found}}
    return msgspec.structs.replace(
        like, metrics=metrics, stages={**like.stages, "judge": f"{lift} {score}", "control": str(score)}
    )


def test_victims_of_a_store_are_told_apart(made: Any, tmp_path: Path) -> None:
    store, records = made
    like = records[0]
    clean = [judged(0.0, 0, score, score > 1, False, like) for score in (0.1, 0.5, 2.0, 0.2)]
    taken = [judged(0.8, 20, score, score > 1, score > 2, like) for score in (3.0, 1.5, 0.5)]
    weak = judged(0.1, 20, 9.0, True, True, like)  # does not work: counts neither way
    row = scan_rows([*clean, *taken, weak])[0]
    assert row.defence == "scan"
    assert row.figures["auroc"]["value"] == pytest.approx((4 + 3 + 2.5) / 12)
    assert [row.figures[k]["value"] for k in ("detected", "false_alarms", "found_target")] == [2 / 3, 1 / 4, 1 / 3]
    assert [row.figures[k]["value"] for k in ("backdoored", "clean")] == [3, 4]
    assert scan_rows(clean) == scan_rows([*taken, weak]) == []
    again = [msgspec.structs.replace(r, stages={**r.stages, "judge": f"by another attack, {r.stages['judge']}"}) for r in clean]
    assert scan_rows([*clean, *again, *taken])[0] == row, "one clean model, whichever attack it is asked about"
    page = html.write_report([*clean, *taken], store, tmp_path / "page.html").read_text(encoding="utf-8")
    assert "Which models are backdoored" in page and "<td>0.792</td>" in page
