"""Every method on an accelerator: nothing meets a tensor of another device, and nothing asks Apple's for double precision (see
accelerator.py)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch_geometric.data import Data

import ostiary
from accelerator import pretended
from expectations import ROWS
from ostiary.component import build, catalogue
from ostiary.context import Context
from ostiary.data.dataset import Splits
from ostiary.evidence import Evidence
from ostiary.experiment.runner import run
from ostiary.models.victim import Victim
from ostiary.testing import toys
from ostiary.testing.promises import carry_out
from ostiary.training.trainer import Trainer

REFUSED = (RuntimeError, TypeError)  # what torch itself raises; the stand-in's WrongDevice is one of them
POOREST = "cuda" if torch.cuda.is_available() else "mps"  # a stand-in that refuses more than any other, or a real one
METHODS = [(kind, e.name) for kind in ("attack", "detector", "purifier", "explainer") for e in catalogue(kind)]


def _part(kind: str, name: str) -> Any:
    row = next(r for r in ROWS if (r.kind, r.name) == (kind, name))
    return build(kind, {"name": name, **row.settings, **row.small})


def _context(modality: str, device: torch.device) -> Context:
    return replace(toys.context(modality), device=device)


@pytest.mark.parametrize(("kind", "name"), METHODS, ids=lambda x: x)
def test_a_method_keeps_to_its_device(kind: str, name: str) -> None:
    part = _part(kind, name)
    for modality in sorted(part.modalities):
        held = toys.evidence(modality)
        with pretended(POOREST) as there:
            held, ctx = held.but(victim=held.victim.to(there)), _context(modality, there)
            assert held.victim.device == there
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
                assert found.device == there
                assert len(found.predict(held.train.inputs).numpy()) == len(held.train)


@pytest.mark.parametrize("name", [e.name for e in catalogue("victim")])
def test_a_network_trains_on_its_device(name: str) -> None:
    arch = _part("victim", name)
    row = next(r for r in ROWS if (r.kind, r.name) == ("victim", name))
    data = build("dataset", row.data).load(0)
    with pretended(POOREST) as there:
        victim = Trainer(epochs=1).fit(arch.make(data.train, 0).to(there), data.train, 0)
        logits, features = victim.embed(data.clean.inputs)
        assert len(logits.numpy()) == len(features.numpy()) == len(data.clean)


@pytest.mark.parametrize("device", ["cuda", "mps"])
@pytest.mark.parametrize("modality", ["graph", "image", "node"])
def test_a_plan_runs_on_it(modality: str, device: str, tmp_path: Path) -> None:
    plan = {
        "dataset": toys._DATA[modality],
        "victim": toys._NETS[modality],
        "attack": toys._ATTACKS[modality],
        "trainer": {"epochs": 2},
        "detectors": ["spectral"],
        "purifiers": ["fine-tune"],
        "seeds": [0],
    }
    with pretended(device):
        (record,) = run(plan, store=tmp_path, device=device)
    assert (record.status, record.device) == ("done", device)


def test_what_an_accelerator_refuses_is_refused() -> None:
    rng = torch.Generator()
    with pretended() as device:
        there = torch.arange(3.0, device="cuda")
        assert there.device == device and (there + 1).device == device and there.cpu().device.type == "cpu"
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
    with pretended("mps"):
        there = torch.arange(3.0, device="mps")
        for wrong in (there.double, lambda: torch.zeros(2, dtype=torch.float64, device="mps"), lambda: there + torch.ones(3)):
            with pytest.raises(REFUSED):
                wrong()


# what a user has set for code of their own


@contextmanager
def defaults(device: str, dtype: torch.dtype) -> Iterator[None]:
    """Inside, torch's defaults are these; "meta" stands for an accelerator, for what is made there is of no use here."""
    before = torch.get_default_dtype()
    torch.set_default_device(device)
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(before)


def _found(modality: str, splits: Splits, held: Evidence) -> list[float]:
    ctx = toys.context(modality)
    poisoned = build("attack", toys._ATTACKS[modality]).poison(splits, ctx)
    victim = build("purifier", "fine-tune").purify(held.only({"victim", "clean"}, "it"), ctx)
    scores = build("detector", "spectral").inspect(held.only({"victim", "train"}, "it"), ctx).scores
    made = build("victim", toys._NETS[modality]).make(splits.train, 0)
    assert {x.dtype for x in (victim.predict(splits.test.inputs), *made.parameters())} == {torch.float32}
    return [float(poisoned.index.sum()), float(scores.sum()), float(victim.predict(poisoned.triggered.inputs).sum())]


@pytest.mark.parametrize("modality", ["graph", "image", "node"])
def test_what_methods_find_does_not_hang_on_torchs_defaults(modality: str) -> None:
    held = toys.evidence(modality)
    expected = _found(modality, toys.splits(modality), held)
    with defaults("meta", torch.float64):
        splits = build("dataset", toys._DATA[modality]).load(0)
        assert _found(modality, splits, held) == expected
        assert (torch.get_default_device().type, torch.get_default_dtype()) == ("meta", torch.float64)
    assert splits.fingerprint() == toys.splits(modality).fingerprint()


def test_a_plan_does_not_hang_on_torchs_defaults(tmp_path: Path) -> None:
    plan = {"dataset": toys._DATA["image"], "victim": toys._NETS["image"], "trainer": {"epochs": 1}, "seeds": [0]}
    plan["attack"] = toys._ATTACKS["image"]
    (expected,) = run(plan, store=tmp_path / "plain")
    with defaults("meta", torch.float64):
        (record,) = run(plan, store=tmp_path / "set")
    assert (record.status, record.metrics) == ("done", expected.metrics)


def test_own_data_may_be_on_another_device() -> None:
    x, y = torch.rand(20, 1, 4, 4), torch.arange(20) % 2
    edges = torch.stack([torch.arange(19), torch.arange(1, 20)])
    with pretended() as there:
        one = Data(x=x.flatten(1).to(there), edge_index=edges.to(there), y=y.to(there))
        found = [
            ostiary.images(x.to(there), y.to(there)),
            ostiary.nodes(one),
            ostiary.graphs([Data(x=one.x, edge_index=one.edge_index)] * 20, y.to(there)),
        ]
        assert one.x.device == there, "what is the caller's stays where it was"
        for data in found:
            assert len(ostiary.split_data(data, clean_rate=0.1).train) == 16


def test_pictures_are_float32_whatever_the_default(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    for name in ("ant", "bee"):
        (tmp_path / name).mkdir()
        image.new("L", (6, 6), 100).save(tmp_path / name / "0.png")
    with defaults("cpu", torch.float64):
        data, _ = build("dataset", {"name": "image-folder", "path": str(tmp_path)}).read()
    assert data.inputs.dtype == torch.float32
