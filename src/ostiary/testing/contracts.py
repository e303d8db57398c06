"""The executable pact: call `check_attack(MyAttack())` and the like in your own tests.

Every check builds its own toy data for each modality the component claims and raises AssertionError with a sentence
that says which promise was broken. Slow settings make slow checks: pass a component with small ones.
"""

from __future__ import annotations

import json
from functools import partial

import torch
from torch import Tensor

from ostiary.attacks.base import Attack, Poisoned, RateAttack
from ostiary.attacks.select import Random
from ostiary.component import Component, build
from ostiary.context import Context
from ostiary.data.dataset import Splits
from ostiary.detectors.base import Detector, Findings
from ostiary.errors import Unsupported
from ostiary.evidence import Evidence
from ostiary.explainers.base import Attribution, Explainer
from ostiary.modality.base import Inputs
from ostiary.modality.graphs import Graphs
from ostiary.modality.nodes import Nodes
from ostiary.models.base import Architecture
from ostiary.models.victim import Victim
from ostiary.purifiers.base import Purifier
from ostiary.testing import toys
from ostiary.testing.promises import (
    carry_out,
    claimed,
    close,
    equal,
    findings,
    needs_all,
    one_per_class,
    one_sample,
    promise,
    refuses,
    reloaded,
    tensors,
    traces,
    twice,
    unclaimed,
    works_or_refuses,
)
from ostiary.training.trainer import Trainer
from ostiary.triggers.base import Trigger


def check_attack(attack: Attack, splits: Splits | None = None) -> None:
    """Poison is exact, seeded, valid, per sample, and leaves everything else alone. `splits`: default toy data."""
    _check_spec(attack)
    for data in [splits] if splits else [toys.splits(m) for m in claimed(attack)]:
        modality = data.modality.name
        before = data.fingerprint()
        first, second = twice(attack, partial(carry_out, attack, data, toys.context(modality)))
        promise(data.fingerprint() == before, attack, "changed the splits it was given")
        promise(equal(tensors(first), tensors(second)), attack, "gives other poison for the same seed")
        promise(first.trigger == second.trigger, attack, "gives another trigger for the same seed")
        _check_poisoned(attack, data, first)
        _check_trigger(attack, first, data)
        carry_out(attack, data, toys.context(modality, odd=True))
        few = one_per_class(data)
        heavy = attack.replace(rate=1.0) if isinstance(attack, RateAttack) else attack
        works_or_refuses(attack, "on one sample per class", heavy.poison, few, toys.context(modality))
        works_or_refuses(attack, "without an architecture", attack.poison, data, Context())
    for other in unclaimed(attack):
        refuses(attack, f"{other} data", Unsupported, attack.poison, toys.splits(other), toys.context(other))


def check_detector(detector: Detector) -> None:
    """Finite scores of the right length, seeded, from the evidence it declares to need and without a trace on it."""
    _check_spec(detector)
    for modality in claimed(detector):
        for odd in (False, True):
            held, ctx = toys.evidence(modality, odd=odd), toys.context(modality, odd=odd)
            if odd and detector.refuse(held.only(detector.needed(), detector.name)):
                continue
            before = traces(held)
            first, second = twice(detector, partial(detector.inspect, held, ctx))
            promise(traces(held) == before, detector, "changed the evidence it was given")
            promise(findings(first) == findings(second), detector, "gives other findings for the same seed")
            _check_findings(detector, held, first)
        needs_all(detector, detector.needed(), modality, detector.inspect)
        few = one_sample(toys.evidence(modality))
        works_or_refuses(detector, "on one sample", detector.inspect, few, toys.context(modality))
    for other in unclaimed(detector):
        refuses(detector, f"{other} data", Unsupported, detector.inspect, toys.evidence(other), toys.context(other))


def check_purifier(purifier: Purifier) -> None:
    """A new victim whose weights can be saved and loaded again; seeded; the given victim and data stay untouched."""
    _check_spec(purifier)
    for modality in claimed(purifier):
        for odd in (False, True):
            held, ctx = toys.evidence(modality, odd=odd), toys.context(modality, odd=odd)
            if odd and purifier.refuse(held.only(purifier.needed(), purifier.name)):
                continue
            before = traces(held)
            first, second = twice(purifier, partial(purifier.purify, held, ctx))
            promise(traces(held) == before, purifier, "changed the victim or the data it was given")
            promise(equal(first.state_dict(), second.state_dict()), purifier, "gives other weights for the same seed")
            _check_purified(purifier, held, first, ctx)
        promise("incoming" not in purifier.needed(), purifier, "needs incoming inputs, which no run can give a purifier")
        needs_all(purifier, purifier.needed(), modality, purifier.purify)
        few = one_sample(toys.evidence(modality))
        works_or_refuses(purifier, "on one sample", purifier.purify, few, toys.context(modality))
    for other in unclaimed(purifier):
        refuses(purifier, f"{other} data", Unsupported, purifier.purify, toys.evidence(other), toys.context(other))


