"""The contract of an attack. Public methods are final: they do what no attack may forget."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, final

import torch
from torch import Tensor

from ostiary.attacks.labels import AllToOne, CleanLabel, LabelRule
from ostiary.attacks.select import Correct, Random, Selector
from ostiary.component import Component, NonNegative, Rate, who
from ostiary.context import Context
from ostiary.data.dataset import Dataset, Splits
from ostiary.devices import plain_defaults
from ostiary.errors import BrokenContract, InvalidInput, Unsupported
from ostiary.modality.base import Inputs
from ostiary.models.base import Architecture
from ostiary.models.victim import Victim
from ostiary.training.hooks import TrainHook
from ostiary.triggers.base import Trigger


class TriggerHook(TrainHook):
    """A hook that learns the trigger while the victim trains. `extra`: from (victim, triggered inputs, their rows of the
    training set), what the trigger's own loss is to have on top; set by whoever wraps the attack."""

    trigger: Trigger
    extra: Callable[[Victim, Inputs, Tensor], Tensor] | None = None


@dataclass(frozen=True, eq=False)
class Poisoned:
    """What only the attacker and the judge know.

    splits: train is poisoned, test and clean are not. index: poisoned rows of train, int64 [m]. triggered: stamped
    test sources whose y is what the attacker wants; rows: their places in test. hook: for attacks on training.
    subsets: places in rows (int64) that are judged by themselves too, by name.
    """

    splits: Splits
    index: Tensor
    trigger: Trigger
    triggered: Dataset
    rows: Tensor
    hook: TrainHook | None = None
    doubts: tuple[str, ...] = ()
    picked: tuple[str, ...] = ()  # those of the doubts that are about the rows, whatever the trigger
    subsets: dict[str, Tensor] = field(default_factory=dict)


def handed_out(splits: Splits) -> Splits:
    """All parts in the precision in which data are handed out."""
    for part in ("train", "test", "clean"):
        data: Dataset = getattr(splits, part)
        handed = splits.modality.handed_out(data.inputs)
        splits = splits if handed is data.inputs else splits.with_part(part, replace(data, inputs=handed))
    return splits


class Attack(Component):
    """`controls`: what the attacker must hold: data, training, weights."""

    kind = "attack"
    modalities: ClassVar[frozenset[str]]
    controls: ClassVar[frozenset[str]]

    def content(self) -> str:
        """A mark of the files that the attack reads, so that results are not reused after they changed; empty for none."""
        return ""

    @final
    @plain_defaults()
    def poison(self, splits: Splits, ctx: Context) -> Poisoned:
        """Poisoned training data, the trigger, and the stamped test sources. The given splits are left as they are; what is
        made of them is all of one precision, lest poison be told by its own."""
        if splits.modality.name not in self.modalities:
            raise Unsupported(f"attack '{self.name}' works on {', '.join(self.modalities)} data, not {splits.modality.name}")
        handed = handed_out(splits)
        before = handed.fingerprint()
        poisoned = self.craft(handed, ctx)
        if handed.fingerprint() != before:
            raise BrokenContract(f"{who(self)} changed the data that it was given; let it work on a clone")
        return poisoned

    @abstractmethod
    def craft(self, splits: Splits, ctx: Context) -> Poisoned:
        """The attack itself."""

    def settle(self, clean: Splits, poisoned: Poisoned, ctx: Context) -> Poisoned:
        """The same after training: an attack that learns its trigger meanwhile stamps with the final one."""
        return poisoned


