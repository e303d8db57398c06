"""The contract of a detector."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, final, get_args

import torch
from torch import Tensor

from ostiary.component import Component, who
from ostiary.context import Context
from ostiary.data.dataset import Dataset, Trial
from ostiary.devices import plain_defaults
from ostiary.errors import BrokenContract, Unsupported
from ostiary.evidence import Evidence

About = Literal["train", "incoming", "model"]


@dataclass(frozen=True, eq=False)
class Findings:
    """scores: float [n], higher = more suspicious, one per row of what the detector is about (training rows,
    incoming inputs, or classes). flagged: bool [n] at the method's operating point. classes: suspected targets. trial: other
    samples of any number and a class -> their inputs with the trigger that a scan recovered for it. doubts: sentences on what
    these findings cannot tell, for the record."""

    scores: Tensor
    flagged: Tensor | None = None
    classes: tuple[int, ...] = ()
    info: dict[str, Any] = field(default_factory=dict)
    trial: Trial | None = None
    doubts: tuple[str, ...] = ()


class Detector(Component):
    """`needs`: names of Evidence fields. `about`: what `scores` runs over. `measure`: what a score is, for figures."""

    kind = "detector"
    modalities: ClassVar[frozenset[str]]
    needs: ClassVar[frozenset[str]]
    about: ClassVar[About]
    measure: ClassVar[str] = "score"
    searches: ClassVar[bool] = False  # along gradients of the victim's answers

    def subject(self) -> About:
        """What `scores` runs over, with the options of this detector."""
        return self.about

    def needed(self) -> frozenset[str]:
        """Names of the Evidence fields it needs, with the options of this detector."""
        return self.needs

    @final
    @plain_defaults()
    def inspect(self, evidence: Evidence, ctx: Context) -> Findings:
        """Suspicion, from what the method declares to need and nothing else."""
        held = evidence.only(self.needed(), f"detector '{self.name}'")
        if held.modality_name not in self.modalities:
            raise Unsupported(f"detector '{self.name}' not applicable: it works on {', '.join(sorted(self.modalities))} data")
        held = held.checked()
        searched = self.searches and held.has("victim", "clean")
        if searched and not held.victim.learns(held.clean.take(torch.tensor([0])).inputs):
            raise Unsupported(f"detector '{self.name}' not applicable: the model passes no gradient to search by")
        reason = self.refuse(held)
        if reason:
            raise Unsupported(f"detector '{self.name}' not applicable: {reason}")
        before = held.traces()
        found = self.examine(held, ctx)
        held.unchanged(before, who(self))
        return self._checked(found, held)

    def _checked(self, found: Findings, held: Evidence) -> Findings:
        """The findings, on the CPU. Raises BrokenContract where they are not what `Findings` says."""
        mine, about = who(self), self.subject()
        if about not in get_args(About):
            raise BrokenContract(f"{mine} is about {about!r}, expected one of {', '.join(get_args(About))}; correct `about`")
        if not isinstance(found, Findings):
            raise BrokenContract(
                f"{mine} gave {type(found).__name__}, expected Findings; let `examine` return Findings(scores)"
            )
        if not isinstance(found.scores, Tensor):
            raise BrokenContract(f"{mine} gave scores of type {type(found.scores).__name__}, expected a tensor of floats")
        scores, flags = found.scores.detach().cpu(), found.flagged
        n = len(held.train if about == "train" else held.incoming) if about != "model" else len(scores)
        if scores.ndim != 1 or len(scores) != n:
            raise BrokenContract(f"{mine} gave scores of shape {tuple(scores.shape)}, expected ({n},), one for each it judges")
        if not bool(torch.isfinite(scores).all()):
            raise BrokenContract(f"{mine} gave scores that are not finite; look for a division by 0 or a logarithm of it")
        if flags is not None and (not isinstance(flags, Tensor) or flags.dtype != torch.bool or flags.shape != scores.shape):
            raise BrokenContract(f"{mine} must flag with bools of shape ({n},); compare scores with a threshold")
        if about == "model" and (strange := [c for c in found.classes if not 0 <= c < n]):
            raise BrokenContract(f"{mine} flags class {strange[0]} with scores of {n} classes; give a score for every class")
        return replace(found, scores=scores, flagged=None if flags is None else flags.cpu())

    @final
    def findings(self, evidence: Evidence, ctx: Context) -> Findings:
        """As `inspect`, for a defence that builds on it: a run that has asked the same gives its answer again."""
        known: Findings | None = ctx.ask(self, evidence)
        return known or self.inspect(evidence, ctx.within(f"detector {self.name}"))

    def refuse(self, evidence: Evidence) -> str:
        """Why the method cannot work on this evidence, or nothing; asked before work starts."""
        return ""

    def cannot_filter(self, evidence: Evidence) -> str:
        """Why a defence that trains anew cannot ask it which rows of the training set to distrust, or nothing."""
        if self.subject() != "train":
            what = "the model" if self.subject() == "model" else "incoming inputs"
            return f"the detector '{self.name}' judges {what} and not the training set; choose another, or set on: train"
        if evidence.modality_name not in self.modalities:
            return f"the detector '{self.name}' works on {', '.join(sorted(self.modalities))} data"
        return self.refuse(evidence.only(self.needed(), f"detector '{self.name}'"))

    @abstractmethod
    def examine(self, evidence: Evidence, ctx: Context) -> Findings:
        """The method itself."""


class InputDetector(Detector):
    """Scores inputs one by one, be they training samples or such as come in during operation.

    on: which of the two. `needs` names what it takes beside them.
    """

    about = "incoming"
    on: Literal["train", "incoming"] = "incoming"

    @final
    def subject(self) -> About:
        return self.on

    def needed(self) -> frozenset[str]:
        return self.needs | {self.on}

    def suspects(self, evidence: Evidence) -> Dataset:
        """The samples to score; the labels of incoming ones say nothing."""
        return evidence.train if self.on == "train" else evidence.incoming
