"""The executable pact catches those who break it: one culprit per promise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ostiary.attacks.badnets import BadNets
from ostiary.attacks.base import Attack, Poisoned, PoisoningAttack
from ostiary.context import Context
from ostiary.data.dataset import Dataset, Splits
from ostiary.detectors.base import Detector, Findings
from ostiary.errors import Diverged, MissingEvidence
from ostiary.evidence import Evidence
from ostiary.explainers.base import Attribution, Explainer
from ostiary.models.base import Architecture
from ostiary.models.victim import Victim
from ostiary.purifiers.base import Purifier
from ostiary.seeds import scoped
from ostiary.testing import contracts, toys
from ostiary.triggers.pixels import Patch
from ostiary.triggers.subgraph import Subgraph

IMAGE = frozenset({"image"})


class Culprit(Attack):
    """BadNets, with one thing done wrong."""

    modalities = IMAGE
    controls = frozenset({"data"})
    how: str = ""

    def craft(self, splits: Splits, ctx: Context) -> Poisoned:
        made = BadNets().craft(splits, ctx)
        first, train = torch.tensor([0]), made.splits.train
        if self.how == "edits in place":
            splits.train.inputs[int(made.index[0])] = 0.5
        parts, fields = {}, {}
        if self.how == "touches other rows":
            rest = next(i for i in range(len(train)) if i not in made.index.tolist())
            parts["train"] = train.put(torch.tensor([rest]), torch.zeros_like(train.inputs[:1]))
        elif self.how == "touches the test part":
            parts["test"] = made.splits.test.put(first, torch.zeros_like(train.inputs[:1]))
        elif self.how == "adds rows":
            parts["train"] = train.take(torch.cat([torch.arange(len(train)), first]))
        elif self.how == "leaves the range":
            parts["train"] = replace(train, inputs=train.inputs * 2)
        elif self.how == "names a row twice":
            fields["index"] = torch.cat([made.index, made.index[:1]])
        elif self.how == "counts targets":
            marked = replace(splits.test, y=torch.zeros(len(splits.test), dtype=torch.int64))
            fields |= {"rows": torch.arange(len(marked)), "triggered": marked}
        elif self.how == "mixes up rows":
            fields["rows"] = made.rows.flip(0)
        elif self.how == "is not seeded":
            fields["triggered"] = replace(made.triggered, inputs=torch.rand(made.triggered.inputs.shape))
        return replace(made, **fields, splits=replace(made.splits, **parts))


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("touches other rows", "changed rows outside its index"),
        ("touches the test part", "changed the test part"),
        ("adds rows", "changed the size of the training set"),
        ("names a row twice", "poisoned a row twice"),
        ("counts targets", "already carry the wanted label"),
        ("mixes up rows", "mixed up the rows"),
        ("edits in place", "changed the data that it was given"),
        ("is not seeded", "draws from torch's global generator"),
    ],
)
def test_attacks(how: str, words: str) -> None:
    data = toys.splits("image")
    own = Splits(*(replace(p, inputs=p.inputs.clone()) for p in (data.train, data.test, data.clean)))
    with pytest.raises(AssertionError, match=f"attack 'Culprit' .*{words}"):
        contracts.check_attack(Culprit(how=how), own)


def test_an_honest_attack_passes() -> None:
    contracts.check_attack(Culprit())


def test_invalid_poison_is_caught_by_the_modality() -> None:
    with pytest.raises(ValueError, match=r"pixels must lie in \[0, 1\]"):
        contracts.check_attack(Culprit(how="leaves the range"))


class BadTrigger(Patch):
    how: str = ""

    def apply(self, inputs: Tensor, ids: Tensor, *, seed: int, target: Tensor) -> Tensor:
        if self.how == "in place":
            inputs[:, :, 0, 0] = 1.0
        if self.how == "batch":
            return (inputs + inputs.mean(0, keepdim=True)).clamp(max=1)
        if self.how == "order":
            place = torch.arange(len(inputs)).view(-1, 1, 1, 1) / len(inputs)
            return (inputs + place).clamp(max=1)
        return super().apply(inputs, ids, seed=seed, target=target)


class WithTrigger(PoisoningAttack):
    modalities = IMAGE
    how: str = ""

    def make_trigger(self, train: Dataset, ctx: Context) -> BadTrigger:
        return BadTrigger(how=self.how)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("in place", "changes the inputs it is given"),
        ("batch", "depends on the (order|rest)"),
        ("order", "depends on the order"),
    ],
)
def test_triggers(how: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    attack, data = WithTrigger(how=how), toys.splits("image")
    own = Splits(*(replace(p, inputs=p.inputs.clone()) for p in (data.train, data.test, data.clean)))
    made = attack.poison(own, Context())
    monkeypatch.setattr("ostiary.testing.contracts.Trigger.unpack", lambda spec, state: made.trigger)  # its class has no name
    with pytest.raises(AssertionError, match=words):
        contracts._check_trigger(attack, made, own)


def test_triggers_that_do_not_survive_saving(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trigger that keeps what it learnt outside its fields."""
    attack, data = BadNets(), toys.splits("image")
    made = attack.poison(data, Context())
    monkeypatch.setattr("ostiary.testing.contracts.Trigger.unpack", lambda spec, state: Patch(size=2))
    with pytest.raises(AssertionError, match="another one after saving"):
        contracts._check_trigger(attack, made, data)


