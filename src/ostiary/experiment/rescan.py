"""What speaks for a purified model where no attack is known: a second scan, and the triggers that the first one recovered.

Both look at test inputs, which no method was given: on the clean ones the purifier has tuned.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ostiary.data.dataset import Dataset
from ostiary.detectors.base import Detector, Findings
from ostiary.errors import OstiaryError
from ostiary.evidence import Evidence
from ostiary.experiment.bench import Bench
from ostiary.experiment.plan import Cell
from ostiary.experiment.stages import Stage
from ostiary.metrics.intervals import Estimate, rate
from ostiary.models.victim import Victim

TRIED = 300  # test inputs per recovered trigger


def rescan(detector: Detector, made: Victim, cell: Cell, bench: Bench) -> dict[str, Any]:
    """What a scan says of a purified model, and how the triggers that it recovered from the victim fare on it."""
    before = Stage("detector", cell, detector)
    row = bench.row(before)
    held = bench.tensors(before, "trials") if "trials" in row.artefacts else {}
    return {**_again(detector, made, cell, bench), "trials": succeed(held, made, row.metrics["classes"])}


def trials(findings: Findings, test: Dataset, victim: Victim) -> dict[str, Tensor]:
    """Test inputs of other classes with the recovered trigger of each flagged class, packed under its number."""
    packed: dict[str, Tensor] = {}
    for goal in findings.classes:
        others = test.take((test.y != goal).nonzero().flatten()[:TRIED]).move(victim.device)
        if findings.trial is not None and len(others):
            inputs = test.modality.move(findings.trial(others, goal), torch.device("cpu"))
            packed |= {f"{goal}.{k}": v for k, v in test.modality.pack(inputs).items()}
    return packed


def succeed(packed: dict[str, Tensor], victim: Victim, goals: Sequence[int]) -> dict[str, Estimate]:
    """The rate at which such inputs are called by the class whose trigger they carry."""
    found = {}
    for goal in goals:
        own = {k.removeprefix(f"{goal}."): v for k, v in packed.items() if k.startswith(f"{goal}.")}
        if own:
            said = victim.predict(victim.modality.unpack(own)).argmax(1)
            found[str(goal)] = rate(int((said == goal).sum()), len(said))
    return found


def _again(detector: Detector, made: Victim, cell: Cell, bench: Bench) -> dict[str, Any]:
    """From as many inputs as the first scan had."""
    splits, ctx = bench.splits(cell), bench.context(cell, own=True)
    few = torch.randperm(len(splits.test), generator=ctx.rng("scan again"))[: len(splits.clean)]
    seen = splits.test.take(few)
    try:
        found = detector.inspect(Evidence(made, clean=seen), ctx.within(f"detector {detector.name}"))
    except OstiaryError as error:
        return {"classes": [], "refused": str(error)}
    most = {"score": float(found.scores.max()), "highest": int(found.scores.argmax())}
    return {"classes": list(found.classes), **most, "inputs": len(few)}
