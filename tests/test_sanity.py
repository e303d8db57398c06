"""Doubts about an experiment, raised by its figures."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from ostiary.component import build
from ostiary.detectors.base import Findings
from ostiary.evaluate import Outputs
from ostiary.sanity import about_findings, about_victim
from ostiary.testing import toys

GATE = "misses the usual gate"


def doubts(modality: str, asr: float, cad: float, rate: float = 0.1) -> list[str]:
    attack = {"image": "badnets", "graph": "sub-ba"}[modality]
    made = build("attack", {"name": attack, "rate": rate}).poison(toys.splits(modality), toys.context(modality))
    values = {"acc": 0.9 - cad, "asr": asr, "natural": 0.1, "asr_lift": asr - 0.1, "control_acc": 0.9, "cad": cad}
    metrics: Any = {name: {"value": value} for name, value in values.items()}
    logits = 9 * torch.eye(2)[torch.zeros(3, dtype=torch.int64)]
    said = made.splits.train.y[made.index]
    return about_victim(metrics, Outputs(logits, logits, logits, logits), made, said)


@pytest.mark.parametrize(("asr", "cad", "told"), [(0.9, 0.01, False), (0.8, 0.01, True), (0.9, 0.06, True)])
def test_an_attack_on_images_that_misses_the_gate_of_defence_tables_says_so(asr: float, cad: float, told: bool) -> None:
    found = [d for d in doubts("image", asr, cad) if GATE in d]
    assert len(found) == told
    assert all(f"{asr:.1%}, {100 * cad:.1f} lost" in d for d in found)


def test_the_gate_is_for_attacks_on_images_that_work_at_all() -> None:
    assert not any(GATE in d for d in doubts("graph", 0.6, 0.01))
    assert not any(GATE in d for d in doubts("image", 0.6, 0.01, rate=0.0))
    weak = doubts("image", 0.3, 0.01)
    assert any("hardly works" in d for d in weak) and not any(GATE in d for d in weak)


def test_findings_that_say_nothing_are_doubted() -> None:
    even = Findings(torch.zeros(4), doubts=("it saw nothing",))
    assert about_findings(even, "model") == ["it saw nothing", "the detector gives every class the same score"]
    assert about_findings(even, "train")[1] == "the detector gives every sample the same score"
    assert about_findings(Findings(torch.tensor([0.0, math.nan])), "train") == ["some detector scores are not finite"]
    assert about_findings(Findings(torch.tensor([0.0, 1.0])), "train") == []