class Guesser(Detector):
    modalities = IMAGE
    needs = frozenset({"victim", "train"})
    about = "train"
    how: str = ""

    def examine(self, evidence: Evidence, ctx: Context) -> Findings:
        n = len(evidence.train)
        scores = torch.arange(float(n))
        if self.how == "short":
            scores = scores[1:]
        if self.how == "nan":
            scores[3] = float("nan")
        if self.how == "random":
            scores = torch.rand(n)
        if self.how == "gradients":
            evidence.victim(evidence.train.inputs[:2]).sum().backward()
        if self.how == "hook":
            evidence.victim.module.register_forward_hook(lambda *_: None)
        if self.how == "mode":
            evidence.victim.train()
        flagged = scores > 3 if self.how != "soft flags" else scores / n
        classes = (99,) if self.how == "no such class" else ()
        return Findings(scores, flagged, classes)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("short", r"gave scores of shape \(95,\), expected \(96,\)"),
        ("nan", "gave scores that are not finite"),
        ("random", "draws from torch's global generator"),
        ("gradients", "changed the evidence"),
        ("hook", "changed the evidence"),
        ("mode", "changed the evidence"),
        ("soft flags", "must flag with bools"),
        ("no such class", "suspects classes that do not exist"),
    ],
)
def test_detectors(how: str, words: str) -> None:
    with pytest.raises(AssertionError, match=f"detector 'Guesser' ({words})"):
        contracts.check_detector(Guesser(how=how))


def test_an_honest_detector_passes() -> None:
    contracts.check_detector(Guesser())


def test_needs_must_be_declared() -> None:
    """A detector that works without what it says it needs, or needs what it does not say."""

    class Greedy(Guesser):
        needs = frozenset({"train"})

        def examine(self, evidence: Evidence, ctx: Context) -> Findings:
            return Findings(evidence.victim.predict(evidence.train.inputs).amax(1))

    with pytest.raises(MissingEvidence, match="holds no victim; give it, and name it in the method's `needs`"):
        contracts.check_detector(Greedy())


