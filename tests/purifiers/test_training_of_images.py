"""How purifiers train on images: augmented and in bf16 as the model's own trainer does, at a rate that falls."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from ostiary.component import build
from ostiary.context import Context
from ostiary.metrics.reactivation import reactivated
from ostiary.purifiers.base import FineTuning
from ostiary.testing import toys
from ostiary.training.trainer import Trainer


def augmenting(modality: str) -> Context:
    own = toys.context(modality)
    return replace(own, trainer=own.trainer.replace(augment="crop", bf16=True))


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Trainer]]:
    """What was trained, and by which trainer, once the test has asked for it."""
    toys.victim("image"), toys.poisoned("image")  # trained once for all tests, not here
    seen: list[tuple[str, Trainer]] = []
    real = Trainer.fit

    def fit(self: Trainer, *args: Any, what: str = "training", **kwargs: Any) -> Any:
        seen.append((what, self))
        return real(self, *args, what=what, **kwargs)

    monkeypatch.setattr(Trainer, "fit", fit)
    return seen


@pytest.mark.parametrize(
    ("method", "how"),
    [
        ({"name": "fine-tune", "epochs": 1}, "crop"),
        ({"name": "fine-pruning", "epochs": 1}, "crop"),
        ({"name": "nad", "epochs": 1, "teacher_epochs": 1}, "crop"),
        ({"name": "tsbd", "steps": 1, "ascent_epochs": 1}, "crop"),
        ({"name": "sau", "preset": "auto", "steps": 1, "inner": 1}, "crop"),
        ({"name": "npd", "preset": "auto", "steps": 1}, "crop"),
        ({"name": "i-bau", "epochs": 1, "ascent_steps": 1, "schedule": "cosine"}, "crop"),
        ({"name": "nc-unlearn", "epochs": 1, "scan": {"name": "neural-cleanse", "steps": 5, "outlier": 1e-6}}, "none"),
        ({"name": "mesa", "epochs": 1, "target": 0, "steps": 1}, "none"),
    ],
    ids=lambda v: v["name"] if isinstance(v, dict) else v,
)
def test_images_are_augmented_as_by_the_models_trainer_but_for_patches(
    method: dict[str, Any], how: str, fits: list[tuple[str, Trainer]]
) -> None:
    build("purifier", method).purify(toys.evidence("image"), augmenting("image"))
    assert fits and {(t.augment, t.schedule, t.bf16) for _, t in fits} == {
        (how, "constant" if how == "none" else "cosine", True)
    }


@pytest.mark.parametrize("method", ["sau", "tsbd"])
def test_the_authors_rate_does_not_fall(method: str, fits: list[tuple[str, Trainer]]) -> None:
    own = {"sau": {"epochs": 1, "inner": 1}, "tsbd": {"epochs": 1, "ascent_epochs": 1}}[method]
    build("purifier", {"name": method, "preset": "paper", **own}).purify(toys.evidence("image"), augmenting("image"))
    assert fits and {t.schedule for _, t in fits} == {"constant"}


def test_abl_isolates_by_images_as_they_are(fits: list[tuple[str, Trainer]]) -> None:
    own = {"isolation_epochs": 1, "epochs": 1, "ascent_epochs": 1}
    build("purifier", {"name": "abl", **own}).purify(toys.evidence("image"), augmenting("image"))
    assert [(what, t.augment) for what, t in fits] == [
        ("abl: isolation", "none"),
        ("abl: training on the rest", "crop"),
        ("abl: unlearning", "crop"),
    ]


def test_graphs_are_trained_on_as_before() -> None:
    own = FineTuning().trainer(augmenting("graph"), toys.splits("graph").clean, 3)
    assert (own.schedule, own.augment, own.bf16, own.optimizer, own.freeze_norms) == ("constant", "none", False, "adam", True)


def test_triggers_are_not_cut_off_where_a_backdoor_is_taught_again(fits: list[tuple[str, Trainer]]) -> None:
    reactivated(toys.victim("image"), toys.poisoned("image"), augmenting("image"))
    assert fits and {t.augment for _, t in fits} == {"none"}


def test_a_cropped_image_is_what_the_purifier_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ostiary.training.trainer.augment", lambda images, how, rng: torch.zeros_like(images))
    held = toys.evidence("image")
    method = build("purifier", {"name": "fine-tune", "epochs": 1})
    blind, plain = (method.purify(held, c) for c in (augmenting("image"), toys.context("image")))
    assert not torch.equal(blind.predict(held.clean.inputs), plain.predict(held.clean.inputs))


@pytest.mark.parametrize(("n", "size"), [(40, 16), (90, 16), (240, 40), (600, 64)])
def test_a_small_sample_of_images_makes_six_batches_of_sixteen_or_more(n: int, size: int) -> None:
    clean = toys.splits("image").clean
    many = clean.take(torch.arange(n) % len(clean))
    assert FineTuning().trainer(augmenting("image"), many, 1).batch_size == size
    assert FineTuning(batches=0).trainer(augmenting("image"), many, 1).batch_size == 64
    assert build("purifier", {"name": "tsbd", "preset": "paper"}).trainer(augmenting("image"), many, 1).batch_size == 256
    tsbd = build("purifier", "tsbd")
    assert tsbd.passes(many) == -(-200 // (n // size + (n % size > 1)))  # so many updates, whatever the batches


def test_graphs_are_not_divided_into_smaller_batches() -> None:
    clean = toys.splits("graph").clean
    assert FineTuning().trainer(augmenting("graph"), clean, 1).batch_size == 64
