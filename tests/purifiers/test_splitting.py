"""D-BR and D-ST: what the split gives them, how far ascent goes, who attracts whom, and empty parts."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from planted import images, victim
from torch import nn

from expectations import CORNER, IMAGES, RESNET
from ostiary.attacks.base import Poisoned
from ostiary.component import build
from ostiary.context import Context
from ostiary.data.dataset import Dataset
from ostiary.detectors.base import Detector, Findings
from ostiary.errors import Unsupported
from ostiary.evidence import Evidence
from ostiary.models.victim import Victim
from ostiary.purifiers.d_br import DBR
from ostiary.purifiers.d_st import DST
from ostiary.purifiers.holdout import accuracy
from ostiary.purifiers.splitting import Splitting, losses, trusting
from ostiary.seeds import uniform
from ostiary.testing import toys
from ostiary.training.ascent import Alternate, lack
from ostiary.training.augment import jitter, views
from ostiary.training.contrastive import contrast, positives
from ostiary.training.trainer import Trainer

SEED = 0


class Told(Detector):
    """Scores the rows that it is told above all others, and `wary` ones above half of these."""

    modalities = frozenset({"graph", "image"})
    needs = frozenset({"train"})
    about = "train"
    rows: tuple[int, ...] = ()
    wary: tuple[int, ...] = ()

    def examine(self, evidence: Evidence, ctx: Context) -> Findings:
        scores = uniform(SEED, evidence.train.ids, 0)
        scores[list(self.wary)] = 0.5 + scores[list(self.wary)] / 2
        scores[list(self.rows)] += 1
        return Findings(scores)


def told(made: Poisoned) -> dict[str, Any]:
    """A detector that knows, and the share that it sets apart."""
    rows = tuple(made.index.tolist())
    return {"detector": Told(rows=rows), "poisoned": len(rows) / len(made.splits.train)}


# the split


@pytest.mark.parametrize("method", [DBR, DST])
def test_the_clean_part_holds_every_label_and_none_of_the_suspects(method: type[Splitting]) -> None:
    made, ctx = toys.poisoned("image"), toys.context("image")
    train = made.splits.train
    parts = method(**told(made), clean=0.25).divide(Evidence(train=train), ctx)
    assert parts.poisoned.tolist() == sorted(made.index.tolist())
    assert not set(parts.clean.tolist()) & set(made.index.tolist())
    counts, held = torch.bincount(train.y), torch.bincount(train.y[parts.clean])
    assert held.tolist() == [round(0.25 * n) for n in counts.tolist()]


def test_a_model_trained_without_the_poison_is_surprised_by_it() -> None:
    made, ctx = toys.poisoned("image"), toys.context("image")
    train, index = made.splits.train, made.index
    clean = torch.tensor(sorted(set(range(len(train))) - set(index.tolist())))
    scores = losses(trusting(train, clean[::2], ctx), train)
    assert torch.isin(scores.topk(len(index)).indices, index).double().mean() >= 0.8


def test_further_looks_find_poison_that_the_detector_missed() -> None:
    ctx = toys.context("image")
    made = build("attack", CORNER).poison(build("dataset", {**IMAGES, "n": 400}).load(0), ctx)
    index, held = made.index.tolist(), Evidence(train=made.splits.train)
    half = len(index) // 2
    known = {**told(made), "detector": Told(rows=tuple(index[:half]), wary=tuple(index[half:]))}  # none is taken for clean
    caught = [len(set(DBR(**known, clean=0.3, looks=n).divide(held, ctx).poisoned.tolist()) & set(index)) for n in (0, 1)]
    assert caught[0] == half and caught[1] >= 0.8 * len(index)


@pytest.mark.parametrize("given", [True, False])
def test_what_the_given_model_finds_hard_too_is_not_taken_for_poison(given: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two samples that no model gets right and two that only the backdoored one gets right."""
    ctx, held = toys.context("image"), toys.evidence("image")
    new = toys.victim("image").clone()
    hard, poison = torch.tensor([0, 1]), torch.tensor([2, 3])

    def losses(victim: Victim, data: Dataset) -> torch.Tensor:
        found = uniform(SEED, data.ids, 0)
        found[hard] += 6
        found[poison] += 5 if victim is new else 0
        return found

    monkeypatch.setattr("ostiary.purifiers.splitting.losses", losses)
    monkeypatch.setattr("ostiary.purifiers.splitting.trusting", lambda *_: new)
    how = DBR(detector=Told(rows=(0, 1, 2, 3)), poisoned=2 / len(held.train), looks=1)
    parts = how.divide(Evidence(victim=held.victim if given else None, train=held.train), ctx)
    assert parts.poisoned.tolist() == (poison if given else hard).tolist()


