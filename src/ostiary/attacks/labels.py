"""Which label poison carries, and which inputs it may be."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from ostiary.attacks.turns import TEST, TRAIN, in_turn
from ostiary.component import Component


class LabelRule(Component):
    """From true labels y (int64 [n]) and the attack's target class."""

    kind = "labels"

    @abstractmethod
    def eligible(self, y: Tensor, target: int) -> Tensor:
        """Training rows that may be poisoned: bool [n]."""

    def sources(self, y: Tensor, target: int) -> Tensor:
        """Test rows the trigger is judged on: bool [n]; never rows that carry the wanted label already."""
        return self.goals(y, target, 0) != y

    @abstractmethod
    def wanted(self, y: Tensor, target: int, n_classes: int) -> Tensor:
        """What a poisoned training input is called: int64 [n]."""

    def goals(self, y: Tensor, target: int, n_classes: int) -> Tensor:
        """What the attacker wants triggered test inputs to be called, where it is something else: int64 [n]."""
        return self.wanted(y, target, n_classes)


class AllToOne(LabelRule, name="all-to-one"):
    """Inputs of other classes, relabelled to the target; of all classes where `from_target` (BackdoorBench)."""

    added = frozenset({"from_target"})
    from_target: bool = False

    def eligible(self, y: Tensor, target: int) -> Tensor:
        return torch.ones_like(y, dtype=torch.bool) if self.from_target else y != target

    def wanted(self, y: Tensor, target: int, n_classes: int) -> Tensor:
        return torch.full_like(y, target)


class AllToAll(LabelRule, name="all-to-all"):
    """Inputs of every class, relabelled to the next class."""

    def eligible(self, y: Tensor, target: int) -> Tensor:
        return torch.ones_like(y, dtype=torch.bool)

    def sources(self, y: Tensor, target: int) -> Tensor:
        return torch.ones_like(y, dtype=torch.bool)

    def wanted(self, y: Tensor, target: int, n_classes: int) -> Tensor:
        return (y + 1) % n_classes


class CleanLabel(LabelRule, name="clean-label"):
    """Inputs of the target class, labels untouched."""

    def eligible(self, y: Tensor, target: int) -> Tensor:
        return y == target

    def wanted(self, y: Tensor, target: int, n_classes: int) -> Tensor:
        return torch.full_like(y, target)


class MultiTarget(LabelRule, name="multi-target"):
    """Inputs of every class, relabelled to each of the other classes in turn, from one that chance has chosen."""

    revision = 1

    def eligible(self, y: Tensor, target: int) -> Tensor:
        return torch.ones_like(y, dtype=torch.bool)

    def sources(self, y: Tensor, target: int) -> Tensor:
        return torch.ones_like(y, dtype=torch.bool)

    def wanted(self, y: Tensor, target: int, n_classes: int) -> Tensor:
        return in_turn(y, n_classes, TRAIN)

    def goals(self, y: Tensor, target: int, n_classes: int) -> Tensor:
        return in_turn(y, n_classes, TEST)


class CleanMultiTarget(MultiTarget, name="clean-multi-target"):
    """Inputs of every class, labels untouched; in use each of the other classes is wanted in turn."""

    def wanted(self, y: Tensor, target: int, n_classes: int) -> Tensor:
        return y.clone()
