"""The contract of a purifier: evidence in, a new victim out."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Literal, final

import torch

from ostiary.component import Component, NonNegative, Positive, PositiveFloat, who
from ostiary.console import log
from ostiary.context import Context
from ostiary.data.dataset import Dataset
from ostiary.devices import plain_defaults
from ostiary.errors import BrokenContract, Diverged, InvalidInput, Unsupported
from ostiary.evidence import Evidence
from ostiary.models.polarized import before_polarizing
from ostiary.models.victim import Victim
from ostiary.training.budget import at_least
from ostiary.training.trainer import Trainer

BROKEN = 0.1  # accuracy lost on samples that were trained on, from which a result is warned of
UNTRAINABLE = (
    "the model's answers pass no gradient to its weights; call the module that `forward` is given, without torch.no_grad()"
)
SMALL = 16  # images of which BatchNorm still gets usable statistics


class Batches(Component):
    """How many samples an update sees."""

    kind = "purifier"
    batch_size: Positive = 64

    def per_batch(self, data: Dataset) -> int:
        return self.batch_size


class FineTuning(Batches):
    """How weights are fine-tuned on clean samples. Where not set: on graphs Adam at 5e-3 with BatchNorm statistics frozen
    (the strongest plain setting in our own runs), on nodes the same, on images SGD at 0.01 that falls along a cosine, with
    statistics that follow (BackdoorBench; the former destroys small image networks), both without weight decay (there: 5e-4).
    Images are augmented as by the model's own trainer, as there, and computed in bf16 where it does so; methods that put
    patches on augment nothing, at a constant rate. Nodes of one graph are always trained on all at once.

    batches: on images, how many batches an epoch has at least, as long as one holds SMALL images (0: no number); few large
    updates do not forget a trigger (90 digits, seeds 10 and 11: TSBD left 46 and 17 % of a patch's success in batches of
    64, 0.4 and 0 in those of 16; fine-pruning and NAD gain too, unlearning of patches does not). 384 images have it anyway.
    """

    added = frozenset({"batches"})
    optimizer: Literal["adam", "sgd"] | None = None
    lr: PositiveFloat | None = None
    freeze_norms: bool | None = None
    batches: NonNegative = 6

    def per_batch(self, data: Dataset) -> int:
        if data.modality.name == "node":
            return 2**20
        if data.modality.name != "image" or not self.batches:
            return self.batch_size
        return min(self.batch_size, max(SMALL, len(data) // self.batches))

    def trainer(self, ctx: Context, data: Dataset, epochs: int) -> Trainer:
        """For so many epochs of these samples. What leaves an image in its class (digits must not be flipped), the trainer of
        `ctx` knows."""
        modality = data.modality.name
        graph = modality in ("graph", "node")
        optimizer = self.optimizer or ("adam" if graph else "sgd")
        lr = self.lr or (0.005 if optimizer == "adam" else 0.01)
        frozen = graph if self.freeze_norms is None else self.freeze_norms
        own = Trainer(optimizer=optimizer, lr=lr, epochs=epochs, batch_size=self.per_batch(data), freeze_norms=frozen)
        return as_images(own.replace(schedule="cosine"), ctx) if modality == "image" else own


def as_images(trainer: Trainer, ctx: Context) -> Trainer:
    """Images are augmented as by the trainer of the model itself, and computed in bf16 where it does so."""
    return trainer.replace(augment=ctx.trainer.augment, bf16=ctx.trainer.bf16)


class Budget(Batches):
    """How long a method trains: `epochs` passes over the clean samples or, where `steps` is not 0, as many passes as hold that
    many optimiser steps, which on few samples are more; `epochs` says nothing then."""

    epochs: Positive = 20
    steps: NonNegative = 0

    def passes(self, data: Dataset) -> int:
        """Epochs over these samples."""
        return at_least(1, self.steps, len(data), self.per_batch(data)) if self.steps else self.epochs


class Purifier(Component):
    """`needs`: names of Evidence fields; the defaults suit purifiers of a given model.

    What needs `train` but no `victim` is a training-time defence: it returns a model of its own (`ctx.fit`). What returns
    the given model behind a screen or a vote (`models.screened`, `models.votes`) is a test-time defence.
    """

    kind = "purifier"
    modalities: ClassVar[frozenset[str]] = frozenset({"graph", "image"})
    needs: ClassVar[frozenset[str]] = frozenset({"victim", "clean"})
    trains: ClassVar[bool] = True  # on the clean samples, so that it would unlearn a class of which there are none

    def needed(self) -> frozenset[str]:
        """Names of the Evidence fields it needs, with the options of this purifier."""
        return self.needs

    @final
    @plain_defaults()
    def purify(self, evidence: Evidence, ctx: Context) -> Victim:
        """A new victim; the given one is left as it is. Raises Unsupported or InvalidInput before work starts."""
        held = evidence.only(self.needed(), f"purifier '{self.name}'")
        if held.modality_name not in self.modalities:
            raise Unsupported(f"purifier '{self.name}' not applicable: it works on {', '.join(sorted(self.modalities))} data")
        held = held.checked()
        if held.has("victim", "clean"):
            self._fits(held.victim, held.clean)
        reason = self.refuse(held)
        if reason:
            raise Unsupported(f"purifier '{self.name}' not applicable: {reason}")
        frozen = _frozen(held.victim) if held.has("victim") else set()
        if frozen:  # a model handed out for use only; what purifies it trains all of it
            held = held.but(victim=_let_train(held.victim.clone(), frozen, True))
        if held.has("victim") and (held.victim.notes or held.victim.trial):  # of an earlier purifier
            held = held.but(victim=held.victim.unmarked())
        before = held.traces()
        victim = self.cleanse(held, ctx)
        held.unchanged(before, who(self))
        if not isinstance(victim, Victim):
            raise BrokenContract(
                f"{who(self)} gave {type(victim).__name__}, expected a Victim; let `cleanse` return the mended clone"
            )
        _let_train(victim, frozen, False)
        victim.eval()
        if self.trains and held.has("victim", "clean"):
            self._look(held.victim, victim, held.clean)
        return victim

    def _look(self, before: Victim, after: Victim, clean: Dataset) -> None:
        """What the defender's own samples say of the result: noted, warned of where it is plainly broken. Raises Diverged."""
        logits = after.predict(clean.inputs)
        if not bool(logits.isfinite().all()):
            raise Diverged(f"purifier '{self.name}' left a model whose outputs are not finite; try a lower rate, or another")
        was, now = (float((said.argmax(1) == clean.y).double().mean()) for said in (before.predict(clean.inputs), logits))
        after.notes["accuracy on its clean samples"] = {"before": was, "after": now}
        said = logits.argmax(1).unique().tolist()
        one = f", and it says '{clean.classes[said[0]]}' of all of them" if len(said) == 1 < len(clean.y.unique()) else ""
        if one or was - now > BROKEN:
            log.warning(
                f"purifier '{self.name}': accuracy on the {len(clean)} clean samples it was given went from {100 * was:.1f} to "
                f"{100 * now:.1f} %{one}; do not use this model, try another purifier or more samples"
            )

    def refuse(self, evidence: Evidence) -> str:
        """Why the method cannot work on this evidence, or nothing; asked before work starts."""
        return ""

    def rebuild(self, victim: Victim) -> Victim:
        """An untrained victim with the layers this method adds, to load purified weights into; adds none by default."""
        return victim

    @abstractmethod
    def cleanse(self, evidence: Evidence, ctx: Context) -> Victim:
        """The method itself; works on a clone of the victim."""

    def _fits(self, victim: Victim, clean: Dataset) -> None:
        if len(clean) < 2:
            raise InvalidInput(f"purifier '{self.name}' needs at least 2 clean samples, got {len(clean)}; give more")
        absent = sorted(set(range(clean.n_classes)) - set(clean.y.tolist()))
        if absent and self.trains:
            names = ", ".join(f"'{clean.classes[c]}'" for c in absent)
            raise InvalidInput(
                f"purifier '{self.name}' needs clean samples of every class, or it would unlearn the others; the "
                f"{len(clean)} given have none of {names}; give at least one of each{self._unused(clean, absent)}"
            )
        if self.trains and not victim.learns(clean.take(torch.tensor([0])).inputs):
            raise Unsupported(f"purifier '{self.name}' not applicable: {UNTRAINABLE}")

    def _unused(self, clean: Dataset, absent: list[int]) -> str:
        """A way out where a module has outputs beyond all labels."""
        beyond = [c for c in absent if clean.classes[c] == f"output {c}"]
        said = ", or leave out outputs that no class has, by a forward that gives the "
        if absent == [0]:
            return f"{said}columns from 1 on, and take 1 off each label"
        return f"{said}first {absent[0]} columns" if beyond == absent and absent[0] > 1 else ""


def _frozen(victim: Victim) -> set[str]:
    return {name for name, p in victim.module.named_parameters() if not p.requires_grad}


def _let_train(victim: Victim, names: set[str], flag: bool) -> Victim:
    for name, p in victim.module.named_parameters():
        if {name, before_polarizing(victim.module, name)} & names and p.is_floating_point():
            p.requires_grad_(flag)
    return victim


def emptied(before: Dataset, after: Dataset) -> str:
    """Names of the classes that have samples in `before` and none in `after`."""
    counts = [torch.bincount(data.y, minlength=before.n_classes) for data in (before, after)]
    return ", ".join(before.classes[c] for c in ((counts[0] > 0) & (counts[1] == 0)).nonzero().flatten().tolist())
