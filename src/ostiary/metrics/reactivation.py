"""How fast a backdoor comes back: what a purified model does after a little training on triggered samples."""

from __future__ import annotations

from dataclasses import replace

import torch

from ostiary.attacks.base import Poisoned
from ostiary.context import Context
from ostiary.data.dataset import Dataset
from ostiary.metrics.intervals import Estimate, rate
from ostiary.models.victim import Victim
from ostiary.models.votes import Voting
from ostiary.purifiers.base import FineTuning
from ostiary.purifiers.certified import OnViews

SAMPLES = (5, 20)
EPOCHS = 10


def reactivated(victim: Victim, poisoned: Poisoned, ctx: Context) -> dict[str, Estimate]:
    """ASR after fine-tuning on the defender's clean samples and on 5 or 20 triggered ones that bear the wanted label.

    Source of the idea: Min et al., NeurIPS 2024, arXiv:2410.09838 (retuning attack); sample numbers, 10 epochs and the
    settings of plain fine-tuning: ours. The rate is over the triggered inputs that were not trained on, at least as many
    as were; the same samples for every model of a cell, so that models compare, a clean one among them. Of a vote every
    member is fine-tuned, on the views that it votes on. Empty for a model that passes no gradient.
    """
    order = torch.randperm(len(poisoned.triggered), generator=ctx.rng("reactivation"))
    found = {}
    one = poisoned.triggered.take(order[:1]).inputs
    learns = all(any(p.requires_grad for p in m.parameters()) and m.learns(one) for m in voters(victim))
    for n in SAMPLES if learns else ():
        if len(order) < 2 * n:
            continue
        few, rest = poisoned.triggered.take(order[:n]), poisoned.triggered.take(order[n:])
        again = _taught(victim, poisoned.splits.clean, few, ctx)
        said = again.predict(rest.inputs).argmax(1)
        found[f"reactivated_{n}"] = rate(int((said == rest.y).sum()), len(rest))
    return found


def _taught(victim: Victim, clean: Dataset, few: Dataset, ctx: Context) -> Victim:
    modality = clean.modality
    both = replace(
        clean,
        inputs=modality.join([clean.inputs, few.inputs]),
        y=torch.cat([clean.y, few.y]),
        ids=torch.arange(len(clean) + len(few)),
    )
    trainer = FineTuning(batches=0).trainer(ctx, both, EPOCHS)
    trainer = trainer.replace(augment="none")  # a crop would cut off triggers at the edge
    again = victim.clone()
    hooks = [OnViews(again.view, ctx.rng("reactivation views"))] if isinstance(again, Voting) else []
    for model in voters(again):
        trainer.fit(model, both, ctx.key("reactivation"), hooks, what="re-activation")
    return again


def voters(victim: Victim) -> tuple[Victim, ...]:
    return victim.members if isinstance(victim, Voting) else (victim,)
