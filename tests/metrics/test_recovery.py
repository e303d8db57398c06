"""How near recovered triggers come to the attacker's."""

from __future__ import annotations

import csv
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from ostiary.component import build
from ostiary.data.dataset import Dataset
from ostiary.experiment.runner import run
from ostiary.metrics.recovery import JUDGED, recovery
from ostiary.modality.base import Inputs
from ostiary.report.html import write_report
from ostiary.report.spreadsheets import save_tables
from ostiary.report.tables import RECOVERY, ends, groups, recovery_rows
from ostiary.testing import toys


def of_attacker(modality: str) -> Any:
    """A recovery that has found the attacker's own trigger."""
    poisoned = toys.poisoned(modality)
    place = {int(i): n for n, i in enumerate(poisoned.triggered.ids)}

    def trial(data: Dataset, goal: int) -> Inputs:
        return poisoned.triggered.take(torch.tensor([place[int(i)] for i in data.ids])).inputs

    return trial


@pytest.mark.parametrize("modality", ["graph", "image"])
def test_the_attackers_own_trigger_is_as_near_as_one_can_be(modality: str) -> None:
    poisoned, victim = toys.poisoned(modality), toys.victim(modality)
    found = recovery(victim, poisoned, of_attacker(modality))
    n = len(poisoned.rows)
    assert n <= JUDGED and all(figure["n"] == n for figure in found.values()) and set(found) == set(RECOVERY)
    logits, features = victim.embed(poisoned.triggered.inputs)
    assert found["recovered_asr"]["value"] == pytest.approx(float((logits.argmax(1) == poisoned.triggered.y).double().mean()))
    pairs = F.cosine_similarity(features[:, None].double(), features[None].double(), dim=-1)
    assert found["recovered_similarity"]["value"] == pytest.approx(float(pairs.mean()), abs=1e-5)
    assert found["recovered_similarity"]["value"] > found["source_similarity"]["value"]


def test_a_trigger_that_changes_nothing_is_like_none() -> None:
    poisoned, victim = toys.poisoned("graph"), toys.victim("graph")
    found = recovery(victim, poisoned, lambda data, goal: data.inputs)
    assert found["recovered_similarity"]["value"] == found["source_similarity"]["value"]
    said = victim.predict(poisoned.splits.test.take(poisoned.rows).inputs).argmax(1)
    assert found["recovered_asr"]["value"] == pytest.approx(float((said == poisoned.triggered.y).double().mean()))


def test_classes_without_a_recovered_trigger_do_not_count() -> None:
    """And wanted classes count alike, however many sources each has."""
    poisoned, victim = toys.poisoned("image"), toys.victim("image")
    assert recovery(victim, poisoned, lambda data, goal: None) == {}
    wanted = poisoned.triggered.y.clone()
    other = int((wanted[0] + 1) % poisoned.splits.test.n_classes)
    at = (poisoned.splits.test.y[poisoned.rows] != other).nonzero().flatten()[:3]
    wanted[at] = other
    two = replace(poisoned, triggered=replace(poisoned.triggered, y=wanted))
    plain = recovery(victim, two, lambda data, goal: data.inputs)["recovered_asr"]
    said = victim.predict(two.splits.test.take(two.rows).inputs).argmax(1) == wanted
    rates = [float(said[wanted == goal].double().mean()) for goal in wanted.unique()]
    assert plain["value"] == pytest.approx(sum(rates) / 2) and plain["n"] == len(wanted)
    one = recovery(victim, two, lambda data, goal: data.inputs if goal == other else None)
    assert one["recovered_asr"]["n"] == 3