class RateAttack(Attack):
    """Stamps a share of the training set.

    rate: poisoned share of the *whole* training set, rounded to the nearest sample; 0 poisons nothing and leaves a clean
    model, judged by the attack's trigger. target: class to lead to.
    surrogate: the attacker's own architecture where the attack asks a model; None: the victim's (white box).
    """

    controls = frozenset({"data"})
    taught: ClassVar[bool] = False  # whether its trigger is learnt on the rows that it poisons
    rate: Rate = 0.1
    target: NonNegative = 0
    labels: LabelRule = AllToOne()
    select: Selector = Random()
    surrogate: Architecture | None = None

    def attacker(self, ctx: Context) -> Context:
        """The context in which the attacker's own models are made."""
        return replace(ctx, architecture=self.surrogate or ctx.architecture)

    def chosen(self, train: Dataset, n: int, ctx: Context) -> Tensor:
        """At most `n` of the rows that may be poisoned, as the attacker selects them, sorted: int64 [<= n]. The same in every
        call, so that a trigger can be learnt for the very rows that get it."""
        eligible = self.labels.eligible(train.y, self.target)
        most = min(n, int(eligible.sum()))
        found, mine = self.select.choose(train, eligible, most, self.attacker(ctx)), who(self.select)
        if not isinstance(found, Tensor) or found.dtype != torch.int64 or found.ndim != 1:
            raise BrokenContract(f"{mine} must give numbers of rows, int64 [<= n]; take mask.nonzero().flatten() of a mask")
        if len(found) > most or len(found.unique()) < len(found) or not bool(eligible[found].all()):
            raise BrokenContract(f"{mine} was asked for at most {most} different rows that are eligible, and gave others")
        return found

    def pick(self, splits: Splits, ctx: Context) -> tuple[Tensor, tuple[str, ...]]:
        """(rows of train to poison, doubts). Raises InvalidInput for a missing class or a rate of no sample."""
        train = splits.train
        if self.target >= train.n_classes:
            raise InvalidInput(
                f"target class {self.target} does not exist: the data have classes 0 to {train.n_classes - 1} "
                f"({', '.join(train.classes)})"
            )
        eligible = self.labels.eligible(train.y, self.target)
        if self.rate == 0:
            also = ", and the trigger is as it began, for it learns on what it poisons" if self.taught else ""
            return eligible.new_zeros(0, dtype=torch.int64), (
                f"rate 0: nothing is poisoned, the victim learns no backdoor{also}",
            )
        asked = self.asked(splits)
        if min(asked, int(eligible.sum())) == 0:
            raise InvalidInput(
                f"rate {self.rate} of {len(train)} training samples ({int(eligible.sum())} eligible) poisons none; raise rate"
            )
        index = self.chosen(train, asked, ctx)
        if len(index) == 0:
            raise InvalidInput(
                f"selector '{self.select.name}' found none among {int(eligible.sum())} eligible samples (perhaps the "
                "attacker's model calls none of them by its label); train longer or select at random"
            )
        n = len(index)
        doubts = (f"only {n} of the {asked} samples asked for could be poisoned (no more are eligible)",) if n < asked else ()
        return index, doubts

    def asked(self, splits: Splits) -> int:
        """How many samples the rate asks for."""
        return round(self.rate * len(splits.train))

    def stamp(
        self, splits: Splits, index: Tensor, trigger: Trigger, ctx: Context, *, at_test: Trigger | None = None
    ) -> Poisoned:
        """Trigger and labels on the training rows, trigger (or another, `at_test`) on every test source."""
        train, test = splits.train, splits.test
        modality, done = splits.modality, splits
        if len(index):
            wanted = self.labels.wanted(train.y[index], self.target, train.n_classes)
            done = modality.stamp(splits, "train", index, trigger, seed=ctx.key("stamp-train"), target=wanted)
            done = done.with_part("train", done.train.relabel(index, wanted))
        rows = self.labels.sources(test.y, self.target).nonzero().flatten()
        if len(rows) == 0:
            raise InvalidInput(f"no test sample can serve as a source for target class {self.target}; enlarge the test part")
        goal = self.labels.goals(test.y[rows], self.target, test.n_classes)
        last = at_test or trigger
        marked = modality.stamp(done, "test", rows, last, seed=ctx.key("stamp-test"), target=goal)
        triggered = replace(marked.test.take(rows), y=goal)
        poisoned = train.take(index)
        doubts = [*trigger.doubts(poisoned.inputs, poisoned.ids, seed=ctx.key("stamp-train"))] if len(index) else []
        for name, before, after in (
            ("training", poisoned, done.train.take(index)),
            ("test", test.take(rows), triggered),
        ):
            handed = modality.handed_out(before.inputs)
            same = int((modality.difference(handed, after.inputs)["changed"] == 0).sum()) if len(before) else 0
            if same:
                doubts.append(f"the trigger left {same} of {len(before)} {name} inputs as they were")
        return Poisoned(done, index, last, triggered, rows, doubts=tuple(doubts))


class CleanLabelAttack(RateAttack):
    """Leaves labels as they are and poisons only inputs of the target class that the attacker's model calls rightly.

    rate_of: the rate is a share of the training set, or of all data, test included (as Meguro et al., 2024, count).
    """

    rate: Rate = 0.1
    rate_of: Literal["train", "data"] = "train"
    labels: LabelRule = CleanLabel()
    select: Selector = Correct()

    def asked(self, splits: Splits) -> int:
        n = len(splits.train) if self.rate_of == "train" else sum(map(len, (splits.train, splits.test, splits.clean)))
        return round(self.rate * n)


class PoisoningAttack(RateAttack):
    """The same with one trigger for all. A subclass makes that trigger, nothing else."""

    @abstractmethod
    def make_trigger(self, train: Dataset, ctx: Context) -> Trigger:
        """The trigger, from clean training data."""

    def make_hook(self, trigger: Trigger, train: Dataset, index: Tensor, ctx: Context) -> TrainHook | None:
        """How training is touched (`train` is clean, `index` its rows to poison); None for attacks on data alone."""
        return None

    def at_test(self, trigger: Trigger) -> Trigger | None:
        """The trigger that test inputs get, where it is another."""
        return None

    @final
    def craft(self, splits: Splits, ctx: Context) -> Poisoned:
        index, doubts = self.pick(splits, ctx)
        trigger = self.make_trigger(splits.train, ctx)
        if not isinstance(trigger, Trigger) or not trigger.name:
            kind = trigger.__name__ if isinstance(trigger, type) else type(trigger).__name__
            said = f"{who(self)} made a trigger of type {kind}"
            raise BrokenContract(f"{said}, expected an instance of a Trigger with a name in its class line")
        poisoned = self.stamp(splits, index, trigger, ctx, at_test=self.at_test(trigger))
        hook = self.make_hook(trigger, splits.train, index, ctx) if self.rate else None
        if hook is not None and not isinstance(hook, TrainHook):
            raise BrokenContract(f"{who(self)} made a hook of type {type(hook).__name__}, expected a TrainHook or None")
        return replace(poisoned, hook=hook, picked=doubts, doubts=(*doubts, *poisoned.doubts))

    @final
    def settle(self, clean: Splits, poisoned: Poisoned, ctx: Context) -> Poisoned:
        if not isinstance(poisoned.hook, TriggerHook):
            return poisoned
        again = self.stamp(handed_out(clean), poisoned.index, poisoned.hook.trigger, ctx)
        # the other doubts were about the trigger as it began
        return replace(again, picked=poisoned.picked, doubts=(*poisoned.picked, *again.doubts), hook=None)
