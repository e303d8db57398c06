"""Triggers that ask a model of the attacker's, and carry it along."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from ostiary.component import build
from ostiary.context import Context
from ostiary.data.dataset import Dataset
from ostiary.errors import InvalidInput
from ostiary.models.base import Architecture
from ostiary.models.victim import Victim
from ostiary.triggers.base import Trigger
from ostiary.triggers.networks import weights

PREFIX = "model."


class ModelTrigger(Trigger):
    """`architecture` and `described` (Dataset.describe()) rebuild the model, whose weights are part of the state."""

    architecture: Architecture | None = None
    described: dict[str, Any] = dataclasses.field(default_factory=dict)

    def model(self, device: torch.device) -> Victim:
        """The attacker's model, in evaluation mode. Raises InvalidInput where the trigger carries none."""
        if self.architecture is None:
            raise InvalidInput(f"trigger '{self.name}' asks the attacker's model but carries none; give it architecture=")
        modality = build("modality", next(iter(self.modalities)))
        victim = self.architecture.rebuild(self.described, modality)
        weights = {k.removeprefix(PREFIX): v for k, v in self.state.items() if k.startswith(PREFIX)}
        victim.module.load_state_dict(weights)
        victim.eval()
        return victim.to(device)


def carried(attacker: Context, train: Dataset, *, there: bool = False) -> dict[str, Any]:
    """The fields and the state with which a trigger carries the attacker's own model of `train`; `there`: with the weights on
    the attacker's device, for triggers that work where they lie."""
    model = attacker.surrogate(train)
    assert attacker.architecture is not None
    state = {k: v.to(attacker.device) if there else v for k, v in weights(model.module, PREFIX).items()}
    return {"architecture": attacker.architecture, "described": train.describe(), "state": state}
