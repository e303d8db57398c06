"""What a defender may hold. No poisoned test set, no index, no trigger: a method that tunes on them cannot be written by
accident. The one exception, `oracle`, is given only where a plan asks for it by name."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, Generic, TypeVar

import torch

from ostiary.console import warn_once
from ostiary.data.dataset import Dataset
from ostiary.errors import BrokenContract, InvalidInput, MissingEvidence, OstiaryError
from ostiary.models.victim import Victim

T = TypeVar("T")
Oracle = Callable[[Victim], tuple[float, float]]


class Part(Generic[T]):
    """One thing that evidence may hold; asking for it where it is not there raises MissingEvidence."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, evidence: Evidence, owner: type) -> T:
        held: T | None = evidence._all[self.name]
        if held is None:
            raise MissingEvidence(f"the evidence holds no {self.name}; give it, and name it in the method's `needs`")
        return held


class Evidence:
    """victim: the suspicious model. train: the suspicious training set. clean: a few trusted samples. incoming:
    unlabelled inputs seen in operation (labels are blanked, order shuffled). oracle: (accuracy, ASR) of a model on the test
    set; no defender has it, and it exists only to reproduce papers that chose by it.

    Each may be left out; asking for one that is not there raises MissingEvidence (the oracle is None then). Never changed:
    `but` makes another one."""

    victim = Part[Victim]()
    train = Part[Dataset]()
    clean = Part[Dataset]()
    incoming = Part[Dataset]()

    def __init__(
        self,
        victim: Victim | None = None,
        train: Dataset | None = None,
        clean: Dataset | None = None,
        incoming: Dataset | None = None,
        oracle: Oracle | None = None,
    ) -> None:
        self._all: dict[str, Any] = {"victim": victim, "train": train, "clean": clean, "incoming": incoming, "oracle": oracle}
        for name, held in self._all.items():
            kind = Victim if name == "victim" else Dataset
            if held is not None and name != "oracle" and not isinstance(held, kind):
                how = "Victim(module, modality)" if kind is Victim else "ostiary.graphs, ostiary.images or ostiary.nodes"
                raise InvalidInput(f"{name} is of type {type(held).__name__}, expected a {kind.__name__}; make one by {how}")

    @property
    def oracle(self) -> Oracle | None:
        found: Oracle | None = self._all["oracle"]
        return found

    def has(self, *names: str) -> bool:
        """Whether all of these are there, and not empty."""
        return all(held is not None and (not isinstance(held, Dataset) or len(held) > 0) for held in map(self._all.get, names))

    def but(self, **parts: Any) -> Evidence:
        """The same with other `parts`; None leaves one out."""
        return Evidence(**(self._all | parts))

    def only(self, needs: Iterable[str], who: str) -> Evidence:
        """Just what `needs` names. Raises MissingEvidence for what is not there."""
        missing = [name for name in sorted(needs) if not self.has(name)]
        if missing:
            raise MissingEvidence(f"{who} needs {' and '.join(missing)}, which was not given or is empty")
        return Evidence(**{name: self._all[name] for name in needs})

    def checked(self) -> Evidence:
        """The same, the clean data with a class for every output of the victim: of some there may be no sample, and a backdoor
        leads there all the same. Raises InvalidInput if the victim cannot be called on the data that stand beside it."""
        called = {"clean": "clean data", "train": "training set", "incoming": "incoming inputs"}
        beside = next((n for n in called if self.has(n)), None)
        if beside is None or not self.has("victim"):
            return self
        data, name = self._all[beside], called[beside]
        for p in self.victim.parameters():
            if p.dtype in (torch.float16, torch.bfloat16):
                raise InvalidInput(
                    f"the victim's weights are {p.dtype}, too coarse to train or to measure; call module.float()"
                )
        try:
            logits = self.victim.predict(data.take(torch.arange(min(2, len(data)), device=data.ids.device)).inputs)
        except OstiaryError:
            raise
        except Exception as error:  # whatever a module of somebody else's raises
            first = (str(error) or type(error).__name__).splitlines()[0]
            if any(p.dtype == torch.float64 for p in self.victim.parameters()):
                said = f"the victim's weights are float64, the data float32 ({first}); call module.float()"
                raise InvalidInput(said) from error
            given = ", ".join(f"{k} {v}" for k, v in data.describe().items() if isinstance(v, int))
            raise InvalidInput(
                f"the victim cannot be called on the {name} ({first}; they have {given}); give data it was made for, or say "
                "how it is called with Victim(..., forward=lambda module, batch: ...)"
            ) from error
        if not bool(logits.isfinite().all()):
            raise InvalidInput("the victim's outputs hold NaN or infinite values; load sound weights")
        if logits.shape[1] < data.n_classes:
            two = "; if its output is a logit, give two with forward=lambda m, b: torch.nn.functional.pad(m(b), (1, 0))"
            said = f"the victim knows {logits.shape[1]} classes but the {name} have {data.n_classes}"
            first = "" if bool((data.y == 0).any()) else "; none of them is 0, from which labels are numbered: take 1 off each"
            raise InvalidInput(said + (two if logits.shape[1] == 1 else first))
        if self.has("clean"):
            self._doubt()
        more = tuple(f"output {c}" for c in range(data.n_classes, logits.shape[1]))
        return self.but(clean=replace(self.clean, classes=self.clean.classes + more)) if more and self.has("clean") else self

    def _doubt(self) -> None:
        """A warning where the victim knows next to nothing of the clean data: mostly it is fed otherwise than in training."""
        clean = self.clean
        held = len(clean.y.unique())
        right = float((self.victim.predict(clean.inputs).argmax(1) == clean.y).double().mean())
        if len(clean) >= 2 * held and right <= max(1 / held, min(0.25, 5 / held)):
            warn_once(
                f"the victim calls only {right:.0%} of the {len(clean)} clean samples right: are inputs prepared as in its "
                "training (normalisation?), and labels numbered as its outputs? If not, no result will mean anything"
            )

    def traces(self) -> dict[str, str]:
        """A mark of everything that a method must leave as it was, by name: the data, and the victim's parameters."""
        found = {n: self._all[n].fingerprint() for n in ("train", "clean", "incoming") if self._all[n] is not None}
        if self._all["victim"] is not None:
            digest = hashlib.blake2b(digest_size=16)
            for p in self.victim.parameters():  # buffers may change where a module only answers
                digest.update(p.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
            found["victim"] = digest.hexdigest()
        return found

    def unchanged(self, before: dict[str, str], who: str) -> None:
        """Raises BrokenContract where `traces` tells otherwise."""
        if changed := [name for name, mark in self.traces().items() if before[name] != mark]:
            raise BrokenContract(f"{who} changed the {' and '.join(changed)} that it was given; let it work on a clone")

    @property
    def modality_name(self) -> str:
        held = next(v for v in self._all.values() if isinstance(v, Victim | Dataset))
        return held.modality.name
