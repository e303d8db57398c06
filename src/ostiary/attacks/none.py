"""What a plan without an attack works on: data and a model as they came from outside."""

from __future__ import annotations

import torch
from torch import Tensor

from ostiary.attacks.base import Poisoned
from ostiary.data.dataset import Splits
from ostiary.modality.base import Inputs
from ostiary.triggers.base import Trigger


class Unknown(Trigger):
    """The trigger that nobody knows: it changes nothing."""

    modalities = frozenset({"graph", "image", "node"})

    def apply(self, inputs: Inputs, ids: Tensor, *, seed: int, target: Tensor) -> Inputs:
        return inputs


def unknown(splits: Splits) -> Poisoned:
    """The splits, of which nobody can say what is poisoned, and no triggered input."""
    none = torch.zeros(0, dtype=torch.int64)
    return Poisoned(splits, none, Unknown(), splits.test.take(none), none)
