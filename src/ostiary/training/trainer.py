"""The only training loop. Its whole state is one value, so that loops over several states can be interleaved."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F

from ostiary.component import Component, NonNegative, NonNegativeFloat, Positive, PositiveFloat, Rate
from ostiary.console import progress
from ostiary.data.dataset import Dataset
from ostiary.devices import plain_defaults
from ostiary.errors import BrokenContract, Diverged, InvalidInput
from ostiary.models.victim import Victim, check_logits, evaluating, first_logits, freeze_norms
from ostiary.seeds import generator, scoped
from ostiary.training.augment import augment
from ostiary.training.hooks import TrainHook


@dataclass
class TrainState:
    """Everything one training consists of; nothing about it lives elsewhere.

    stride: how many epochs the next pass over the data counts as, for its schedule and its end; a hook may raise it.
    """

    victim: Victim
    data: Dataset
    optimizer: torch.optim.Optimizer
    order: torch.Generator
    seed: int = 0
    epoch: int = 0
    stride: int = 1
    step: int = 0
    loss: float = math.nan


class Trainer(Component, name="trainer"):
    """Cross-entropy training, seeded. `epochs` passes in batches of `batch_size`, `lr` peak learning rate.

    `schedule`: constant; step (times `step_factor` every `step_every` epochs); cosine; one-cycle (30 % warm-up).
    `augment` (images): none, crop, crop-flip, crop-rotate-flip. `freeze_norms`: BatchNorm statistics stay as they are.
    `bf16`: autocast; check accuracy. Left out on a CPU without bf16 instructions, where it would take many times as long.
    `max_norm`: gradient clipping, 0 for none.
    """

    kind = "trainer"
    optimizer: Literal["adam", "sgd"] = "adam"
    lr: PositiveFloat = 0.005
    epochs: NonNegative = 40
    batch_size: Positive = 64
    weight_decay: Rate = 0.0
    momentum: Rate = 0.9
    schedule: Literal["constant", "step", "cosine", "one-cycle"] = "constant"
    step_every: Positive = 50
    step_factor: PositiveFloat = 0.1
    augment: Literal["none", "crop", "crop-flip", "crop-rotate-flip"] = "none"
    freeze_norms: bool = False
    max_norm: NonNegativeFloat = 0.0
    bf16: bool = False

    @plain_defaults()
    def fit(
        self, victim: Victim, data: Dataset, seed: int, hooks: Sequence[TrainHook] = (), *, what: str = "training"
    ) -> Victim:
        """Train `victim` in place and return it, in evaluation mode. Raises InvalidInput if the loss diverges."""
        if not self.epochs:  # what is not trained shall fit the data all the same, and may be frozen
            with torch.no_grad(), evaluating(victim):
                first = data.modality.take(data.inputs, torch.arange(min(2, len(data))))
                first_logits(victim, data.modality.move(first, victim.device), data.n_classes)
            if not hooks:
                return victim.eval()
        state = self.start(victim, data, seed)
        for hook in hooks:
            hook.on_start(state)
        while state.epoch < self.epochs:
            self.run_epoch(state, hooks)
            progress(what, state.epoch / self.epochs)
        for hook in hooks:
            hook.on_end(state)
        victim.eval()
        return victim

    def start(self, victim: Victim, data: Dataset, seed: int) -> TrainState:
        parameters = [p for p in victim.module.parameters() if p.requires_grad]
        if not parameters:
            raise InvalidInput("the module has no parameter that may be trained; call module.requires_grad_(True) first")
        if self.optimizer == "adam":
            optimizer: torch.optim.Optimizer = torch.optim.Adam(parameters, self.lr, weight_decay=self.weight_decay, fused=True)
        else:
            nesterov = self.momentum > 0
            optimizer = torch.optim.SGD(
                parameters, self.lr, self.momentum, weight_decay=self.weight_decay, nesterov=nesterov, fused=True
            )
        return TrainState(victim, data, optimizer, generator(seed, "order"), seed)

    def run_epoch(self, state: TrainState, hooks: Sequence[TrainHook] = ()) -> None:
        """One pass over the data in a fresh order."""
        state.victim.train()
        if self.freeze_norms:
            freeze_norms(state.victim)
        for hook in hooks:
            hook.on_epoch(state)
        order = torch.randperm(len(state.data), generator=state.order)
        batches = order.split(self.batch_size)
        if len(batches) > 1 and len(batches[-1]) == 1:  # BatchNorm cannot train on one sample
            batches = (*batches[:-2], torch.cat(batches[-2:]))
        losses = []
        with scoped(state.seed, "noise", state.epoch):  # dropout
            for i, rows in enumerate(batches):
                for group in state.optimizer.param_groups:
                    group["lr"] = self.lr * self.factor(state.epoch + state.stride * i / len(batches))
                losses.append(self.run_batch(state, rows, hooks))
        state.loss = float(torch.stack(losses).mean())
        if not math.isfinite(state.loss):
            raise Diverged(f"training diverged in epoch {state.epoch + 1} (loss {state.loss}); lower lr (now {self.lr})")
        state.epoch += state.stride
        for hook in hooks:
            hook.after_epoch(state)

    def run_batch(self, state: TrainState, rows: torch.Tensor, hooks: Sequence[TrainHook]) -> torch.Tensor:
        victim, data = state.victim, state.data
        batch, y = data.modality.take(data.inputs, rows), data.y[rows]
        for hook in hooks:
            seen = hook.on_batch(state, batch, y, rows)
            if not isinstance(seen, tuple) or len(seen) != 2:
                raise BrokenContract(f"the hook {type(hook).__name__} gave {type(seen).__name__} of a batch; return (batch, y)")
            batch, y = seen
        if self.augment != "none" and isinstance(batch, torch.Tensor):
            batch = augment(batch, self.augment, state.order)
        device = victim.device
        batch, y = data.modality.move(batch, device), y.to(device)
        with torch.autocast(device.type, torch.bfloat16) if self.bf16 and has_bf16(device) else nullcontext():
            own = [x for x in (h.loss(state, batch, y, rows) for h in hooks) if x is not None]
            logits = None if own else victim(batch) if state.step else first_logits(victim, batch, data.n_classes)
            loss = own[0] if logits is None else F.cross_entropy(check_logits(logits, len(y)).float(), y)
        for group in state.optimizer.param_groups:  # zero_grad() does the same in five times the time
            for p in group["params"]:
                p.grad = None
        if not loss.requires_grad:
            raise InvalidInput("the module's answers pass no gradient to its weights; call it without torch.no_grad()")
        loss.backward()
        if self.max_norm > 0:
            torch.nn.utils.clip_grad_norm_(victim.module.parameters(), self.max_norm)
        state.optimizer.step()
        state.step += 1
        return loss.detach()

    def factor(self, epoch: float) -> float:
        """Learning rate at (fractional) `epoch`, as a share of the peak."""
        if self.schedule == "step":
            return float(self.step_factor ** (int(epoch) // self.step_every))
        done = epoch / max(1, self.epochs)
        if self.schedule == "cosine":
            return 0.5 * (1 + math.cos(math.pi * done))
        if self.schedule == "one-cycle":
            up = 0.3
            if done < up:
                return 0.04 + 0.96 * 0.5 * (1 - math.cos(math.pi * done / up))
            return max(1e-4, 0.5 * (1 + math.cos(math.pi * (done - up) / (1 - up))))
        return 1.0


def has_bf16(device: torch.device) -> bool:
    """Whether bf16 is computed in hardware there."""
    return device.type != "cpu" or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
