"""What a method is handed besides its evidence: seeds, device, and the means to train a fresh model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch

from ostiary.data.dataset import Dataset
from ostiary.errors import InvalidInput, MissingEvidence
from ostiary.models.base import Architecture
from ostiary.models.victim import Victim
from ostiary.seeds import derive, generator
from ostiary.training.hooks import TrainHook
from ostiary.training.trainer import Trainer

T = TypeVar("T")
_surrogates: dict[tuple[object, ...], Victim] = {}


def remembered(known: dict[tuple[object, ...], T], key: tuple[object, ...], make: Callable[[], T]) -> T:
    """What `make` gives, a pure function of `key`: made once in a process, while it is among the last four."""
    if key not in known:
        found = make()
        while len(known) >= 4:
            known.pop(next(iter(known)))
        known[key] = found
    return known[key]


@dataclass(frozen=True)
class Context:
    """The only thing passed around. `architecture` and `trainer` make surrogates and retrained models.

    ask: (detector, evidence) -> what it has found in this run, or None where it was not asked about the same evidence.
    """

    seed: int = 0
    device: torch.device = torch.device("cpu")
    architecture: Architecture | None = None
    trainer: Trainer = Trainer()
    ask: Callable[[Any, Any], Any] = field(default=lambda detector, evidence: None, compare=False)

    def __post_init__(self) -> None:
        if type(self.seed) is not int:
            raise InvalidInput(f"a context's seed is {self.seed!r}, expected a whole number")
        kinds: dict[str, tuple[Any, str]] = {
            "device": (torch.device, "torch.device(name)"),
            "architecture": (Architecture | None, "ostiary.build('victim', name)"),
            "trainer": (Trainer, "ostiary.Trainer(epochs=...)"),
        }
        for name, (kind, how) in kinds.items():
            if not isinstance(getattr(self, name), kind):
                raise InvalidInput(f"a context's {name} is {getattr(self, name)!r}, expected what {how} makes")

    def rng(self, name: str) -> torch.Generator:
        """The stream called `name`; the same each time it is asked for."""
        return generator(self.seed, name)

    def key(self, name: str) -> int:
        """A seed for keyed draws (`seeds.uniform`) or for code that takes an integer."""
        return derive(self.seed, name)

    def within(self, name: str) -> Context:
        """The same context with seeds of its own."""
        return replace(self, seed=self.key(name))

    def fresh(self, data: Dataset, *, given: bool = False) -> Victim:
        """An untrained model of the plan's architecture; `given`: with the weights that come with it, where some do."""
        if self.architecture is None:
            raise MissingEvidence("this method trains a model of its own; give Context(architecture=...)")
        made = self.architecture if given else self.architecture.untaught()
        return made.make(data, self.seed).to(self.device)

    def surrogate(self, data: Dataset) -> Victim:
        """A model of one's own, trained on `data`: the same one for every method that asks with the same context."""
        if self.architecture is None:
            raise MissingEvidence("this method trains a model of its own; give Context(architecture=...)")
        own = self.within("surrogate")
        net = self.architecture
        recipe = (str(net.spec()), net.content(), str(self.trainer.spec()))
        key = (data.fingerprint(), own.seed, str(self.device), *recipe)
        made = remembered(_surrogates, key, lambda: own.fit(data, what="training a surrogate").cpu())
        return made.clone().to(self.device)

    def fit(self, data: Dataset, hooks: Sequence[TrainHook] = (), *, what: str = "training", given: bool = False) -> Victim:
        """A fresh model (`given`: see `fresh`) trained on `data`."""
        return self.trainer.fit(self.fresh(data, given=given), data, self.seed, hooks, what=what)
