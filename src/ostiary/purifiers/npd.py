"""NPD."""

from __future__ import annotations

from contextlib import nullcontext, suppress
from typing import Literal

import torch

from ostiary.component import NonNegativeFloat, PositiveFloat, Rate
from ostiary.context import Context
from ostiary.data.dataset import Dataset
from ostiary.errors import Diverged, Unsupported
from ostiary.evidence import Evidence
from ostiary.models.polarized import place, polarized, polarizer, watched
from ostiary.models.victim import Victim, without_gradients
from ostiary.purifiers.adversary import unmoved
from ostiary.purifiers.base import Budget, Purifier, as_images
from ostiary.purifiers.holdout import accuracy, hold_out, holds
from ostiary.purifiers.polarizing import Aim, Towards
from ostiary.purifiers.together import Together
from ostiary.training.trainer import Trainer


class NPD(Aim, Budget, Purifier, name="npd"):
    """Puts one linear layer before a late layer and trains it alone, against perturbations towards other classes.

    Source: Zhu et al., Neural polarizer, NeurIPS 2023, arXiv:2306.16697. The defender holds the model and a few clean samples.
    Before `layer` (default: the first convolution of the last block; on graphs the last message-passing layer, or the head)
    stands a 1 x 1 convolution (Linear) with BatchNorm. A batch takes up to `inner` sign steps of `step` towards the likeliest
    other class of each input, L2 norm up to `eps`, until the share `enough` gets there. SGD then lowers CE of the clean,
    and by `weights` CE of the perturbed to the label they had and -log(1 - p) of their likeliest wrong class and of the
    class aimed at. 3, 2, 0.1, 0.6, weights 0.4, lr 0.01, 50 epochs in batches of 128: authors' code.

    `space`: perturb the inputs (paper) or what enters the layer, in standard deviations of each channel (ours; on AIDS, seeds
    10 to 12, perturbed node features removed far more). Differs from the code: the layer starts as the identity with the
    statistics of the clean samples (there five epochs of warm-up); 20 epochs in batches of 64; Nesterov momentum; gradients
    up to `max_norm` on graphs (1); images augmented as by the model's own trainer; a third, a tenth or a thirtieth of `lr`
    where it diverges or accuracy on a part held out falls by more than `tolerance` (ours); the result is the whole module.
    Preset auto (ours, from digits of seeds 10 to 14; `together`): `shared`, one perturbation for all inputs, towards the class
    that one is first to reach. It presumes one target; on toy images, of which 8 tune, another class was nearer than it.
    """

    modalities = frozenset({"graph", "image"})
    presets = {
        "paper": {"epochs": 50, "batch_size": 128},
        "auto": {"shared": True, "enough": 1.0, "weights": (0.2,) * 3, "schedule": "cosine", "batch_size": 128, "steps": 100},
    }
    layer: str = ""
    space: Literal["input", "features"] = "input"
    lr: PositiveFloat = 0.01
    schedule: Literal["constant", "cosine"] = "constant"
    tolerance: Rate = 0.05
    max_norm: NonNegativeFloat | None = None

    def refuse(self, evidence: Evidence) -> str:
        few = evidence.clean.take(torch.arange(2)).inputs
        try:
            found = polarized(evidence.victim, self.layer)
            with watched(polarizer(found)) as seen:
                said = found.predict(few)
        except (Unsupported, RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
            return f"no polarizer fits: {str(error).splitlines()[0]}"
        if not seen or not torch.allclose(said, evidence.victim.predict(few), rtol=0.01, atol=0.01):
            return "what enters the polarised layer does not pass the polarizer; name another as layer="
        return unmoved(evidence) if self.space == "input" else ""

    def rebuild(self, victim: Victim) -> Victim:
        return polarized(victim, self.layer)

    def cleanse(self, evidence: Evidence, ctx: Context) -> Victim:
        tune, check = hold_out(evidence.clean, ctx.key("hold out"))
        before, tried = accuracy(evidence.victim, check), dict[float, float]()
        hook = (Together if self.shared else Towards)(self, self.space)  # one for all rates: what it searches for is the same
        for rate in (self.lr / slower for slower in (1, 3, 10, 30)):
            with suppress(Diverged) if rate > self.lr / 30 else nullcontext():  # after the last rate nothing is left to try
                victim = self.trained(evidence.victim, tune, rate, hook, ctx)
                tried[rate] = accuracy(victim, check)
            if holds(tried.get(rate, -1.0), before, self.tolerance):
                break
        victim.notes |= {"layer": self.layer or place(evidence.victim), "checked on": len(check), "lr": rate}
        victim.notes |= {"accuracy there before": before, "accuracy there after": tried[rate], **hook.facts(tune)}
        return victim

    def trained(self, given: Victim, clean: Dataset, lr: float, hook: Towards, ctx: Context) -> Victim:
        """A polarised copy, trained on the clean samples."""
        victim = polarized(given, self.layer)
        lens = polarizer(victim)
        with watched(lens) as seen:
            victim.predict(clean.inputs)
        lens.settle(torch.cat(seen))
        graph = clean.modality.name == "graph"
        own = Trainer(optimizer="sgd", lr=lr, weight_decay=5e-4, epochs=self.passes(clean), batch_size=self.per_batch(clean))
        own = own.replace(max_norm=float(graph) if self.max_norm is None else self.max_norm, schedule=self.schedule)
        with without_gradients(victim):
            lens.requires_grad_(True)
            (own if graph else as_images(own, ctx)).fit(victim, clean, ctx.key("order"), [hook], what="npd")
        return victim
