"""Every method on an accelerator: nothing meets a tensor of another device (see accelerator.py)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from accelerator import FAR, pretended
from expectations import ROWS
from ostiary.component import build, catalogue
from ostiary.context import Context
from ostiary.experiment.runner import run
from ostiary.models.victim import Victim
from ostiary.testing import toys
from ostiary.testing.promises import carry_out
from ostiary.training.trainer import Trainer

REFUSED = (RuntimeError, TypeError)  # what torch itself raises; the stand-in's WrongDevice is one of them
METHODS = [(kind, e.name) for kind in ("attack", "detector", "purifier", "explainer") for e in catalogue(kind)]


def _part(kind: str, name: str) -> Any:
    row = next(r for r in ROWS if (r.kind, r.name) == (kind, name))
    return build(kind, {"name": name, **row.settings, **row.small})


def _context(modality: str) -> Context:
    return replace(toys.context(modality), device=FAR)


@pytest.mark.parametrize(("kind", "name"), METHODS, ids=lambda x: x)
def test_a_method_keeps_to_its_device(kind: str, name: str) -> None:
    part = _part(kind, name)
    for modality in sorted(part.modalities):
        held, ctx = toys.evidence(modality), _context(modality)
        with pretended():
            held = held.but(victim=held.victim.to(FAR))
            assert held.victim.device == FAR
            if kind == "attack":
                trigger = carry_out(part, toys.splits(modality), ctx)
                assert len(trigger.triggered) > 0
            elif kind == "explainer":
                scores = part.explain(held.victim, toys.splits(modality).clean.inputs, ctx)
                assert any(len(s.numpy()) for s in vars(scores).values() if s is not None)
            elif kind == "detector":
                assert part.inspect(held.only(part.needed(), name), ctx).scores.numpy().size
            else:
                found: Victim = part.purify(held.only(part.needed(), name), ctx)
                assert found.device == FAR
                assert len(found.predict(held.train.inputs).numpy()) == len(held.train)


@pytest.mark.parametrize("name", [e.name for e in catalogue("victim")])
def test_a_network_trains_on_its_device(name: str) -> None:
    arch = _part("victim", name)
    row = next(r for r in ROWS if (r.kind, r.name) == ("victim", name))
    data = build("dataset", row.data).load(0)
    with pretended():
        victim = Trainer(epochs=1).fit(arch.make(data.train, 0).to(FAR), data.train, 0)
        logits, features = victim.embed(data.clean.inputs)
        assert len(logits.numpy()) == len(features.numpy()) == len(data.clean)


@pytest.mark.parametrize("modality", ["graph", "image", "node"])
def test_a_plan_runs_on_it(modality: str, tmp_path: Path) -> None:
    plan = {
        "dataset": toys._DATA[modality],
        "victim": toys._NETS[modality],
        "attack": toys._ATTACKS[modality],
        "trainer": {"epochs": 2},
        "detectors": ["spectral"],
        "purifiers": ["fine-tune"],
        "seeds": [0],
    }
    with pretended():
        (record,) = run(plan, store=tmp_path, device="cuda")
    assert (record.status, record.device) == ("done", "cuda")


def test_what_an_accelerator_refuses_is_refused() -> None:
    rng = torch.Generator()
    with pretended():
        there = torch.arange(3.0, device="cuda")
        assert there.device == FAR and (there + 1).device == FAR and there.cpu().device.type == "cpu"
        for wrong in (
            lambda: there + torch.ones(3),
            there.numpy,
            lambda: torch.ones(3)[there.long()],
            lambda: torch.rand(3, generator=rng, device="cuda"),
            lambda: there.uniform_(generator=rng),
            lambda: torch.nn.Linear(3, 1)(there),
        ):
            with pytest.raises(REFUSED):
                wrong()
        assert float((there[torch.tensor([0, 2])] * torch.tensor(2.0)).sum()) == 4.0
        with pytest.raises(REFUSED):
            there[torch.tensor([0, 2])] = torch.zeros(2)
