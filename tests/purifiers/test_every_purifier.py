"""What every purifier of a given model says to clean data that are too few or of another kind, and to unusual models."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch_geometric import nn as pyg

from expectations import ROWS
from ostiary.component import build, catalogue
from ostiary.data.dataset import Dataset
from ostiary.errors import InvalidInput, OstiaryError
from ostiary.evidence import Evidence
from ostiary.models.polarized import before_polarizing
from ostiary.models.victim import Victim
from ostiary.purifiers.base import Purifier
from ostiary.testing import toys


def purifiers() -> Iterator[Purifier]:
    for entry in catalogue("purifier"):
        row = next(r for r in ROWS if (r.kind, r.name) == ("purifier", entry.name))
        part = build("purifier", {"name": entry.name, **row.settings, **row.small})
        if "graph" in part.modalities:
            yield part


PURIFIERS = list(purifiers())
TRAINING = ("fine-tune", "npd", "sau", "gcleaner")  # in as many ways
OF_A_MODEL = [p for p in PURIFIERS if {"victim", "clean"} <= p.needed()]


class Bare(nn.Module):
    """No normalisation; as many layers as asked; a head that is no linear layer."""

    def __init__(self, width: int, layers: int, head: nn.Module) -> None:
        super().__init__()
        self.steps = nn.ModuleList(pyg.GraphConv(width if i == 0 else 16, 16) for i in range(layers))
        self.verdict = head

    def forward(self, x: Tensor, edge_index: Tensor, batch: Tensor) -> Tensor:
        for step in self.steps:
            x = step(x, edge_index).relu()
        return self.verdict(pyg.global_add_pool(x, batch))  # type: ignore[no-any-return]


class Distances(nn.Module):
    """Logits by the distance to a learnt prototype of each class, each a parameter of its own."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.centres = nn.ParameterList([nn.Parameter(torch.zeros(width)) for _ in range(classes)])

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([-(x - c).square().mean(1) for c in self.centres], 1)


def odd(layers: int = 2, linear: bool = True) -> Victim:
    train = toys.splits("graph").train
    with torch.random.fork_rng():
        torch.manual_seed(0)
        head = nn.Linear(16, train.n_classes) if linear else Distances(16, train.n_classes)
        net = Bare(train.inputs.x.shape[1], layers, head)
    return toys.context("graph").trainer.fit(Victim(net, "graph"), train, 0)


@pytest.mark.parametrize("purifier", OF_A_MODEL, ids=lambda p: p.name)
def test_clean_data_that_cannot_do(purifier: Purifier) -> None:
    held, ctx = toys.evidence("graph"), toys.context("graph")
    clean = held.clean
    assert clean is not None
    first = held.but(clean=clean.take((clean.y == 0).nonzero().flatten()))
    if purifier.trains:
        with pytest.raises(InvalidInput, match=r"have none of '1'.*give at least one of each$"):
            purifier.purify(first, ctx)
    else:
        purifier.purify(first, ctx)  # it unlearns nothing
    with pytest.raises(InvalidInput, match="needs at least 2 clean samples, got 1"):
        purifier.purify(held.but(clean=clean.take(torch.tensor([0]))), ctx)
    wide = Dataset.of(clean.inputs.with_(x=torch.cat([clean.inputs.x] * 2, 1)), clean.y, clean.modality, clean.classes)
    with pytest.raises(InvalidInput, match=r"cannot be called on the clean data .*width 8.*give data it was made for"):
        purifier.purify(held.but(clean=wide), ctx)


@pytest.mark.parametrize("victim", ["no-batch-norm", "single-layer", "no-linear-head"])
@pytest.mark.parametrize("purifier", OF_A_MODEL, ids=lambda p: p.name)
def test_unusual_models_are_purified_or_refused_in_a_sentence(purifier: Purifier, victim: str) -> None:
    made: dict[str, Any] = {"single-layer": {"layers": 1}, "no-linear-head": {"linear": False}}
    given, held = odd(**made.get(victim, {})), toys.evidence("graph")
    evidence, said = Evidence(given, held.train, held.clean, held.incoming), "not applicable: "
    try:
        found = purifier.purify(evidence, toys.context("graph"))
        assert torch.isfinite(found.predict(toys.splits("graph").test.inputs)).all()
    except OstiaryError as error:
        said = str(error)
    assert "not applicable: " in said
    assert "\n" not in said


@pytest.mark.parametrize(
    "purifier", [p for p in OF_A_MODEL if p.name in ("fine-tune", "npd", "sau", "gcleaner")], ids=lambda p: p.name
)
@pytest.mark.parametrize("share", ["all", "some"])
def test_a_frozen_model_is_purified_as_any_other_and_stays_frozen(purifier: Purifier, share: str) -> None:
    held = toys.evidence("graph")
    frozen = held.victim.clone()
    names = [n for n, _ in frozen.module.named_parameters()]
    for name, p in frozen.module.named_parameters():
        p.requires_grad_(share == "some" and name == names[-1])
    flags = {n: p.requires_grad for n, p in frozen.module.named_parameters()}
    plain, found = (purifier.purify(held.but(victim=v), toys.context("graph")) for v in (held.victim, frozen))
    for (name, p), (_, q) in zip(plain.module.named_parameters(), found.module.named_parameters(), strict=True):
        assert torch.equal(p, q), name
        assert q.requires_grad == flags.get(before_polarizing(found.module, name), True), name  # npd adds a polarizer
    assert {n: p.requires_grad for n, p in frozen.module.named_parameters()} == flags


@pytest.mark.parametrize("second", ["fine-tune", "prune", "edge-drop"])  # a clone, a screen, a vote
def test_what_an_earlier_purifier_found_is_not_said_of_a_later_one(second: str) -> None:
    held, ctx = toys.evidence("graph"), toys.context("graph")
    once = build("purifier", {"name": "fine-tune", "epochs": 1}).purify(held, ctx)
    once.notes["unlearned"], once.trial = ["0"], lambda data, goal: None
    twice = build("purifier", second).purify(held.but(victim=once), ctx)
    plain = once.clone()
    plain.notes, plain.trial = {}, None
    assert (twice.notes, twice.trial) == (build("purifier", second).purify(held.but(victim=plain), ctx).notes, None)
    assert once.notes["unlearned"] == ["0"] and once.trial is not None  # the first model keeps its own
