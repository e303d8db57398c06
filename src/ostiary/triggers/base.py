"""The contract of a trigger: it sees inputs, never labels, and returns new ones."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from typing import Any, ClassVar

from torch import Tensor

from ostiary.component import STATE, Component, Json, build
from ostiary.modality.base import Inputs


class Trigger(Component):
    """Hyperparameters as fields, learnt tensors in `state`: both are saved, so a stamped model can be audited later."""

    kind = "trigger"
    modalities: ClassVar[frozenset[str]]
    state: dict[str, Tensor] = dataclasses.field(default_factory=dict, metadata=STATE)

    @abstractmethod
    def apply(self, inputs: Inputs, ids: Tensor, *, seed: int, target: Tensor) -> Inputs:
        """All inputs with the trigger on them, in one go.

        ids: int64 [n], the key of each input's own randomness (`seeds.uniform(seed, ids, draw)`), so that the result
        for an input does not depend on its batch. target: int64 [n], the class wanted, for target-conditional triggers.
        """

    def mismatched(self, inputs: Inputs, ids: Tensor, *, seed: int, target: Tensor) -> Inputs | None:
        """The inputs with a trigger that is not theirs (another input's, a distorted one), which a victim that knows its
        trigger ignores; None where one trigger fits every input. Arguments as of `apply`."""
        return None

    def doubts(self, inputs: Inputs, ids: Tensor, *, seed: int) -> tuple[str, ...]:
        """What about these inputs' stamps is not as the trigger's options say, in words for a record."""
        return ()

    def pack(self) -> tuple[dict[str, Json], dict[str, Tensor]]:
        """(spec, tensors) for a record."""
        return self.spec(), dict(self.state)

    @staticmethod
    def unpack(spec: dict[str, Any], tensors: dict[str, Tensor]) -> Trigger:
        trigger: Trigger = build("trigger", spec)
        return trigger.replace(state=tensors)
