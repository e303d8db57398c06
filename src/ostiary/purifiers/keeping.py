"""The epoch that an oracle prefers, for papers whose code keeps the best one by the test set; a defender keeps the last."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

from ostiary.evidence import Oracle
from ostiary.purifiers.holdout import BY_TEST
from ostiary.training.hooks import TrainHook
from ostiary.training.trainer import TrainState

Rates = tuple[float, float]  # accuracy and ASR on the test set, in [0, 1]
Better = Callable[[Sequence[Rates]], bool]  # of all epochs so far: whether the last replaces the one that is kept


def widest(seen: Sequence[Rates]) -> bool:
    """Whether accuracy less ASR is larger than after any epoch before."""
    *before, now = (acc - asr for acc, asr in seen)
    return not before or now > max(before)


class Keeping(TrainHook):
    """Asks the oracle after each epoch, of `passes` over the data, and ends with the weights of the one that `better` took
    last; where it took none, those of the last epoch stay."""

    def __init__(self, oracle: Oracle, better: Better, passes: int = 1) -> None:
        self.oracle, self.better, self.passes = oracle, better, passes
        self.seen: list[Rates] = []
        self.epoch, self.weights = 0, dict[str, Any]()

    def after_epoch(self, state: TrainState) -> None:
        if state.epoch % self.passes:
            return
        self.seen.append(self.oracle(state.victim))
        if self.better(self.seen):
            self.epoch, self.weights = len(self.seen), copy.deepcopy(state.victim.state_dict())

    def on_end(self, state: TrainState) -> None:
        if self.weights:
            state.victim.load_state_dict(self.weights)
        state.victim.notes |= {**BY_TEST, "kept epoch": self.epoch or len(self.seen), "of epochs": len(self.seen)}


def kept(oracle: Oracle | None, better: Better, passes: int = 1) -> list[TrainHook]:
    """The hook for a training that an oracle is asked of; none without one, so that the last epoch is kept."""
    return [] if oracle is None else [Keeping(oracle, better, passes)]
