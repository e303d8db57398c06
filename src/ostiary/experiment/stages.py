"""The stages of a cell, what each builds on, and their keys."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import ostiary
from ostiary.component import Component
from ostiary.experiment.plan import Cell
from ostiary.experiment.record import SCHEMA, canonical


@dataclass(frozen=True)
class Stage:
    """kind: data, control, victim, judge, detector, relearning, purifier, verdict or rescan; part: the detector or purifier."""

    kind: str
    cell: Cell
    part: Component | None = None

    @property
    def name(self) -> str:
        return self.kind if self.part is None else f"{self.kind} {self.part.label()}"

    def upstream(self) -> list[Stage]:
        """The stages this one reads."""

        def s(kind: str, part: Component | None = None) -> Stage:
            return Stage(kind, self.cell, part)

        control = [s("control")] if self.cell.plan.attack else []
        return {
            "data": [],
            "control": [s("data")],
            "victim": [s("data")],
            "judge": [s("victim"), *control],
            "detector": [s("victim")],
            "relearning": [s("victim"), *control],
            "purifier": [s("victim")],
            "verdict": [s("purifier", self.part), s("victim"), *control],
            "rescan": [s("purifier", self.part), *(s("detector", d) for d in self.cell.plan.scans())],
        }[self.kind]

    def spec(self) -> dict[str, Any]:
        """Every setting the result depends on beside the upstream stages."""
        plan, (data_files, victim_files, attack_files) = self.cell.plan, self.cell.files
        if self.kind == "data":
            return {"dataset": plan.dataset.spec(), "files": data_files, "seed": self.cell.seed, **revised(plan.dataset)}
        if self.kind in ("judge", "relearning", "verdict", "rescan"):
            return {}
        if self.part is not None:
            return of_part(self.part)
        if self.kind == "control":
            net, trainer = plan.control()
            return {"victim": net.spec(), "files": victim_files, "trainer": trainer.spec(), **revised(net, trainer)}
        own = {"attack files": attack_files} if attack_files else {}
        own |= revised(plan.victim, plan.training(), *([plan.attack] if plan.attack else []))
        recipe = {"victim": plan.victim.spec(), "files": victim_files, "trainer": plan.training().spec()}
        return {**recipe, "attack": plan.attack.spec() if plan.attack else None, **own}

    def key(self) -> str:
        """A hash of all that the result depends on; kept by the cell for the stages that its parts share."""
        if self.part is not None:
            return self._hash()
        if self.kind not in self.cell.keys:
            self.cell.keys[self.kind] = self._hash()
        return self.cell.keys[self.kind]

    def _hash(self) -> str:
        return hashed(self.kind, self.spec(), [u.key() for u in self.upstream()])


def hashed(kind: str, spec: dict[str, Any], upstream: list[str]) -> str:
    """The key of a stage of these settings on those of these keys."""
    text = canonical([SCHEMA, ostiary.__version__, kind, spec, upstream])
    return hashlib.blake2b(text, digest_size=20).hexdigest()


def key_of(part: Component, victim: str) -> str:
    """The key of a detector's or purifier's stage on the victim of this key."""
    return hashed(part.kind, of_part(part), [victim])


def of_part(part: Component) -> dict[str, Any]:
    """The settings of a detector's or purifier's stage."""
    return {"part": part.spec(), **revised(part)}


def revised(*parts: Component) -> dict[str, Any]:
    """The revisions of the parts, for a stage's settings; nothing where none was ever revised, so that keys stay."""
    found = {k: v for part in parts for k, v in part.revisions().items()}
    return {"revisions": found} if found else {}


def stages_of(cell: Cell) -> list[Stage]:
    """All stages of a cell, upstream first. Where no attack is known there is nothing to hold a clean model against."""
    plan = cell.plan
    kinds = ("data", "control", "victim", "judge") if plan.attack else ("data", "victim", "judge")
    found = [Stage(kind, cell) for kind in kinds]
    found += [Stage("detector", cell, d) for d in plan.detectors]
    if plan.purifiers and plan.attack:
        found.append(Stage("relearning", cell))
    for purifier in plan.purifiers:
        found += [Stage("purifier", cell, purifier), Stage("verdict", cell, purifier)]
        if plan.scans() and not plan.attack:
            found.append(Stage("rescan", cell, purifier))
    return found


def record_key(cell: Cell) -> str:
    """The key of the record that tells of a cell: what its stages are makes it, not the plan that asked for them."""
    return hashlib.blake2b(canonical(sorted(s.key() for s in stages_of(cell))), digest_size=20).hexdigest()
