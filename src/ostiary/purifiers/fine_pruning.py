"""Fine-pruning."""

from __future__ import annotations

import torch
from torch import Tensor

from ostiary.component import NonNegative, Rate
from ostiary.context import Context
from ostiary.errors import Unsupported
from ostiary.evidence import Evidence
from ostiary.modality.base import Inputs
from ostiary.models.victim import Victim, gives
from ostiary.purifiers.base import FineTuning, Purifier
from ostiary.purifiers.holdout import Choice, deepest, hold_out
from ostiary.training.hooks import TrainHook
from ostiary.training.trainer import TrainState


class FinePruning(Choice, FineTuning, Purifier, name="fine-pruning"):
    """Prunes the last hidden channels that clean samples leave asleep, then fine-tunes without them.

    Source: Liu, Dolan-Gavitt & Garg, RAID 2018, arXiv:1805.12185. The defender holds the model and a few clean samples.
    Channels go in ascending order of mean absolute activation, 1 % at a time, until accuracy on a part of the sample
    held out has fallen by more than `tolerance` (absolute, 0.04: paper); all clean samples then fine-tune what is left.
    `epochs` 30: as fine-tune. `share`: prune exactly that share, by the same order; with `epochs` 0 several shares in a plan
    make the curve that papers plot of a model as its channels go.

    A channel is pruned by the head's weights that read it, held at zero while fine-tuning. For what enters the head that
    is the same as taking the channel out, and no layer, name or statistic of the module changes. So the layer pruned is
    the one before the head (paper: the last convolution, which it is where nothing but pooling lies between). Differs
    from the paper: after flattening, each place of a channel counts as a channel; a tiny sample is not divided.
    """

    modalities = frozenset({"graph", "image", "node"})
    tolerance: Rate = 0.04
    share: Rate | None = None
    epochs: NonNegative = 30

    def refuse(self, evidence: Evidence) -> str:
        victim, clean = evidence.victim, evidence.clean
        if why := self.at_odds("share", self.share):
            return why
        try:
            weight = getattr(victim.module.get_submodule(victim.head), "weight", None)
        except Unsupported as error:
            return str(error)
        (k, d) = (found.shape[1] for found in victim.embed(clean.take(torch.tensor([0])).inputs))
        shape = weight.shape if isinstance(weight, torch.nn.Parameter) and weight.ndim == 2 else (0, 0)
        if not gives(shape[0], k) or shape[1] != d:
            return f"the head '{victim.head}' is not a linear layer from {d} features to {k} logits; name one as head="
        others = [p for p in victim.module.parameters() if p.ndim >= 2 and p is not weight]
        return "" if others else "the head is the only layer, so that there is no channel to prune"

    def cleanse(self, evidence: Evidence, ctx: Context) -> Victim:
        victim, clean = evidence.victim.clone(), evidence.clean
        tune, check = hold_out(clean, ctx.key("hold out"))
        features = victim.embed(tune.inputs)[1]
        order = features.abs().mean(0).argsort(stable=True)
        n = len(order)

        def pruned(count: int) -> Victim:
            other = victim.clone()
            zero_inputs(other, order[:count])
            return other

        levels, tolerance = [*range(0, n, max(1, n // 100))], self.tolerance  # the last channel always stays
        if self.share is not None:
            levels, tolerance = [0, round(self.share * n)], 1.0  # that one, whatever it costs
        count, notes = deepest(levels, pruned, check, tolerance, evidence.oracle)
        trainer = self.trainer(ctx, clean, self.epochs)
        trainer.fit(victim, clean, ctx.key("order"), [Pruned(order[:count])], what="fine-pruning: fine-tuning")
        victim.notes |= {"pruned": count, "of": n, **notes}
        return victim


class Pruned(TrainHook):
    """Channels that stay out of the head, whatever a step has done to its weights."""

    def __init__(self, channels: Tensor) -> None:
        self.channels = channels

    def on_batch(self, state: TrainState, batch: Inputs, y: Tensor, rows: Tensor) -> tuple[Inputs, Tensor]:
        zero_inputs(state.victim, self.channels)
        return batch, y

    def on_end(self, state: TrainState) -> None:
        zero_inputs(state.victim, self.channels)


@torch.no_grad()
def zero_inputs(victim: Victim, channels: Tensor) -> None:
    """In place: the head no longer reads these of its inputs."""
    weight = victim.module.get_submodule(victim.head).weight
    assert isinstance(weight, Tensor)
    weight[:, channels.to(weight.device)] = 0.0