def check_explainer(explainer: Explainer) -> None:
    """Finite scores of the shape of the inputs, seeded, for any forward; victim and inputs stay untouched."""
    _check_spec(explainer)
    for modality in claimed(explainer):
        for odd in (False, True):
            held, ctx = toys.evidence(modality, odd=odd), toys.context(modality, odd=odd)
            victim, clean = held.victim, toys.splits(modality).clean
            before = traces(held)
            for inputs in (clean.inputs, clean.take(torch.tensor([0])).inputs):
                first, second = twice(explainer, partial(explainer.explain, victim, inputs, ctx))
                promise(equal(tensors(first), tensors(second)), explainer, "gives other scores for the same seed")
                _check_attribution(explainer, inputs, first)
            promise(traces(held) == before, explainer, "changed the victim or the inputs it was given")
    for other in unclaimed(explainer):
        far, inputs = toys.victim(other), toys.splits(other).clean.inputs
        refuses(explainer, f"{other} data", Unsupported, explainer.explain, far, inputs, toys.context(other))


def check_architecture(arch: Architecture, splits: Splits | None = None) -> None:
    """Seeded victims with logits, features and layers, each input judged apart from its batch. `splits`: default toys."""
    _check_spec(arch)
    for name in arch.modalities:
        build("trainer", {**arch.training([name]), "name": "trainer"})
    for data in [splits] if splits else [toys.splits(m) for m in claimed(arch)]:
        victim, again = twice(arch, partial(arch.make, data.train, 0))
        promise(equal(victim.state_dict(), again.state_dict()), arch, "starts from other weights for the same seed")
        promise(not equal(victim.state_dict(), arch.make(data.train, 1).state_dict()), arch, "ignores the seed")
        Trainer(epochs=1).fit(victim, data.train, 0)
        idle = [n for n, p in victim.module.named_parameters() if p.requires_grad and p.grad is None]
        promise(not idle, arch, f"has parameters that training does not reach: {', '.join(idle)}")
        n = len(data.clean)
        logits, features = victim.embed(data.clean.inputs)
        promise(tuple(logits.shape) == (n, data.train.n_classes), arch, f"gave logits of shape {tuple(logits.shape)}")
        promise(features.ndim == 2 and len(features) == n, arch, "has no features per input")
        promise(bool(torch.isfinite(logits).all()), arch, "gave logits that are not finite")
        alone = victim.predict(data.clean.take(torch.tensor([n - 1])).inputs)
        promise(torch.allclose(alone[0], logits[-1], atol=1e-4), arch, "judges an input by the batch it is in")
        batch = data.clean.inputs
        promise(len(victim.layers(batch)[1]) > 0, arch, "names no stages")
        if isinstance(batch, Graphs | Nodes):
            whole = batch.with_(edge_weight=torch.ones(batch.edge_index.shape[1]))
            promise(torch.allclose(victim.predict(whole), logits, atol=1e-4), arch, "changes by edge weights of one")
    for other in unclaimed(arch) if arch.modalities else ():
        refuses(arch, f"{other} data", Unsupported, arch.make, toys.splits(other).train, 0)


# what is checked


def _check_spec(part: Component) -> None:
    spec = part.spec()
    part.label()  # which decodes its presets, too
    promise(json.loads(json.dumps(spec)) == spec, part, "has a spec that JSON changes")
    if part.name:  # parts that are not registered cannot be built by name
        promise(build(part.kind, spec) == part, part, "is not rebuilt from its spec")