def test_after_a_look_the_trusted_share_counts_as_clean_and_suspects_go_by_excess() -> None:
    made, ctx = toys.poisoned("image"), toys.context("image")
    train, held = made.splits.train, Evidence(train=made.splits.train)
    for looks, share in ((0, 0.25), (1, 0.5)):
        parts = DBR(**told(made), clean=0.25, trusted=0.5, looks=looks).divide(held, ctx)
        least = torch.bincount(train.y) * share - torch.bincount(train.y[made.index], minlength=train.n_classes)
        counts = torch.bincount(train.y[parts.clean], minlength=train.n_classes)
        assert bool((counts >= least - 1).all()) and bool((counts <= torch.bincount(train.y) * share + 1).all())
    hard = tuple(torch.cat([(train.y == c).nonzero().flatten()[:5] for c in range(train.n_classes)]).tolist())
    confused = Told(rows=(*made.index.tolist(), *hard))  # as many hard samples of every label among the highest scores
    n = len(made.index) / len(train)
    caught = [
        torch.isin(DBR(detector=confused, poisoned=n, by_excess=how).divide(held, ctx).poisoned, made.index).double().mean()
        for how in (False, True)
    ]
    assert caught[1] > caught[0]


def test_a_detector_about_something_else_or_too_small_a_clean_share_is_refused() -> None:
    held, ctx = toys.evidence("image"), toys.context("image")
    with pytest.raises(Unsupported, match="fewer than 2 would count as clean"):
        DBR(detector=Told(), clean=0.0).purify(held, ctx)
    with pytest.raises(Unsupported, match="fewer than 2 would count as clean"):
        DBR(detector=Told(), looks=1, trusted=0.001).purify(held, ctx)
    with pytest.raises(Unsupported, match="exceed the whole"):
        DBR(detector=Told(), looks=1, trusted=0.9, poisoned=0.2).purify(held, ctx)
    with pytest.raises(Unsupported, match="exceed the whole"):
        DST(detector=Told(), clean=0.9, poisoned=0.2).purify(held, ctx)
    with pytest.raises(Unsupported, match="judges the model"):
        DBR(detector=build("detector", "inversion-scan")).purify(toys.evidence("graph"), toys.context("graph"))


def test_a_clean_part_of_one_class_is_refused() -> None:
    train, ctx = images(20), toys.context("image")
    ones = tuple(train.y.nonzero().flatten().tolist())
    with pytest.raises(Unsupported, match="is of one class"):
        DBR(detector=Told(rows=ones), by_class=False).purify(Evidence(victim(), train), ctx)


# ascent


def test_ascent_lacks_what_is_below_the_ceiling_and_no_more() -> None:
    data, model = images(6).relabel(torch.tensor([0]), torch.tensor([1])), victim()
    each = losses(model, data)
    assert float(each.max()) > 1 > float(each.min())
    found = float(lack(model, data.inputs, data.y, 1.0).detach())
    assert found == pytest.approx(sum(max(0.0, 1.0 - x) for x in each.tolist()) / 6, abs=1e-5)


def test_ascent_starts_even_where_the_model_is_certain() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    model, data, y = Victim(net, "image"), torch.ones(2, 1, 2, 2), torch.tensor([0, 0])
    with torch.no_grad():
        net[1].weight.zero_()
        net[1].bias.copy_(torch.tensor([16.0, 0.0, 0.0]))

    def slope(certain: float) -> float:
        value = lack(model, data, y, 5.0, certain)
        assert float(value.detach()) == pytest.approx(5.0, abs=1e-4)
        return float(torch.autograd.grad(value, net[1].bias)[0][0])

    assert abs(slope(0.0)) < 1e-5 and slope(1e-3) == pytest.approx(1.0, abs=1e-5)
    with torch.no_grad():
        net[1].bias.copy_(torch.tensor([1.0, 0.0, 0.0]))
    each = [torch.autograd.grad(lack(model, data, y, 5.0, c), net[1].bias)[0] for c in (0.0, 1e-3)]
    assert torch.equal(*each)  # no other than plain ascent elsewhere


