"""What the contracts share: running twice, comparing, refusing, and leaving no trace."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from typing import Any, TypeVar

import torch
from safetensors.torch import load, save
from torch import Tensor

from ostiary.attacks.base import Attack, Poisoned
from ostiary.component import Component, who
from ostiary.context import Context
from ostiary.data.dataset import Dataset, Splits
from ostiary.detectors.base import Findings
from ostiary.errors import BrokenContract, MissingEvidence, OstiaryError
from ostiary.evidence import Evidence
from ostiary.explainers.base import Attribution
from ostiary.models.victim import Victim
from ostiary.seeds import scoped
from ostiary.testing import toys

T = TypeVar("T")


def promise(kept: bool, part: Component, broken: str) -> None:
    if not kept:
        raise AssertionError(f"{who(part)} {broken}")


def twice(part: Component, make: Callable[[], T]) -> tuple[T, T]:
    """`make` under two states of torch's global generator, which it may neither use nor move."""
    found = []
    for state in (1, 2):
        with scoped(state, "contract"):
            before = torch.get_rng_state()
            try:
                found.append(make())
            except BrokenContract as error:
                raise AssertionError(str(error)) from error
            still = torch.equal(before, torch.get_rng_state())
        promise(still, part, "draws from torch's global generator; use ctx.rng(...) or seeds.scoped(...)")
    return found[0], found[1]


def refuses(part: Component, what: str, error: type[OstiaryError], call: Callable[..., object], *args: object) -> None:
    try:
        call(*args)
    except error:
        return
    except Exception as other:
        raise AssertionError(f"{part.kind} '{part.name}' must refuse {what} with {error.__name__}") from other
    raise AssertionError(f"{part.kind} '{part.name}' must refuse {what} with {error.__name__}, but took it")


def works_or_refuses(part: Component, when: str, call: Callable[..., object], *args: object) -> None:
    """Small input either works or is refused in one sentence."""
    try:
        call(*args)
    except OstiaryError:
        return
    except Exception as error:
        raise AssertionError(f"{part.kind} '{part.name}' fails {when} with a bare {type(error).__name__}: {error}") from error


def needs_all(part: Component, needs: Iterable[str], modality: str, call: Callable[[Evidence, Context], object]) -> None:
    """Every piece of evidence a method declares to need is missed when it is not there."""
    held = toys.evidence(modality)
    for name in sorted(needs):
        less = held.but(**{name: None})
        refuses(part, f"evidence without {name}", MissingEvidence, call, less, toys.context(modality))


def claimed(part: Any) -> list[str]:
    """The modalities a part says it serves; all must have toy data."""
    promise(bool(part.modalities), part, "claims no modality; pass splits=")
    strange = sorted(set(part.modalities) - set(toys.MODALITIES))
    promise(not strange, part, f"claims {', '.join(strange)}, for which there are no toy data; pass splits=")
    return sorted(part.modalities)


def unclaimed(part: Any) -> list[str]:
    return sorted(set(toys.MODALITIES) - set(part.modalities))


def carry_out(attack: Attack, data: Splits, ctx: Context) -> Poisoned:
    """Poison and, where the attack touches training, train and settle."""
    poisoned = attack.poison(data, ctx)
    if poisoned.hook is None:
        return poisoned
    ctx.fit(poisoned.splits.train, [poisoned.hook])
    return attack.settle(data, poisoned, ctx)


def reloaded(part: Component, fresh: Victim, found: Victim) -> Victim:
    """`fresh` with the weights of `found`, by way of a saved file."""
    saved = save({k: v.contiguous().clone() for k, v in found.module.state_dict().items()})
    try:
        fresh.module.load_state_dict(load(saved))
    except RuntimeError as error:
        raise AssertionError(f"{part.kind} '{part.name}' gives weights that rebuild() has no place for: {error}") from error
    return fresh


def one_per_class(data: Splits) -> Splits:
    """The first sample of every class in each part."""

    def first(part: Dataset) -> Dataset:
        return part.take(torch.tensor([part.y.tolist().index(c) for c in sorted(set(part.y.tolist()))]))

    return Splits(first(data.train), first(data.test), first(data.clean))


def one_sample(held: Evidence) -> Evidence:
    """The same evidence with one row of everything."""
    row = torch.tensor([0])
    parts = {name: getattr(held, name).take(row) for name in ("train", "clean", "incoming")}
    return held.but(**parts)


def tensors(found: Poisoned | Attribution) -> dict[str, Tensor]:
    """Everything in a result, by name."""
    if isinstance(found, Attribution):
        return {f.name: getattr(found, f.name) for f in fields(found) if getattr(found, f.name) is not None}
    train, marked, pack = found.splits.train, found.triggered, found.splits.modality.pack
    flat = {"index": found.index, "rows": found.rows, "y": train.y, "wanted": marked.y, **found.trigger.state}
    return (
        flat
        | {f"train.{k}": v for k, v in pack(train.inputs).items()}
        | {f"test.{k}": v for k, v in pack(marked.inputs).items()}
    )


def findings(found: Findings) -> tuple[object, ...]:
    """Findings in a form that compares."""
    flagged = None if found.flagged is None else found.flagged.tolist()
    return found.scores.tolist(), flagged, found.classes, json.dumps(found.info, default=str)


def equal(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def close(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    if a.keys() != b.keys() or any(a[k].shape != b[k].shape for k in a):
        return False
    return all(torch.allclose(a[k].double(), b[k].double(), atol=1e-5) for k in a)


def traces(held: Evidence) -> tuple[object, ...]:
    """All that a method could leave behind: on the data and on the victim's weights, gradients, modes and hooks."""
    data: Iterable[Dataset] = (d for d in (held.train, held.clean, held.incoming) if d is not None)
    return (*(d.fingerprint() for d in data), *(_traces_on(held.victim) if held.victim else ()))


def _traces_on(victim: Victim) -> tuple[object, ...]:
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(victim.state_dict().items()):
        digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    flags = [(p.requires_grad, p.grad is None) for p in victim.parameters()]
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in victim.modules()]
    return digest.hexdigest(), str(flags), str(hooks), str([m.training for m in victim.modules()]), str(victim.notes)