def _check_poisoned(attack: Attack, clean: Splits, poisoned: Poisoned) -> None:
    train, index, modality = poisoned.splits.train, poisoned.index, clean.modality
    modality.validate(train.inputs, f"{attack.name}: training set")
    modality.validate(poisoned.triggered.inputs, f"{attack.name}: triggered inputs")
    promise(len(train) == len(clean.train), attack, "changed the size of the training set")
    promise(len(index) == len(set(index.tolist())), attack, "poisoned a row twice")
    rest = torch.ones(len(train), dtype=torch.bool)
    rest[index] = False
    at = rest.nonzero().flatten()
    promise(train.take(at).fingerprint() == clean.train.take(at).fingerprint(), attack, "changed rows outside its index")
    for part in ("test", "clean"):
        same = getattr(poisoned.splits, part).fingerprint() == getattr(clean, part).fingerprint()
        promise(same, attack, f"changed the {part} part")
    sources, marked = clean.test.take(poisoned.rows), poisoned.triggered
    promise(len(set(poisoned.rows.tolist())) == len(marked) > 0, attack, "stamped a test input twice, or none")
    promise(not bool((sources.y == marked.y).any()), attack, "stamped test inputs that already carry the wanted label")
    promise(torch.equal(sources.ids, marked.ids), attack, "mixed up the rows of its triggered inputs")
    if isinstance(attack, RateAttack):
        eligible = attack.labels.eligible(clean.train.y, attack.target)
        n = min(attack.asked(clean), int(eligible.sum()))
        fewer = 0 < len(index) < n and not isinstance(attack.select, Random) and bool(poisoned.doubts)  # and says so
        promise(len(index) == n or fewer, attack, f"poisoned {len(index)} samples, expected exactly {n}")
        promise(bool(eligible[index].all()), attack, "poisoned rows its label rule does not allow")
        wanted = attack.labels.wanted(clean.train.y[index], attack.target, train.n_classes)
        promise(torch.equal(train.y[index], wanted), attack, "gave poisoned rows other labels than its rule wants")


def _check_trigger(attack: Attack, poisoned: Poisoned, clean: Splits) -> None:
    """What an input becomes depends on the input, its id and the seed alone; the trigger survives being saved."""
    rows, goal, modality = clean.test.take(poisoned.rows), poisoned.triggered.y, clean.modality
    spec, state = poisoned.trigger.pack()
    saved = Trigger.unpack(json.loads(json.dumps(spec)), state)

    def stamped(trigger: Trigger, at: Tensor) -> dict[str, Tensor]:
        part = rows.take(at)
        before = part.fingerprint()
        found = modality.pack(trigger.apply(part.inputs, part.ids, seed=7, target=goal[at]))
        promise(part.fingerprint() == before, attack, "has a trigger that changes the inputs it is given")
        return found

    everything = torch.arange(len(rows))
    whole = stamped(poisoned.trigger, everything)
    promise(equal(whole, stamped(saved, everything)), attack, "has a trigger that is another one after saving")
    for at, what in ((everything.flip(0), "the order"), (everything[:1], "the rest")):
        apart, expected = stamped(poisoned.trigger, at), modality.pack(modality.take(modality.unpack(whole), at))
        same = equal(apart, expected) if not state else close(apart, expected)
        promise(same, attack, f"has a trigger whose effect on an input depends on {what} of its batch")


def _check_findings(detector: Detector, held: Evidence, found: Findings) -> None:
    n = held.train.n_classes  # the rest `inspect` has looked at
    promise(
        detector.subject() != "model" or len(found.scores) == n, detector, f"gave {len(found.scores)} scores of {n} classes"
    )
    promise(set(found.classes) <= set(range(n)), detector, "suspects classes that do not exist")
    json.dumps(found.info)


def _check_purified(purifier: Purifier, held: Evidence, found: Victim, ctx: Context) -> None:
    train = held.train
    shared = {p.data_ptr() for p in held.victim.parameters()} & {p.data_ptr() for p in found.parameters()}
    promise(not shared, purifier, "returned a victim that shares weights with the given one")
    logits = found.predict(train.inputs)
    promise(logits.shape[1] == train.n_classes, purifier, "changed the number of classes")
    promise(bool(torch.isfinite(logits).all()), purifier, "returned a victim whose logits are not finite")
    json.dumps(found.notes)
    again = reloaded(purifier, purifier.rebuild(ctx.fresh(train)), found)
    same = torch.equal(again.predict(train.inputs), logits)
    promise(same, purifier, "returned a victim that is another one after saving (see Purifier.rebuild)")


def _check_attribution(explainer: Explainer, inputs: Inputs, found: Attribution) -> None:
    if isinstance(inputs, Graphs):
        sizes = {"nodes": (len(inputs.x),), "edges": (inputs.edge_index.shape[1],), "features": tuple(inputs.x.shape)}
    else:
        sizes = {"pixels": (len(inputs), *inputs.shape[2:])}
    scores = tensors(found)
    if found.losses is not None:
        sizes["losses"] = (len(found.losses), len(inputs))
    promise(bool(scores) and set(scores) <= set(sizes), explainer, f"must score some of {', '.join(sizes)}")
    for name, values in scores.items():
        promise(tuple(values.shape) == sizes[name], explainer, f"gave {name} of shape {tuple(values.shape)}")
        promise(bool(torch.isfinite(values).all()), explainer, f"gave {name} that are not finite")
