"""The moments of training that an attack or a defence may touch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from ostiary.modality.base import Inputs
    from ostiary.training.trainer import TrainState


class TrainHook:
    """Every moment does nothing by default; override what you need."""

    def on_start(self, state: TrainState) -> None:
        """Before the first epoch."""

    def on_epoch(self, state: TrainState) -> None:
        """Before each epoch (`state.epoch`); may replace `state.data`."""

    def on_batch(self, state: TrainState, batch: Inputs, y: Tensor, rows: Tensor) -> tuple[Inputs, Tensor]:
        """The batch to train on; `rows` are its places in the training set."""
        return batch, y

    def loss(self, state: TrainState, batch: Inputs, y: Tensor, rows: Tensor) -> Tensor | None:
        """A loss in place of cross-entropy, or None."""
        return None

    def after_epoch(self, state: TrainState) -> None:
        """After each epoch; `state.epoch` of them are done."""

    def on_end(self, state: TrainState) -> None:
        """After the last epoch."""
