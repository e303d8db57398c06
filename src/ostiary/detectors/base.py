"""The contract of a detector."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, final

from torch import Tensor

from ostiary.component import Component
from ostiary.context import Context
from ostiary.errors import Unsupported
from ostiary.evidence import Evidence
from ostiary.models.victim import Victim


@dataclass(frozen=True, eq=False)
class Findings:
    """scores: float [n], higher = more suspicious, one per row of what the detector is about (training rows,
    incoming inputs, or classes). flagged: bool [n] at the method's operating point. classes: suspected targets."""

    scores: Tensor
    flagged: Tensor | None = None
    classes: tuple[int, ...] = ()
    info: dict[str, Any] = field(default_factory=dict)


class Detector(Component):
    """`needs`: names of Evidence fields. `about`: what `scores` runs over."""

    kind = "detector"
    modalities: ClassVar[frozenset[str]]
    needs: ClassVar[frozenset[str]]
    about: ClassVar[Literal["train", "incoming", "model"]]

    @final
    def inspect(self, evidence: Evidence, ctx: Context) -> Findings:
        """Suspicion, from what the method declares to need and nothing else."""
        held = evidence.only(self.needs, f"detector '{self.name}'")
        if held.modality_name not in self.modalities:
            raise Unsupported(f"detector '{self.name}' not applicable: it works on {', '.join(sorted(self.modalities))} data")
        reason = self.refuse(held)
        if reason:
            raise Unsupported(f"detector '{self.name}' not applicable: {reason}")
        return self.examine(held, ctx)

    def refuse(self, evidence: Evidence) -> str:
        """Why the method cannot work on this evidence, or nothing; asked before work starts."""
        return ""

    @abstractmethod
    def examine(self, evidence: Evidence, ctx: Context) -> Findings:
        """The method itself."""


def given(victim: Victim | None) -> Victim:
    assert victim is not None  # `only` has checked it
    return victim
