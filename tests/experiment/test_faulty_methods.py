"""Methods with a fault of their own: each is told in a sentence, and no other stage sees what it did."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ostiary import component, run
from ostiary.attacks.badnets import BadNets
from ostiary.attacks.base import PoisoningAttack
from ostiary.attacks.select import Selector
from ostiary.context import Context
from ostiary.data.dataset import Dataset, Splits
from ostiary.data.source import DataSource
from ostiary.detectors.base import Detector, Findings
from ostiary.errors import BrokenContract
from ostiary.evidence import Evidence
from ostiary.experiment.compute import copied
from ostiary.experiment.record import Record
from ostiary.modality.base import Inputs
from ostiary.models.screened import Screen, screened
from ostiary.models.victim import Victim
from ostiary.purifiers.base import Purifier
from ostiary.testing import toys
from ostiary.training.hooks import TrainHook
from ostiary.training.trainer import TrainState
from ostiary.triggers.pixels import Patch

IMAGE = frozenset({"image"})
PLAN: dict[str, Any] = {
    "dataset": "toy-images",
    "victim": {"name": "preact-resnet", "width": 4, "blocks": [1]},
    "trainer": {"epochs": 1},
    "attack": {"name": "badnets", "rate": 0.2},
    "seeds": [0],
}


@pytest.fixture(autouse=True)
def _own_names() -> Iterator[None]:
    yield
    for key in [k for k, cls in component._registry.items() if cls.__module__ == __name__ and k[1] == "faulty"]:
        del component._registry[key]


def ran(folder: Path, **plan: Any) -> Record:
    return run({**PLAN, **plan}, store=folder)[0]


class Dim(Screen):
    def __init__(self, by: float) -> None:
        super().__init__()
        self.by = by

    def forward(self, batch: Inputs, victim: Victim) -> Inputs:
        return batch * self.by


class Deep(Dim):
    """One with weights."""

    def __init__(self, by: float) -> None:
        super().__init__(by)
        self.more = nn.Linear(1, 1)


def purifier(how: str) -> Purifier:
    class Faulty(Purifier, name="faulty"):
        modalities = IMAGE

        def rebuild(self, victim: Victim) -> Victim:
            return screened(victim, Dim(1.0)) if how == "attribute" else victim

        def cleanse(self, evidence: Evidence, ctx: Context) -> Any:
            clean, own = evidence.clean, evidence.victim.clone()
            if how == "clean":
                clean.inputs.zero_()
                clean.y.copy_(clean.y.flip(0))
            if how == "victim":
                return spoilt(evidence.victim)
            made = {"attribute": Dim, "weights": Deep}.get(how)
            if made is not None:
                return screened(own, made(0.2))
            if how == "notes":
                own.notes["size"] = torch.tensor(3)
            return {"none": None, "module": own.module}.get(how, own)

    return Faulty()


def spoilt(victim: Victim) -> Victim:
    with torch.no_grad():
        for p in victim.parameters():
            p.mul_(-1.0)
    return victim


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("clean", "purifier 'faulty' changed the clean that it was given; let it work on a clone"),
        ("victim", "purifier 'faulty' changed the victim that it was given; let it work on a clone"),
        ("none", "purifier 'faulty' gave NoneType, expected a Victim; let `cleanse` return the mended clone"),
        ("module", "expected a Victim; let `cleanse` return the mended clone"),
        ("notes", "purifier 'faulty' has Tensor in its notes under 'size', expected what JSON can hold, like .tolist()"),
        ("weights", "purifier 'faulty' gives weights that rebuild() has no place for; let it add what `cleanse` adds"),
        ("attribute", "purifier 'faulty' gives a model that is another one after saving; keep what it has learnt in buffers"),
    ],
)
def test_a_purifier_at_fault_is_named_and_others_are_as_without_it(how: str, words: str, tmp_path: Path) -> None:
    alone = ran(tmp_path / "alone", purifiers=["fine-tune"])
    both = ran(tmp_path / "both", purifiers=[purifier(how), "fine-tune"])
    assert words in both.errors["purifier faulty"] and both.metrics["purifiers"].keys() == {"fine-tune"}
    assert both.metrics["purifiers"]["fine-tune"]["asr"] == alone.metrics["purifiers"]["fine-tune"]["asr"]
    assert both.metrics["purifiers"]["fine-tune"]["acc"] == alone.metrics["purifiers"]["fine-tune"]["acc"]


def detector(how: str) -> Detector:
    class Faulty(Detector, name="faulty"):
        modalities = IMAGE
        needs = frozenset({"train"})
        about = "training" if how == "about" else "model" if how == "class" else "train"  # type: ignore[assignment]

        def examine(self, evidence: Evidence, ctx: Context) -> Any:
            n = len(evidence.train)
            scores = torch.arange(float(n))
            flags: Tensor | None = None
            if how == "data":
                evidence.train.y.zero_()
            if how == "tensor":
                return scores
            if how == "numbers":
                flags = (scores > 3).long()
            if how == "nan":
                scores[0] = float("nan")
            if how == "list":
                return Findings(scores.tolist())
            if how == "gradient":
                return Findings(scores.requires_grad_())
            return Findings(scores[:3] if how in ("short", "class") else scores, flags, (9,) if how == "class" else ())

    return Faulty()


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("about", "is about 'training', expected one of train, incoming, model; correct `about`"),
        ("data", "changed the train that it was given; let it work on a clone"),
        ("tensor", "gave Tensor, expected Findings; let `examine` return Findings(scores)"),
        ("list", "gave scores of type list, expected a tensor of floats"),
        ("short", "gave scores of shape (3,), expected (96,), one for each it judges"),
        ("numbers", "must flag with bools of shape (96,); compare scores with a threshold"),
        ("nan", "gave scores that are not finite; look for a division by 0"),
        ("class", "flags class 9 with scores of 3 classes; give a score for every class"),
    ],
)
def test_a_detector_at_fault_is_named(how: str, words: str) -> None:
    held = toys.evidence("image")
    held = held.but(**{name: copied(getattr(held, name)) for name in ("train", "clean", "incoming")})  # toys are shared
    with pytest.raises(BrokenContract) as caught:
        detector(how).inspect(held, toys.context("image"))
    assert str(caught.value).startswith("detector 'faulty' ") and words in str(caught.value)


def test_a_detector_that_changes_labels_changes_them_for_no_other(tmp_path: Path) -> None:
    alone = ran(tmp_path / "alone", detectors=["spectral"])
    both = ran(tmp_path / "both", detectors=[detector("data"), "spectral"])
    assert "changed the train" in both.errors["detector faulty"]
    assert both.metrics["detectors"]["spectral"]["auroc"] == alone.metrics["detectors"]["spectral"]["auroc"]


def test_scores_with_a_gradient_are_kept_without_it(tmp_path: Path) -> None:
    found = ran(tmp_path, detectors=[detector("gradient")])
    assert not found.errors and found.metrics["detectors"]["faulty"]["about"] == "train"


class Odd(Selector, name="odd"):
    how: str = "all"

    def choose(self, train: Dataset, eligible: Tensor, n: int, ctx: Context) -> Any:
        rows, others = eligible.nonzero().flatten(), (~eligible).nonzero().flatten()
        return {"all": rows, "mask": eligible, "twice": rows[:1].repeat(n), "others": others[:n]}[self.how]


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("all", "was asked for at most 19 different rows that are eligible, and gave others"),
        ("twice", "was asked for at most 19 different rows"),
        ("others", "was asked for at most 19 different rows"),
        ("mask", "must give numbers of rows, int64 [<= n]; take mask.nonzero().flatten() of a mask"),
    ],
)
def test_a_selector_at_fault_is_named(how: str, words: str) -> None:
    with pytest.raises(BrokenContract) as caught:
        BadNets(rate=0.2, select=Odd(how=how)).poison(toys.splits("image"), toys.context("image"))
    assert words in str(caught.value) and str(caught.value).startswith("selector 'odd'")


class Zeroing(TrainHook):
    def __init__(self, train: Dataset) -> None:
        self.train = train

    def on_epoch(self, state: TrainState) -> None:
        self.train.y.zero_()


class Silent(TrainHook):
    def on_batch(self, state: TrainState, batch: Inputs, y: Tensor, rows: Tensor) -> Any:
        return None


class NoName(Patch):
    pass


def attack(how: str) -> PoisoningAttack:
    class Faulty(PoisoningAttack, name="faulty"):
        modalities = IMAGE

        def make_trigger(self, train: Dataset, ctx: Context) -> Any:
            if how == "data":
                train.inputs.mul_(0.1)
            return {"class": Patch, "nothing": None, "no name": NoName()}.get(how, Patch())

        def make_hook(self, trigger: Any, train: Dataset, index: Tensor, ctx: Context) -> TrainHook | None:
            return {"hook": Zeroing(train), "no hook": 3, "silent": Silent()}.get(how)  # type: ignore[return-value]

    return Faulty(rate=0.2)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("data", "attack 'faulty' changed the data that it was given; let it work on a clone"),
        ("class", "made a trigger of type Patch, expected an instance of a Trigger with a name in its class line"),
        ("nothing", "made a trigger of type NoneType"),
        ("no hook", "made a hook of type int, expected a TrainHook or None"),
    ],
)
def test_an_attack_at_fault_is_named_before_it_trains(how: str, words: str) -> None:
    data = toys.splits("image")
    own = Splits(*(p.take(torch.arange(len(p))) for p in (data.train, data.test, data.clean)))
    with pytest.raises(BrokenContract) as caught:
        attack(how).poison(own, toys.context("image"))
    assert words in str(caught.value)


def test_a_hook_that_gives_no_batch_is_told(tmp_path: Path) -> None:
    found = ran(tmp_path, attack=attack("silent"))
    assert found.errors["victim"] == "the hook Silent gave NoneType of a batch; return (batch, y)"


class Alone(DataSource):
    modalities = IMAGE

    def read(self) -> Any:
        data = toys.splits("image").train
        return Dataset.of(data.inputs, data.y, "image")


def test_a_source_that_gives_no_pair_is_told() -> None:
    with pytest.raises(
        BrokenContract, match=r"dataset 'Alone' read Dataset, expected a pair; let `read` return \(Dataset, None\)"
    ):
        Alone().load(0)


def test_a_hook_that_changes_the_data_spoils_no_other_run(tmp_path: Path) -> None:
    alone = ran(tmp_path / "alone")
    faulty, fine = run({**PLAN, "vary": {"attack": [attack("hook"), PLAN["attack"]]}}, store=tmp_path / "both")
    assert faulty.errors["victim"] == "attack 'faulty' changed the data that it was given; let its hook work on copies"
    assert fine.metrics["victim"]["acc"] == alone.metrics["victim"]["acc"]


def test_a_trigger_without_a_name_of_its_own_is_told_before_it_trains(tmp_path: Path) -> None:
    found = ran(tmp_path, attack=attack("no name"))
    words = (
        "attack 'faulty' made a trigger of the class NoName, which has no name of its own; write class NoName(Patch, name=...)"
    )
    assert words in found.errors["victim"]
