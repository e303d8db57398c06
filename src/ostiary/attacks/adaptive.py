"""Adaptive attacks."""

from __future__ import annotations

from dataclasses import replace

from ostiary.attacks.base import Attack, Poisoned
from ostiary.attacks.evading import Evading
from ostiary.attacks.terms import Similarity, Term
from ostiary.component import NonNegativeFloat
from ostiary.context import Context
from ostiary.data.dataset import Splits
from ostiary.errors import BadSpec


class Adaptive(Attack, name="adaptive"):
    """Any attack, made by an adversary who also trains against a defence.

    Source: Zhang et al., "No Matter What You Do!", 2024, arXiv:2410.01272, Eq. 16: the attack's loss minus alpha times the
    hinge that GCleaner minimises to recover a trigger (`term` similarity, the default); other terms are ours. The
    adversary holds what the inner `attack` holds, and controls training. The term sees the triggered rows of each batch.
    `alpha` 0.1: ours (the paper's figure gives a range); 0 is the inner attack exactly. A trigger that is learnt while the
    victim trains (GTA) is trained against the term too.

    Differs from the paper as printed: Eq. 7's sign is that of its text (the hinge pulls embeddings together, alpha apart).
    """

    modalities = frozenset({"graph", "image"})  # of the class; an instance has those of its attack and term
    controls = frozenset({"data", "training"})
    attack: Attack
    term: Term = Similarity()
    alpha: NonNegativeFloat = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        common = self.attack.modalities & self.term.modalities
        if not common:
            kinds = ", ".join(sorted(self.attack.modalities))
            raise BadSpec(
                f"term '{self.term.name}' does not work on {kinds} data, which '{self.attack.name}' poisons; take another"
            )
        object.__setattr__(self, "modalities", common)
        object.__setattr__(self, "controls", self.attack.controls | {"training"})

    def craft(self, splits: Splits, ctx: Context) -> Poisoned:
        poisoned = self.attack.poison(splits, ctx)
        if not self.alpha:
            return poisoned
        return replace(poisoned, hook=Evading(self.term, self.alpha, splits.train, poisoned))

    def settle(self, clean: Splits, poisoned: Poisoned, ctx: Context) -> Poisoned:
        inner = poisoned.hook.inner if isinstance(poisoned.hook, Evading) else poisoned.hook
        return self.attack.settle(clean, replace(poisoned, hook=inner), ctx)
