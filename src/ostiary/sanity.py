"""Doubts about the experiment itself, raised before anyone believes a figure."""

from __future__ import annotations

import torch
from torch import Tensor

from ostiary.attacks.base import Poisoned
from ostiary.data.dataset import Dataset
from ostiary.detectors.base import About, Findings
from ostiary.evaluate import Metrics, Outputs
from ostiary.models.victim import Victim
from ostiary.thresholds import EXACT, WORKS

GATE, COST = 0.85, 0.05  # FCT paper (Chen, Wu & Wang, NeurIPS 2022): attacks that do less are not worth a row


def about_victim(metrics: Metrics, outputs: Outputs, poisoned: Poisoned, said_train: Tensor, trained: bool = True) -> list[str]:
    """said_train: what the victim calls the poisoned training rows. trained: whether it was; else it came as it is."""
    doubts = []
    floor = majority(poisoned.splits.test)
    acc = metrics["acc"]["value"]
    if acc <= floor + 0.01:
        doubts.append(f"accuracy {acc:.1%} is no better than always saying the largest class ({floor:.1%})")
    if looks_like_probabilities(outputs.clean):
        doubts.append("the victim's outputs look like probabilities, not logits: losses computed from them are too flat")
    return doubts + (_about_attack(metrics, poisoned, said_train, trained, floor) if "asr" in metrics else [])


def _about_attack(metrics: Metrics, poisoned: Poisoned, said_train: Tensor, trained: bool, floor: float) -> list[str]:
    doubts, natural = [], metrics["natural"]["value"]
    if metrics["control_acc"]["value"] <= floor + 0.01:
        doubts.append(f"the clean control model is no better than the largest class ({floor:.1%}): nothing was learnt")
    if not trained:
        found = f"{len(poisoned.splits.train)} samples, to an accuracy of {metrics['control_acc']['value']:.0%}"
        doubts.append(f"0 epochs: the victim came as it is, and the clean control was trained here on {found}")
    if natural > 0.3:
        doubts.append(f"a clean model already sends {natural:.0%} of triggered inputs to the target: read the lift")
    if len(poisoned.index):  # a clean model need not be attacked well
        if metrics["asr_lift"]["value"] < WORKS - EXACT:
            doubts.append("the attack hardly works (lift under 30 points): figures of defences against it say little")
        elif poisoned.splits.modality.name == "image" and (metrics["asr"]["value"] < GATE or metrics["cad"]["value"] > COST):
            gate = f"the usual gate of defence tables on images, ASR {GATE:.0%} and accuracy within {100 * COST:.0f} points"
            found = f"{metrics['asr']['value']:.1%}, {100 * metrics['cad']['value']:.1f} lost"
            doubts.append(f"the attack misses {gate} of a clean model's: {found}")
        learnt = float((said_train == poisoned.splits.train.y[poisoned.index]).double().mean())
        if learnt < 0.5:
            doubts.append(f"the victim learnt only {learnt:.0%} of the poisoned training samples")
    if len(poisoned.triggered) < 50:
        n = len(poisoned.triggered)
        doubts.append(f"only {n} triggered test inputs: one of them is {1 / n:.0%} of ASR")
    return doubts


def about_purified(before: Victim, after: Victim, metrics: Metrics, test: Dataset) -> list[str]:
    doubts = []
    old, new = before.state_dict(), after.state_dict()
    if old.keys() == new.keys() and all(torch.equal(old[k], new[k]) for k in old):
        doubts.append("the purifier changed no weight")
    if metrics["acc"]["value"] <= majority(test) + 0.01:
        doubts.append(f"accuracy {metrics['acc']['value']:.1%} is no better than always saying the largest class")
    if "asr" in metrics and metrics["asr"]["value"] < 0.1 and metrics["ra"]["value"] < 0.3:
        doubts.append(f"ASR is low but only {metrics['ra']['value']:.0%} of triggered inputs get their true label back")
    return doubts


def about_findings(found: Findings, about: About) -> list[str]:
    """What the detector doubts itself, and what its scores tell of it."""
    of, least, most = "class" if about == "model" else "sample", float(found.scores.min()), float(found.scores.max())
    doubts = list(found.doubts)
    if not bool(torch.isfinite(found.scores).all()):
        doubts.append("some detector scores are not finite")
    return [*doubts, f"the detector gives every {of} the same score"] if least == most else doubts


def majority(data: Dataset) -> float:
    return float(torch.bincount(data.y).max()) / len(data)


def looks_like_probabilities(logits: Tensor) -> bool:
    sums = logits.sum(1)
    return bool((logits >= 0).all()) and bool(torch.allclose(sums, torch.ones_like(sums), atol=1e-4))
