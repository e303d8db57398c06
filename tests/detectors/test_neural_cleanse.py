"""Neural Cleanse: the smallest mask by class, its weight's schedule, the true median, and unlearning of what it finds."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from expectations import CORNER, IMAGES, RESNET
from ostiary.attacks.base import Poisoned
from ostiary.component import build
from ostiary.context import Context
from ostiary.detectors import masks
from ostiary.detectors.balance import Balance
from ostiary.detectors.masks import Patches, better
from ostiary.detectors.neural_cleanse import NeuralCleanse
from ostiary.detectors.outliers import anomaly
from ostiary.errors import Unsupported
from ostiary.evidence import Evidence
from ostiary.models.victim import Victim
from ostiary.purifiers.holdout import accuracy
from ostiary.purifiers.nc_unlearn import NCUnlearn, Stamping
from ostiary.testing import toys
from ostiary.training.trainer import Trainer


@pytest.fixture(scope="module")
def images() -> tuple[Context, Poisoned, Victim]:
    splits, net = build("dataset", {**IMAGES, "n": 600, "n_classes": 6}).load(0), build("victim", RESNET)
    ctx = Context(0, architecture=net, trainer=build("trainer", {"name": "trainer", **net.recipe, "batch_size": 32}))
    poisoned = build("attack", CORNER).poison(splits, ctx)
    return ctx, poisoned, ctx.fit(poisoned.splits.train)


def test_the_backdoored_class_has_by_far_the_smallest_mask(images: tuple[Context, Poisoned, Victim]) -> None:
    ctx, poisoned, victim = images
    found = NeuralCleanse(steps=250).inspect(Evidence(victim, clean=poisoned.splits.clean), ctx)
    assert int(found.scores.argmax()) == 0 and 0 in found.classes
    lines = found.info["classes"]
    norms = [line["mask norm"] for line in lines.values() if line["mask norm"] is not None]
    assert lines[poisoned.splits.clean.classes[0]]["mask norm"] == min(norms)
    assert [d["class"] for d in found.info["drawn"]] == list(range(6))


def test_unlearning_the_patch_takes_the_backdoor_away(images: tuple[Context, Poisoned, Victim]) -> None:
    ctx, poisoned, victim = images
    held = Evidence(victim, clean=poisoned.splits.clean)
    found = NCUnlearn(scan=NeuralCleanse(steps=250)).purify(held, ctx)
    assert poisoned.splits.clean.classes[0] in found.notes["unlearned"]
    assert accuracy(victim, poisoned.triggered) > 0.9 and accuracy(found, poisoned.triggered) < 0.3
    assert accuracy(found, poisoned.splits.test) > 0.9
    never = NCUnlearn(scan=NeuralCleanse(steps=2, outlier=1e9)).purify(held, ctx)
    assert never.notes["unlearned"] == [] and len(never.notes["no patch found"]) > 0
    empty = NeuralCleanse(steps=1, success=1.0).inspect(held, ctx)
    assert empty.classes == () and len(empty.doubts) == 1
    assert "no patch led 100% of a batch to its class" in empty.doubts[0] and "no verdict" in empty.doubts[0]
    assert all(torch.equal(a, b) for a, b in zip(victim.parameters(), never.parameters(), strict=True))


def test_the_median_of_an_even_number_is_between_the_two_in_the_middle() -> None:
    index = anomaly(torch.tensor([0.0, 1.0, 3.0, 4.0]))
    assert index.tolist() == pytest.approx([-2 / 1.4826 / 1.5, -1 / 1.4826 / 1.5, 1 / 1.4826 / 1.5, 2 / 1.4826 / 1.5])


@pytest.mark.parametrize("measured", [[12.6, 18.8, 10.7, 1.28, 9.9, 14.1, 23.5, 21.4, 5.9, 17.1]])
def test_logarithms_tell_a_small_mask_among_scattered_ones(measured: list[float]) -> None:
    patches = Patches(torch.zeros(10, 1, 1, 1), torch.zeros(10, 1, 1, 1), torch.tensor(measured, dtype=torch.float64))
    paper, auto = NeuralCleanse(), NeuralCleanse.preset("auto")
    assert not paper.judge(patches)[1].any()
    index, flagged = auto.judge(patches)
    assert flagged.nonzero().flatten().tolist() == [3] and float(index[3]) == pytest.approx(4.9, abs=0.1)
    assert torch.allclose(auto.judge(replace(patches, norms=100 * patches.norms))[0], index)  # in whatever unit
    norms = patches.norms.clone()
    norms[3], norms[5] = 0.0, math.inf  # a class that needs no mask, and one that no mask reaches
    index, flagged = auto.judge(replace(patches, norms=norms))
    assert bool(torch.isfinite(index).all()) and flagged.nonzero().flatten().tolist() == [3] and float(index[5]) == 0


def test_what_was_computed_before_there_was_a_scale_keeps_its_key() -> None:
    assert "scale" not in NeuralCleanse().spec() and NeuralCleanse.preset("auto").spec()["scale"] == "log"


def test_classes_that_no_mask_reaches_are_left_out() -> None:
    norms = torch.tensor([2.0, 10.0, 11.0, 12.0, math.inf], dtype=torch.float64)
    index, flagged = NeuralCleanse().judge(Patches(torch.zeros(5, 1, 2, 2), torch.zeros(5, 1, 2, 2), norms))
    assert flagged.tolist() == [True, False, False, False, False]
    assert float(index[4]) == 0 and float(index[3]) < 0
    some = Patches(torch.zeros(5, 1, 2, 2), torch.zeros(5, 1, 2, 2), norms)
    assert NeuralCleanse().doubt(some) == ("no patch led 99% of a batch to its class for 1 of 5 classes: no verdict on them",)
    assert NeuralCleanse().doubt(replace(some, norms=norms[:4])) == ()
    assert "and, with so few others, on none" in NeuralCleanse().doubt(replace(some, norms=norms[2:]))[0]
    for few in ([math.inf] * 10, [9.0, 10.0, 10.2] + [math.inf] * 7):  # the median of three says nothing
        nothing = Patches(torch.zeros(10, 1, 2, 2), torch.zeros(10, 1, 2, 2), torch.tensor(few, dtype=torch.float64))
        assert all(not bool(scan.judge(nothing)[1].any()) for scan in (NeuralCleanse(), NeuralCleanse.preset("auto")))


def test_masks_that_are_equal_but_for_rounding_are_no_outliers() -> None:
    norms = torch.tensor([9.99, 10.0, 10.0, 10.0, 10.0], dtype=torch.float64)
    assert not bool(NeuralCleanse().judge(Patches(torch.zeros(5, 1, 2, 2), torch.zeros(5, 1, 2, 2), norms))[1].any())


def test_the_weight_doubles_after_successes_and_shrinks_after_failures() -> None:
    balance = Balance(torch.tensor([1.0, 1.0, 1.0]), patience=2)
    for third in (True, False):
        balance.after(torch.tensor([True, False, third]))
    assert balance.weight.tolist() == pytest.approx([2.0, 2**-1.5, 1.0])
    balance.after(torch.tensor([True, False, False]))
    assert balance.weight.tolist() == pytest.approx([2.0, 2**-1.5, 2**-1.5])


def test_the_smallest_mask_that_succeeds_is_kept() -> None:
    best = Patches(torch.zeros(2, 1, 1, 1), torch.zeros(2, 1, 1, 1), torch.tensor([3.0, math.inf], dtype=torch.float64))
    mask = torch.tensor([0.5, 0.7]).view(2, 1, 1, 1)
    worse = better(best, mask, mask, torch.tensor([4.0, 1.0]), torch.tensor([True, False]))
    assert worse.norms.tolist() == [3.0, math.inf] and worse.masks.flatten().tolist() == pytest.approx([0.0, 0.7])
    smaller = better(best, mask, mask, torch.tensor([2.0, 1.0]), torch.tensor([True, True]))
    assert smaller.norms.tolist() == [2.0, 1.0] and smaller.masks.flatten().tolist() == pytest.approx([0.5, 0.7])


def test_a_share_of_a_batch_is_stamped_and_labels_stay() -> None:
    mask, pattern = torch.zeros(1, 1, 4, 4), torch.ones(1, 1, 4, 4)
    mask[..., 0, 0] = 1
    batch, y = torch.zeros(400, 1, 4, 4), torch.arange(400)
    rng = torch.Generator().manual_seed(0)
    state = Trainer().start(toys.victim("image"), toys.splits("image").clean, 0)
    marked, labels = Stamping(mask, pattern, 0.2, rng).on_batch(state, batch, y, y)
    assert 0.15 < float(marked[:, 0, 0, 0].mean()) < 0.25 and float(marked.sum()) == float(marked[:, 0, 0, 0].sum())
    assert torch.equal(labels, y)


def test_three_classes_are_refused() -> None:
    held = toys.evidence("image")
    few = held.clean.take((held.clean.y < 3).nonzero().flatten())
    three = type(few).of(few.inputs, few.y, few.modality, ("a", "b", "c"))
    less = Victim(held.victim.module, "image", forward=lambda m, b: m(b)[:, :3])
    with pytest.raises(Unsupported, match="median of 3 classes"):
        NeuralCleanse().inspect(Evidence(less, clean=three), toys.context("image"))


def test_classes_in_groups_give_the_patches_of_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    held, found = toys.evidence("image"), []
    for most in (masks.AT_ONCE, 40):  # a class a pass
        monkeypatch.setattr(masks, "AT_ONCE", most)
        found.append(NeuralCleanse(steps=6, batch_size=32).recover(held.victim, held.clean, toys.context("image")))
    assert torch.allclose(found[0].masks, found[1].masks, atol=1e-5)
    assert torch.allclose(found[0].patterns, found[1].patterns, atol=1e-5)