class Scrubber(Purifier):
    modalities = IMAGE
    how: str = ""

    def cleanse(self, evidence: Evidence, ctx: Context) -> Victim:
        victim = evidence.victim if self.how in ("in place", "shared") else evidence.victim.clone()
        if self.how == "shared":
            victim = Victim(victim.module, "image")
        last = victim.module.get_submodule(victim.head)
        with torch.no_grad():
            if self.how != "shared":
                last.bias.mul_(0.9 if self.how != "random" else float(torch.rand(())))
            if self.how == "nan":
                last.bias.fill_(float("nan"))
        if self.how == "adds a layer":
            with scoped(0, "layer"):
                setattr(victim.module, victim.head, nn.Sequential(last, nn.Linear(4, 4)))
        return victim


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("in place", "changed the victim"),
        ("shared", "shares weights|changed the victim"),
        ("random", "draws from torch's global generator"),
    ],
)
def test_purifiers(how: str, words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        contracts.check_purifier(Scrubber(how=how))


def test_a_purifier_that_leaves_a_broken_model_is_stopped() -> None:
    with pytest.raises(Diverged, match="outputs are not finite"):
        contracts.check_purifier(Scrubber(how="nan"))


def test_purifiers_that_add_layers_must_say_how_to_rebuild_them() -> None:
    with pytest.raises(AssertionError, match=r"gives weights that rebuild\(\) has no place for"):
        contracts.check_purifier(Scrubber(how="adds a layer"))


def test_an_honest_purifier_passes() -> None:
    contracts.check_purifier(Scrubber())


class Oracle(Explainer):
    modalities = IMAGE
    how: str = ""

    def attribute(self, victim: Victim, inputs: Tensor, classes: Tensor, ids: Tensor, ctx: Context) -> Attribution:
        pixels = inputs.mean(1)
        if self.how == "channels":
            pixels = inputs
        if self.how == "nothing":
            return Attribution()
        if self.how == "inputs":
            inputs.zero_()
        return Attribution(pixels=torch.rand_like(pixels) if self.how == "random" else pixels)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("channels", "gave pixels of shape"),
        ("nothing", "must score some of pixels"),
        ("random", "draws from torch's global generator"),
    ],
)
def test_explainers(how: str, words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        contracts.check_explainer(Oracle(how=how))


def test_an_honest_explainer_passes() -> None:
    contracts.check_explainer(Oracle())


class Net(Architecture):
    modalities = IMAGE
    how: str = ""

    def module(self, data: Mapping[str, Any]) -> nn.Module:
        pixels, k = data["channels"] * data["height"] * data["width"], data["classes"]
        net = nn.Sequential(nn.Conv2d(3, 3, 3, 1, 1), nn.ReLU(), nn.Flatten(), nn.Linear(pixels, k))
        if self.how == "unseeded":
            nn.init.zeros_(net[0].weight)
            nn.init.zeros_(net[0].bias)
            nn.init.zeros_(net[3].weight)
            nn.init.zeros_(net[3].bias)
        if self.how == "batch":
            net.insert(3, BatchMean())
        if self.how == "idle":
            net.register_parameter("spare", nn.Parameter(torch.zeros(3)))
        if self.how == "classes":
            net[3] = nn.Linear(pixels, k + 1)
        return net


class BatchMean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0, keepdim=True)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("unseeded", "ignores the seed"),
        ("batch", "judges an input by the batch it is in"),
        ("idle", "parameters that training does not reach: spare"),
        ("classes", r"gave logits of shape \(16, 5\)"),
    ],
)
def test_architectures(how: str, words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        contracts.check_architecture(Net(how=how))


def test_an_honest_architecture_passes() -> None:
    contracts.check_architecture(Net())


def test_modalities_without_toy_data_need_splits() -> None:
    class Elsewhere(Guesser):
        modalities = frozenset({"sound"})

    with pytest.raises(AssertionError, match="claims sound, for which there are no toy data; pass splits="):
        contracts.check_detector(Elsewhere())


def test_refusals_must_be_of_the_right_kind() -> None:
    class Everywhere(Culprit):
        def poison(self, splits: Splits, ctx: Context) -> Poisoned:  # the base class checks the modality
            return self.craft(splits, ctx)

    with pytest.raises(AssertionError, match="must refuse graph data with Unsupported"):
        contracts.check_attack(Everywhere())


def test_toys_are_fresh_for_every_caller() -> None:
    one, two = toys.victim("graph"), toys.victim("graph")
    assert one is not two
    assert one.module is not two.module
    assert isinstance(toys.poisoned("graph").trigger, Subgraph)
