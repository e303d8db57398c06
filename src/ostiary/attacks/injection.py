"""The family of attacks that learn to make new nodes."""

from __future__ import annotations

from ostiary.attacks.base import PoisoningAttack
from ostiary.attacks.in_turn import InTurn
from ostiary.attacks.penalties import Penalty
from ostiary.component import NonNegative, NonNegativeFloat, Positive, PositiveFloat, Rate
from ostiary.context import Context
from ostiary.data.dataset import Dataset
from ostiary.errors import BadSpec, InvalidInput
from ostiary.training.trainer import Trainer
from ostiary.triggers.generated_nodes import GeneratedNodes, NodeFeatures


class Injection(PoisoningAttack):
    """`size` nodes per trigger, `hidden` units of the generator, `features` of new nodes (free, range or binary: see the
    trigger), `epochs` of one surrogate step and one generator step each, Adam with `generator_lr` for both, `others` nodes
    besides the poisoned ones on which the generator learns. Defaults of these but `hidden`: UGBA.

    Ours are `warm_up` epochs in which the surrogate first learns the triggers as the untrained generator makes them, and
    the weight `natural` of -log(1 - p), p being how probable a twin of the surrogate, trained on clean data at the same
    pace, finds the target. With both at 0, as published, triggers fool clean models as well (natural rates of 47 to 100 %
    where we measured): that is evasion, which needs no poison, and leaves little to detect in the victim. Raises BadSpec
    where `warm_up` leaves the generator no epoch to learn in."""

    modalities = frozenset({"node"})
    rate: Rate = 0.005
    size: Positive = 3
    hidden: Positive = 64
    features: NodeFeatures = "free"
    epochs: Positive = 400
    generator_lr: PositiveFloat = 0.01
    others: NonNegative = 512
    warm_up: NonNegative = 100
    natural: NonNegativeFloat = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.epochs < self.warm_up + 2:
            raise BadSpec(
                f"{self.name}: of {self.epochs} epochs the first {self.warm_up} (warm_up) and the last do not change the "
                "generator, so that it would learn nothing; raise epochs or lower warm_up"
            )

    def penalty(self, train: Dataset, ctx: Context) -> Penalty:
        return Penalty()

    def make_trigger(self, train: Dataset, ctx: Context) -> GeneratedNodes:
        ctx = self.attacker(ctx)
        index = self.chosen(train, round(self.rate * len(train)), ctx)
        x = train.inputs.x
        if self.features == "binary" and not bool(((x == 0) | (x == 1)).all()):
            raise InvalidInput(f"{self.name}: features are not all 0 or 1, so binary ones cannot be made; choose range")
        own = ctx.within("surrogate")
        trainer = Trainer(lr=self.generator_lr, epochs=self.epochs, batch_size=len(train), weight_decay=5e-4)
        hook = InTurn(self, train, index, trainer, own)
        trainer.fit(own.fresh(train), train, own.seed, [hook], what=f"{self.name}: generator")
        return hook.best