def test_ascent_stops_at_the_ceiling_however_long_it_goes_on() -> None:
    marked = images(16, third=0.65)
    marked = marked.take(marked.y.nonzero().flatten())
    up, down = marked.relabel(torch.arange(8), torch.zeros(8, dtype=torch.int64)), images(8)
    trainer = Trainer(optimizer="sgd", lr=0.005, momentum=0.0, epochs=300, batch_size=8)
    raised, kept = [], []
    for ceiling in (3.0, 100.0):
        model = victim()
        assert float(losses(model, up).max()) < 0.1
        trainer.fit(model, down, 0, [Alternate(up, down, ceiling)])
        raised += [losses(model, up)]
        kept += [float(losses(model, down).max())]
    assert float(raised[0].min()) > 2 and float(raised[0].max()) < 4
    assert kept[0] < 0.2 and float(raised[1].min()) > 8 and kept[1] > 1  # without a bound the rest goes as well


def test_epochs_alternate_and_end_with_descent() -> None:
    up, down, model = images(4), images(6), victim()
    hook, sizes = Alternate(up, down, 2.0), []
    state = Trainer().start(model, down, 0)
    for state.epoch in range(4):
        hook.on_epoch(state)
        own = hook.loss(state, state.data.inputs, state.data.y, torch.arange(len(state.data)))
        sizes.append((len(state.data), own is None))
    assert sizes == [(4, False), (6, True)] * 2


def test_what_is_unlearnt_is_not_cropped() -> None:
    up, down, model = images(4), images(6), victim()
    state = Trainer().start(model, down, 0)
    found = Alternate(up, down, 2.0).loss(state, torch.zeros_like(up.inputs), up.y[[2, 0]], torch.tensor([2, 0]))
    wanted = lack(model, up.inputs[[2, 0]], up.y[[2, 0]], 2.0)
    assert found is not None and torch.allclose(found, wanted)
    assert not torch.allclose(found, lack(model, torch.zeros_like(up.inputs[:2]), up.y[[2, 0]], 2.0))


@pytest.mark.parametrize("modality", ["graph", "image"])
def test_with_a_split_that_is_right_removal_takes_the_backdoor_and_keeps_the_rest(modality: str) -> None:
    made, ctx, before = toys.poisoned(modality), toys.context(modality), toys.victim(modality)
    method = DBR(**told(made), epochs=20, steps=40, lr=0.005, batch_size=32)
    after = method.purify(Evidence(before, made.splits.train), ctx)
    assert accuracy(before, made.triggered) >= 0.7 and accuracy(after, made.triggered) <= 0.2
    assert accuracy(after, made.splits.test) >= accuracy(before, made.splits.test) - 0.1
    assert after.notes["rounds"] == 40 and sum(after.notes["split"]["poisoned"].values()) == len(made.index)