@pytest.mark.parametrize(
    ("modality", "method"),
    [
        ("graph", {"name": "gcleaner", "recovery_steps": 5, "rounds": 1, "epochs": 1}),
        ("graph", {"name": "gcleaner", "preset": "paper", "objective": "similarity", "positions": "random", "epochs": 1}),
        ("image", {"name": "nc-unlearn", "epochs": 1, "scan": {"name": "neural-cleanse", "steps": 5}}),
        ("image", {"name": "mesa", "target": 0, "steps": 5, "epochs": 1}),
    ],
    ids=["gcleaner", "gcleaner-similarity", "nc-unlearn", "mesa"],
)
def test_a_purifier_hands_out_the_triggers_that_it_recovered(modality: str, method: dict[str, Any]) -> None:
    """On inputs it has not seen, and the same each time."""
    cleaned = build("purifier", method).purify(toys.evidence(modality), toys.context(modality))
    test = toys.splits(modality).test.take(torch.arange(9))
    assert cleaned.trial is not None
    first, again = cleaned.trial(test, 0), cleaned.trial(test, 0)
    kind = test.modality
    packed = [kind.pack(inputs) for inputs in (first, again, test.inputs)]
    assert kind.count(first) == 9 and all(torch.equal(v, packed[1][k]) for k, v in packed[0].items())
    assert any(v.shape != packed[2][k].shape or not torch.equal(v, packed[2][k]) for k, v in packed[0].items())
    if method["name"] == "mesa":
        assert cleaned.trial(test, 1) is None, "it was told the class"
    assert cleaned.clone().trial is not None


def test_a_run_measures_and_every_report_tells(tmp_path: Path) -> None:
    plan = {
        "dataset": "toy-graphs",
        "victim": {"name": "gin", "hidden": 8, "layers": 2},
        "trainer": {"epochs": 2},
        "attack": "sub-ba",
        "detectors": [{"name": "inversion-scan", "steps": 2, "references": 1, "lessons": 32, "epochs": 1}, "spectral"],
        "purifiers": [{"name": "gcleaner", "preset": "fast", "epochs": 1}, {"name": "fine-tune", "epochs": 1}],
        "published": {"gcleaner": {"asr": 6.64, "recovered_asr": 98.4, "recovered_similarity": 0.625}},
    }
    records = run(plan, store=tmp_path / "s")
    (group,) = groups(records)
    lines = recovery_rows(group)
    assert [line.defence.partition("(")[0] for line in lines] == ["inversion-scan", "gcleaner"]
    own = records[0].metrics["purifiers"][lines[1].defence]
    assert lines[1].figures["recovered_asr"]["value"] == own["recovered_asr"]["value"]
    page = write_report(records, tmp_path / "s", tmp_path / "page.html").read_text(encoding="utf-8")
    assert "How near recovered triggers come" in page
    alike = own["recovered_similarity"]["value"]
    for shown in (f"{alike:.3f}", "98.4</td>", "0.625</td>"):  # a cosine is no share in percent
        assert f"<td>{shown}" in page
    assert ends("recovered_similarity", {"value": 0.8, "low": -1.3, "high": 1.1, "n": 3}) == (-1.0, 1.0)
    save_tables(records, tmp_path)
    saved = list(csv.DictReader((tmp_path / "recovery.csv").read_text(encoding="utf-8").splitlines()))
    assert float(saved[1]["recovered_similarity"]) == pytest.approx(alike)
    published = list(csv.DictReader((tmp_path / "published.csv").read_text(encoding="utf-8").splitlines()))
    assert {line["figure"]: float(line["published"]) for line in published} == {
        "asr": pytest.approx(0.0664),
        "recovered_asr": pytest.approx(0.984),
        "recovered_similarity": 0.625,
    }


def test_what_judging_takes_is_not_the_methods(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(*_: Any) -> dict[str, Any]:
        time.sleep(3)
        return {}

    monkeypatch.setattr("ostiary.experiment.compute.recovery", slow)
    plan = {
        "dataset": "toy-images",
        "victim": {"name": "preact-resnet", "width": 4, "blocks": [1]},
        "trainer": {"epochs": 1},
        "attack": "badnets",
        "detectors": [{"name": "neural-cleanse", "steps": 2}],
        "purifiers": [{"name": "nc-unlearn", "epochs": 1, "scan": {"name": "neural-cleanse", "steps": 2}}],
    }
    began = time.time()
    (record,) = run(plan, store=tmp_path)
    assert sum(record.seconds.values()) + 6 <= time.time() - began
