"""Retraining without suspects: the same as training on the rows that are kept, and clear where that cannot be."""

from __future__ import annotations

from typing import Literal

import pytest
import torch

from ostiary.context import Context
from ostiary.detectors.base import Detector, Findings, InputDetector
from ostiary.errors import InvalidInput, MissingEvidence, Unsupported
from ostiary.evidence import Evidence
from ostiary.purifiers.holdout import accuracy
from ostiary.purifiers.retrain_without import RetrainWithout
from ostiary.testing import toys


class Told(Detector):
    """Flags, or only scores, the rows that it is told."""

    modalities = frozenset({"graph", "image"})
    needs = frozenset({"train"})
    about = "train"
    rows: tuple[int, ...] = ()
    flags: bool = True

    def examine(self, evidence: Evidence, ctx: Context) -> Findings:
        scores = torch.zeros(len(evidence.train))
        scores[list(self.rows)] = torch.arange(len(self.rows), 0, -1).float()
        return Findings(scores, scores > 0 if self.flags else None)


class Elsewhere(InputDetector):
    """Of one input at a time; here only for what it is about."""

    modalities = frozenset({"image"})
    needs = frozenset({"victim"})
    on: Literal["train", "incoming"] = "incoming"

    def examine(self, evidence: Evidence, ctx: Context) -> Findings:
        return Findings(torch.arange(len(self.suspects(evidence))).float())


def told(rows: list[int], **options: bool) -> Told:
    return Told(rows=tuple(rows), **options)


@pytest.mark.parametrize("modality", ["graph", "image"])
def test_it_is_a_fresh_training_on_the_rows_that_are_kept(modality: str) -> None:
    made, ctx = toys.poisoned(modality), toys.context(modality)
    train, bad = made.splits.train, sorted(made.index.tolist())
    found = RetrainWithout(detector=told(bad)).purify(Evidence(train=train), ctx)
    kept = torch.tensor([i for i in range(len(train)) if i not in bad])
    fresh = ctx.fit(train.take(kept))
    assert all(torch.equal(v, fresh.state_dict()[k]) for k, v in found.state_dict().items())
    assert found.notes["dropped"]["0"] == len(bad) == sum(found.notes["dropped"].values())
    before, after = (accuracy(m, made.triggered) for m in (toys.victim(modality), found))
    assert after <= before - 0.4


def test_a_share_drops_the_best_scored_whatever_is_flagged() -> None:
    train, ctx = toys.poisoned("image").splits.train, toys.context("image")
    rows = list(range(0, 30, 2))
    share = 10 / len(train)
    found = RetrainWithout(detector=told(rows, flags=False), share=share).purify(Evidence(train=train), ctx)
    fresh = ctx.fit(train.take(torch.tensor([i for i in range(len(train)) if i not in rows[:10]])))
    assert all(torch.equal(v, fresh.state_dict()[k]) for k, v in found.state_dict().items())


def test_what_it_needs_is_what_its_detector_needs() -> None:
    assert RetrainWithout().needed() == {"train", "victim"}
    assert RetrainWithout(detector=told([1])).needed() == {"train"}
    with pytest.raises(MissingEvidence, match="victim"):
        RetrainWithout().purify(Evidence(train=toys.splits("image").train), toys.context("image"))


def test_detectors_about_something_else_or_without_flags_are_refused() -> None:
    held, ctx = toys.evidence("image"), toys.context("image")
    with pytest.raises(Unsupported, match="judges incoming inputs"):
        RetrainWithout(detector=Elsewhere()).purify(held, ctx)
    with pytest.raises(Unsupported, match="set share="):
        RetrainWithout(detector=Elsewhere(on="train")).purify(held, ctx)
    with pytest.raises(Unsupported, match="works on graph, image data"):
        RetrainWithout(detector=told([1])).purify(toys.evidence("node"), toys.context("node"))


def test_a_class_that_would_vanish_is_named() -> None:
    train, ctx = toys.poisoned("image").splits.train, toys.context("image")
    with pytest.raises(InvalidInput, match="no sample of class 2 is left"):
        RetrainWithout(detector=told((train.y == 2).nonzero().flatten().tolist())).purify(Evidence(train=train), ctx)
    with pytest.raises(InvalidInput, match="no sample of class 0, 1, 2, 3 is left"):
        RetrainWithout(detector=told([1]), share=1.0).purify(Evidence(train=train), ctx)