def test_without_suspects_there_is_only_descent(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []
    fit = Trainer.fit

    def spy(self: Trainer, model: Victim, data: Dataset, seed: int, hooks: Any = (), **options: Any) -> Victim:
        seen.append((self.epochs, len(hooks)))
        return fit(self, model, data, seed, hooks, **options)

    monkeypatch.setattr(Trainer, "fit", spy)
    held, ctx = toys.evidence("image"), toys.context("image")
    DBR(detector=Told(), poisoned=0.0, epochs=3).purify(held, ctx)
    DST(detector=Told(), poisoned=0.0, epochs=2, steps=0, head_epochs=2).purify(held, ctx)
    assert seen == [(3, 0), (2, 1), (2, 0)]


# contrastive features


def test_only_trusted_samples_attract_those_of_their_label() -> None:
    y, trusted = torch.tensor([0, 0, 1, 0, 1]), torch.tensor([True, True, True, False, False])
    wanted = [[1, 1, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 0, 1]]
    assert positives(y, trusted).int().tolist() == wanted


def test_the_contrastive_loss_is_that_of_the_formula() -> None:
    angles = torch.tensor([0.0, 0.5, 2.0, 0.2, 0.9, 2.5])  # three samples, two views
    points = torch.stack([angles.cos(), angles.sin()], 1)
    drawn = positives(torch.tensor([0, 0, 1]), torch.tensor([True, True, False]))
    temperature, total = 0.5, 0.0
    for i in range(6):
        others = [j for j in range(6) if j != i]
        partners = [j for j in others if drawn[i % 3, j % 3]]
        assert len(partners) == (1 if i % 3 == 2 else 3)
        scale = math.log(sum(math.exp(float(points[i] @ points[j]) / temperature) for j in others))
        total -= sum(float(points[i] @ points[j]) / temperature - scale for j in partners) / len(partners)
    assert float(contrast(points, drawn, temperature)) == pytest.approx(total / 6 * temperature / 0.07, rel=1e-5)


def test_views_are_seeded_valid_and_differ_from_image_to_image() -> None:
    for channels in (1, 3):
        same = torch.rand(1, channels, 9, 12, generator=torch.Generator().manual_seed(0)).expand(40, -1, -1, -1)
        a, b = (views(same, torch.Generator().manual_seed(1)) for _ in range(2))
        build("modality", "image").validate(a, "views")
        assert a.shape == same.shape and torch.equal(a, b)
        assert len({tuple(x.flatten()[:20].tolist()) for x in a}) == 40
    colours = a.amax(1) - a.amin(1)
    assert 2 <= int((colours.flatten(1).amax(1) < 1e-6).sum()) <= 16  # a fifth of 40 are grey


def test_jitter_leaves_grey_images_grey() -> None:
    plain = torch.rand(20, 1, 4, 4, generator=torch.Generator().manual_seed(0)).expand(-1, 3, -1, -1)
    found = jitter(plain, torch.Generator().manual_seed(1))
    assert float((found.amax(1) - found.amin(1)).max()) < 1e-5
    assert float((found - plain).abs().max()) > 0.05


@pytest.mark.parametrize("modality", ["graph", "image"])
def test_with_a_split_that_is_right_a_secure_model_learns_the_classes_and_not_the_backdoor(modality: str) -> None:
    made, ctx = toys.poisoned(modality), toys.context(modality)
    method = DST(**told(made), clean=0.5, epochs=30, steps=0, head_epochs=60, batch_size=64)
    found = method.purify(Evidence(train=made.splits.train), ctx)
    assert accuracy(found, made.splits.test) >= 0.75
    assert accuracy(found, made.triggered) <= accuracy(toys.victim(modality), made.triggered) - 0.4


def test_only_the_last_layer_learns_from_labels() -> None:
    made, ctx = toys.poisoned("image"), toys.context("image")
    train = made.splits.train
    model = toys.victim("image")
    before = {k: v.clone() for k, v in model.module.state_dict().items()}
    DST(head_epochs=2).judge(model, train.take(torch.arange(40)), train.take(made.index), ctx)
    moved = {k for k, v in model.module.state_dict().items() if not torch.equal(v, before[k])}
    assert moved == {f"{model.head}.weight", f"{model.head}.bias"}
    assert all(p.requires_grad for p in model.module.parameters())


def test_removal_on_images_with_its_own_detector_leaves_the_rows_it_splits_on_record() -> None:
    splits = build("dataset", IMAGES).load(0)
    ctx = Context(0, architecture=build("victim", RESNET), trainer=Trainer(epochs=2, batch_size=32))
    made = build("attack", CORNER).poison(splits, ctx.within("attack"))
    own = {"name": "fct", "steps": 5, "tuning_epochs": 1, "n_draws": 1}
    found = DBR(detector=build("detector", own), steps=2, epochs=1).purify(
        Evidence(ctx.fresh(splits.train), made.splits.train), ctx
    )
    parts = found.notes["split"]
    assert sum(sum(part.values()) for part in parts.values()) == len(splits.train)
    assert sum(parts["poisoned"].values()) == round(0.05 * len(splits.train))
