"""FCT: the score of planted features, what pushes classes apart and when it stops, the split, and budgets in updates."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from expectations import CLIQUE, GIN, GRAPHS
from ostiary.component import build
from ostiary.context import Context
from ostiary.data.dataset import Dataset
from ostiary.detectors.consistency import FLOOR, closeness, push_apart, shifts
from ostiary.detectors.fct import FCT
from ostiary.detectors.shares import split
from ostiary.errors import Unsupported
from ostiary.evidence import Evidence
from ostiary.metrics.detection import detection
from ostiary.modality.image import ImageModality
from ostiary.models.victim import Victim
from ostiary.testing import toys
from ostiary.training.budget import at_least
from ostiary.training.trainer import Trainer


def bright(levels: list[float]) -> Dataset:
    """Images of 1 x 1 pixel, one per level, of two classes by turns."""
    pixels = torch.tensor(levels).view(-1, 1, 1, 1)
    return Dataset.of(pixels, torch.arange(len(levels)) % 2, build("modality", "image"))


def linear(weights: list[list[float]]) -> Victim:
    """Features: the pixel times a weight each."""
    rows = torch.tensor(weights)
    first, head = nn.Linear(1, len(rows), bias=False), nn.Linear(len(rows), 2)
    with torch.no_grad():
        first.weight.copy_(rows)
    found = Victim(nn.Sequential(nn.Flatten(), first, head), "image")
    found.eval()
    return found


def test_the_score_is_the_mean_squared_distance_over_features_and_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    factors = iter([0.5, 0.0] * 2)
    monkeypatch.setattr(ImageModality, "distort", lambda _self, x, _rng: x * next(factors))
    monkeypatch.setattr(ImageModality, "chunk", 2)  # two images a chunk, each with two draws
    found = shifts(linear([[1.0], [3.0]]), bright([1.0, 0.4, 0.2, 0.0]), 2, torch.Generator())
    each = [(1 + 9) / 2 * (0.25 + 1) / 2 * level**2 for level in (1.0, 0.4, 0.2, 0.0)]
    assert found.tolist() == pytest.approx(each, abs=1e-6)


def test_of_unit_features_only_the_angle_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageModality, "distort", lambda _self, x, _rng: 1 - x)
    victim = linear([[3.0], [4.0]])
    with torch.no_grad():
        victim.module[1].bias = nn.Parameter(torch.tensor([-1.5, 0.0]))  # (3 p - 1.5, 4 p): turns with the pixel
    found = shifts(victim, bright([1.0, 0.5, 0.0]), 1, torch.Generator(), unit=True)
    angles = [math.atan2(4 * p, 3 * p - 1.5) for p in (1.0, 0.5, 0.0)]
    each = [(2 - 2 * math.cos(angles[i] - angles[2 - i])) / 2 for i in range(3)]
    assert found.tolist() == pytest.approx(each, abs=1e-6) and found[1] < 1e-6 < found[0]


def test_closeness_is_the_mean_off_diagonal_cosine_over_all_pairs() -> None:
    features = torch.tensor([[2.0, 0.0], [4.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    y = torch.tensor([0, 0, 2, 1])  # means (3, 0), (1, 1), (0, 1); two pairs at 45 degrees, one at 90
    assert float(closeness(features, y)) == pytest.approx(2 * (2 * math.sqrt(0.5)) / 9)
    one = features.clone().requires_grad_()
    lone = closeness(one, torch.zeros(4, dtype=torch.int64))
    lone.backward()
    assert float(lone.detach()) == pytest.approx(0, abs=1e-6) and one.grad is not None and float(one.grad.abs().max()) < 1e-6


def test_classes_are_pushed_apart_without_labels_of_the_head_being_touched() -> None:
    train, victim, ctx = toys.poisoned("image").splits.train, toys.victim("image"), toys.context("image")

    def close() -> float:
        features = victim.embed(train.inputs)[1]
        return float(closeness(features, train.y))

    before, head = close(), victim.module.get_submodule(victim.head).weight.clone()
    assert push_apart(victim, train, Trainer(optimizer="sgd", lr=0.01, epochs=3, batch_size=64), ctx) == 3
    assert close() < before - 0.02
    assert torch.equal(head, victim.module.get_submodule(victim.head).weight)


def test_it_stops_before_features_collapse(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = []

    def shrink(_self: Trainer, state: Any, _hooks: Any = ()) -> None:
        weights.append(state.victim.module[1].weight.clone())
        with torch.no_grad():
            state.victim.module[1].weight.mul_(0.4)
        state.epoch += 1

    monkeypatch.setattr(Trainer, "run_epoch", shrink)
    victim = linear([[1.0], [3.0]])
    assert 0.4**2 > FLOOR > 0.4**3
    assert push_apart(victim, bright([1.0, 0.4, 0.2, 0.1]), Trainer(epochs=10), Context()) == 2
    assert torch.equal(victim.module[1].weight, weights[2]) and len(weights) == 3


@pytest.mark.parametrize(("n", "clean", "poisoned"), [(100, 0.2, 0.05), (7, 0.2, 0.05), (10, 0.5, 0.5), (10, 0.0, 0.1)])
def test_the_split_has_the_sizes_asked_for_and_covers_every_row_once(n: int, clean: float, poisoned: float) -> None:
    scores = torch.rand(n, generator=torch.Generator().manual_seed(n))
    parts = split(scores, clean, poisoned)
    assert (len(parts.clean), len(parts.poisoned)) == (round(clean * n), round(poisoned * n))
    assert torch.cat([parts.clean, parts.poisoned, parts.uncertain]).sort()[0].tolist() == list(range(n))
    low, high = scores[parts.clean], scores[parts.poisoned]
    middle = scores[parts.uncertain]
    ends = [part for part in (low, middle, high) if len(part)]
    assert all(float(a.max()) <= float(b.min()) for a, b in itertools.pairwise(ends))


def test_a_clean_share_of_each_group_leaves_out_no_group() -> None:
    scores, groups = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]), torch.tensor([0] * 4 + [2] * 6)
    assert split(scores, 0.5, 0.2).clean.tolist() == [0, 1, 2, 3, 4]
    parts = split(scores, 0.5, 0.2, groups)
    assert (parts.clean.tolist(), parts.poisoned.tolist()) == ([0, 1, 4, 5, 6], [8, 9])
    parts = split(scores, 0.5, 0.5, groups)  # what is suspected is not trusted
    assert (parts.clean.tolist(), parts.poisoned.tolist()) == ([0, 1, 4], [5, 6, 7, 8, 9])


def test_budgets_are_in_updates_where_epochs_are_short() -> None:
    assert at_least(2, 800, 50_000, 128) == 3  # 391 updates an epoch
    assert at_least(2, 1, 50_000, 128) == 2
    assert at_least(2, 800, 100, 128) == 800
    assert at_least(2, 10, 129, 64) == 5  # the last one of one sample is no update of its own


@pytest.mark.parametrize("modality", ["graph", "image"])
def test_what_is_flagged_is_the_share_scored_highest_and_info_counts_by_class(modality: str) -> None:
    held, ctx = toys.evidence(modality), toys.context(modality)
    method = FCT(steps=4, tuning_epochs=1, n_draws=2, batch_size=64, clean=0.3, poisoned=0.1)
    found = method.inspect(held, ctx)
    assert found.flagged is not None and int(found.flagged.sum()) == round(0.1 * len(held.train))
    assert float(found.scores[found.flagged].min()) >= float(found.scores[~found.flagged].max())
    sizes = [sum(found.info[part].values()) for part in ("clean", "poisoned", "uncertain")]
    assert sum(sizes) == len(held.train) and sizes[0] == round(0.3 * len(held.train))
    marked = torch.bincount(held.train.y[found.flagged], minlength=held.train.n_classes).tolist()
    assert list(found.info["poisoned"].values()) == marked


def test_a_model_that_died_is_trained_anew_at_a_third_of_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    held, rates = toys.evidence("graph"), list[float]()
    method, ctx = FCT(steps=4, n_draws=1), replace(toys.context("graph"), trainer=Trainer(lr=0.02))

    def dying(victim: Victim, train: Dataset, *rest: Any, **options: Any) -> Tensor:
        return torch.zeros(len(train)) if len(rates) < dead else shifts(victim, train, *rest, **options)

    def spy(self: Trainer, *rest: Any, **options: Any) -> Victim:
        rates.append(self.lr)
        return real(self, *rest, **options)

    real = Trainer.fit
    monkeypatch.setattr(Trainer, "fit", spy)
    monkeypatch.setattr("ostiary.detectors.fct.shifts", dying)
    for dead, shares in ((1, [1.0]), (2, [1.0, 1 / 3]), (9, [1.0, 1 / 3, 1 / 9, 1 / 27])):
        rates.clear()
        found = method.inspect(held, ctx)
        assert rates == pytest.approx([0.02 * s for s in shares])
        assert found.info["lr"] == rates[-1]
        assert bool(found.scores.any()) == (dead < 9)


def test_it_trains_without_augmentation_and_where_the_plan_freezes_or_decays(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Trainer] = []
    fit = Trainer.fit

    def spy(self: Trainer, *args: Any, **options: Any) -> Victim:
        seen.append(self)
        return fit(self, *args, **options)

    monkeypatch.setattr(Trainer, "fit", spy)
    for modality in ("image", "graph"):
        ctx = toys.context(modality)
        plan = Context(0, architecture=ctx.architecture, trainer=Trainer(lr=0.02, augment="crop", schedule="cosine"))
        FCT(steps=2, tuning_epochs=0, n_draws=1).inspect(toys.evidence(modality), plan)
    assert [(t.augment, t.schedule, t.batch_size) for t in seen] == [("none", "constant", 128)] * 2
    assert [(t.optimizer, t.lr) for t in seen] == [("sgd", 0.01), ("adam", 0.02)]


def test_distortions_are_of_images_and_take_the_place_of_the_usual_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageModality, "distort", lambda *_: pytest.fail("the usual one"))
    method = FCT(steps=2, tuning_epochs=0, n_draws=1, distortions=("flip", "erase"))
    assert bool(method.inspect(toys.evidence("image"), toys.context("image")).scores.any())
    with pytest.raises(Unsupported, match="flip, erase are changes of images; leave distortions out"):
        method.inspect(toys.evidence("graph"), toys.context("graph"))


def test_shares_that_overlap_and_a_lone_sample_are_refused() -> None:
    held, ctx = toys.evidence("image"), toys.context("image")
    with pytest.raises(Unsupported, match="exceed the whole"):
        FCT(clean=0.6, poisoned=0.5).inspect(held, ctx)
    with pytest.raises(Unsupported, match="one sample is too few"):
        FCT().inspect(Evidence(train=held.train.take(torch.tensor([0]))), ctx)


def test_cliques_on_graphs_move_features_more_than_clean_graphs_do() -> None:
    splits = build("dataset", GRAPHS).load(0)
    ctx = Context(0, architecture=build("victim", GIN), trainer=Trainer(epochs=20, batch_size=32))
    made = build("attack", CLIQUE).poison(splits, ctx.within("attack"))
    found = FCT(steps=200).inspect(Evidence(train=made.splits.train), ctx.within("detector fct"))
    truth: Tensor = F.one_hot(made.index, len(made.splits.train)).sum(0).bool()
    auroc = detection(found.scores, found.flagged, truth)["auroc"]
    assert isinstance(auroc, float) and auroc >= 0.7
