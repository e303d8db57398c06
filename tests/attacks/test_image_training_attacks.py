"""WaNet, Input-Aware and Marksman: which rows and labels a batch gets, who receives gradients, and what the triggers keep."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor

from ostiary.attacks.beside import Beside, Learning
from ostiary.attacks.crossing import Crossed, other_rows
from ostiary.attacks.marksman import Marksman
from ostiary.attacks.patterns import JointPatterns, diversity
from ostiary.component import build
from ostiary.context import Context
from ostiary.data.dataset import Splits
from ostiary.data.user import images, split_data
from ostiary.errors import BadSpec, InvalidInput
from ostiary.seeds import generator
from ostiary.training.trainer import Trainer, TrainState
from ostiary.triggers.base import Trigger
from ostiary.triggers.image_generators import ConditionalAutoencoder, EncoderDecoder
from ostiary.triggers.masked_pattern import MASK

SMALL = {"input-aware": {"width": 4, "mask_steps": 5}, "marksman": {"width": 4}}


def toy(n: int = 120, size: int = 12, channels: int = 3) -> Splits:
    spec = {"name": "toy-images", "n": n, "size": size, "channels": channels}
    return build("dataset", {**spec, "test_rate": 0.3}).load(0)


def context(epochs: int = 2) -> Context:
    net = build("victim", {"name": "preact-resnet", "width": 8, "blocks": [1, 1]})
    return Context(0, architecture=net, trainer=Trainer(lr=0.01, epochs=epochs, batch_size=32))


def attack(name: str, **options: Any) -> Any:
    return build("attack", {"name": name, "rate": 0.2, **SMALL.get(name, {}), **options})


def batch_of(made: Any, ctx: Context, size: int = 40) -> tuple[TrainState, Tensor, Tensor, Tensor]:
    """A training about to start, and its first rows as the trainer hands them to a hook."""
    state = ctx.trainer.start(ctx.fresh(made.splits.train), made.splits.train, 0)
    rows = torch.arange(size)
    return state, made.splits.train.inputs[rows], made.splits.train.y[rows], rows


# rows and labels


def test_other_rows_are_unmarked_and_as_many_as_asked() -> None:
    marked = torch.arange(20) < 4
    at = other_rows(marked, 2.0, generator(0, "rows"))
    assert len(set(at.tolist())) == 8
    assert not bool(marked[at].any())
    assert len(other_rows(marked, 9.0, generator(0, "rows"))) == 16  # no more than there are
    assert len(other_rows(marked, 0.0, generator(0, "rows"))) == 0


@pytest.mark.parametrize(("name", "ratio"), [("wanet", 2.0), ("input-aware", 1.0)])
def test_rows_with_a_foreign_trigger_keep_their_labels(name: str, ratio: float) -> None:
    data, ctx = toy(), context()
    made = attack(name).poison(data, ctx)
    state, batch, y, rows = batch_of(made, ctx)
    before = batch.clone()
    whole, said = made.hook.on_batch(state, batch, y, rows)
    now, labels = whole[: len(rows)], said[: len(rows)]
    poisoned = torch.isin(rows, made.index)
    if name == "input-aware":  # the poisoned rows as they were follow
        assert torch.equal(whole[len(rows) :], data.train.inputs[rows[poisoned]])
        assert torch.equal(said[len(rows) :], data.train.y[rows[poisoned]])
    touched = (now != before).flatten(1).any(1) & ~poisoned
    assert int(touched.sum()) == round(ratio * int(poisoned.sum())) > 0
    assert torch.equal(labels[touched], data.train.y[rows][touched])
    assert labels[poisoned].unique().tolist() == [0]
    assert torch.equal(before, batch)  # the training set itself stays as it is


def test_noise_is_drawn_anew_for_every_batch_and_seeded() -> None:
    data, ctx = toy(), context()
    made = attack("wanet").poison(data, ctx)
    state, batch, y, rows = batch_of(made, ctx)

    def hook() -> Crossed:
        return Crossed(made.trigger, made.index, len(data.train), 100.0, 5)

    first, again = hook().on_batch(state, batch, y, rows)[0], hook().on_batch(state, batch, y, rows)[0]
    assert torch.equal(first, again)
    state.step += 1
    assert not torch.equal(first, hook().on_batch(state, batch, y, rows)[0])


def test_marksman_trains_on_the_clean_image_beside_its_triggered_copy() -> None:
    data, ctx = toy(), context(1)
    made = attack("marksman").poison(data, ctx)
    state, batch, y, rows = batch_of(made, ctx)
    hook = made.hook
    assert isinstance(hook, Beside)
    now, labels = hook.on_batch(state, batch, y, rows)
    at = torch.isin(rows, made.index).nonzero().flatten()
    assert len(now) == len(labels) == len(rows) + len(at)
    assert hook.marked.nonzero().flatten().tolist() == at.tolist()
    assert torch.equal(now[len(rows) :], data.train.inputs[rows[at]])
    assert torch.equal(labels[len(rows) :], data.train.y[rows[at]])
    assert bool((labels[at] != data.train.y[rows[at]]).all())  # another class is wanted of each
    other = hook.on_batch(state, batch, y, rows)[1]
    assert not torch.equal(other[at], labels[at])  # and another one the next time


def test_what_needs_the_data_alone_says_so() -> None:
    assert attack("wanet").controls == {"data", "training"}
    assert attack("wanet", cross_ratio=0.0).controls == {"data"}
    assert attack("wanet", cross_ratio=0.0).poison(toy(), context()).hook is None
    assert attack("marksman", mode="poison").controls == {"data"}


# gradients


def test_the_pattern_generator_learns_and_its_gradient_is_set_to_zero() -> None:
    data, ctx = toy(), context()
    made = attack("input-aware").poison(data, ctx)
    hook = made.hook
    assert isinstance(hook, JointPatterns)
    state = ctx.trainer.start(ctx.fresh(data.train), made.splits.train, 0)
    hook.on_start(state)
    before = {k: v.clone() for k, v in hook.net.named_parameters()}
    masks = {k: v.clone() for k, v in hook.masker.state_dict().items()}
    ctx.trainer.run_batch(state, made.index[:8], [hook])
    grads = {k: p.grad for k, p in hook.net.named_parameters()}
    assert all(g is not None and float(g.abs().max()) > 0 for k, g in grads.items() if k.endswith("weight"))
    assert all(not torch.equal(p, before[k]) for k, p in hook.net.named_parameters() if k.endswith("weight"))
    assert all(torch.equal(v, masks[k]) for k, v in hook.masker.state_dict().items())
    rest = torch.ones(len(data.train), dtype=torch.bool).index_fill_(0, made.index, False).nonzero().flatten()
    ctx.trainer.run_batch(state, rest[:8], [hook])  # no poison in this batch
    assert all(p.grad is None for p in hook.net.parameters())


def test_the_marksman_generator_steps_against_a_victim_it_leaves_alone() -> None:
    data, ctx = toy(), context()
    method = attack("marksman")
    trigger = attack("marksman").make_trigger(data.train, context(1))
    hook = Learning(method, trigger, data.train, torch.arange(30), ctx)
    state = ctx.trainer.start(ctx.fresh(data.train), data.train, 0)
    victim = {k: v.clone() for k, v in state.victim.state_dict().items()}
    used = {k: v.clone() for k, v in hook.net.state_dict().items()}
    ahead = {k: v.clone() for k, v in hook.ahead.named_parameters()}
    hook.step(state, data.train.take(torch.arange(30)))
    assert all(torch.equal(v, victim[k]) for k, v in state.victim.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in state.victim.parameters())
    assert all(torch.equal(v, used[k]) for k, v in hook.net.state_dict().items())  # until the epoch ends
    assert all(not torch.equal(p, ahead[k]) for k, p in hook.ahead.named_parameters() if k.endswith("weight"))
    hook.on_epoch(state)
    assert torch.equal(hook.net.steps[0].weight, hook.ahead.steps[0].weight)


def test_the_generator_lowers_its_own_loss() -> None:
    data, ctx = toy(), context(15)
    victim = ctx.fit(data.train)
    method = attack("marksman", generator_lr=0.01, eps=0.2)
    start = attack("marksman", eps=0.2, generator_lr=1e-9).make_trigger(data.train, context(1))
    hook = Learning(method, start, data.train, torch.arange(60), ctx)
    state = ctx.trainer.start(victim, data.train, 0)
    goal = (data.test.y + 1) % 4
    for _ in range(40):
        hook.step(state, data.train.take(torch.arange(60)))
    hook.on_end(state)
    hit = [
        float((victim.predict(t.apply(data.test.inputs, data.test.ids, seed=0, target=goal)).argmax(1) == goal).float().mean())
        for t in (start, hook.trigger)
    ]
    assert hit[1] > hit[0] + 0.3


def test_reset_starts_each_epoch_of_the_surrogate_from_other_weights() -> None:
    data, ctx = toy(60), context()
    start = attack("marksman").make_trigger(data.train, context(1))
    hook = Learning(attack("marksman", reset=True), start, data.train, torch.arange(9), ctx)
    state = ctx.trainer.start(ctx.fresh(data.train), data.train, 0)
    first = state.victim.module.classifier.weight.clone()
    hook.on_epoch(state)
    assert torch.equal(state.victim.module.classifier.weight, first)
    state.epoch = 1
    hook.on_epoch(state)
    assert not torch.equal(state.victim.module.classifier.weight, first)


# triggers


def test_masks_respect_the_density_and_differ() -> None:
    data, ctx = toy(), context()
    trigger = attack("input-aware", mask_steps=60).make_trigger(data.train, ctx)
    _, masks = trigger.of(data.test.inputs)
    assert masks.shape == (len(data.test), 1, 12, 12)
    assert 0.001 < float(masks.mean()) < 2 * 0.032
    wide = attack("input-aware", mask_steps=60, density=1.0).make_trigger(data.train, ctx)
    assert float(wide.of(data.test.inputs)[1].mean()) > 2 * float(masks.mean())
    assert float((masks - masks.roll(1, 0)).abs().amax((1, 2, 3)).median()) > 0.5


def test_diversity_has_no_infinite_slope_where_images_are_the_same() -> None:
    made = torch.rand(4, 3, 6, 6, generator=generator(0, "made")).requires_grad_()
    same = torch.zeros(4, 3, 6, 6)
    diversity(same, same, made, made).backward()
    assert bool(torch.isfinite(made.grad).all())


@pytest.mark.parametrize("labels", ["multi-target", "clean-multi-target", "clean-label", "all-to-one"])
def test_the_residual_stays_within_eps(labels: str) -> None:
    data, ctx = toy(), context(1)
    made = attack("marksman", mode="poison", eps=0.1, labels=labels, generator_lr=0.01).poison(data, ctx)
    assert made.hook is None
    for part, at, now in (
        (data.train, made.index, made.splits.train.inputs[made.index]),
        (data.test, made.rows, made.triggered.inputs),
    ):
        assert 0 < float((now - part.inputs[at]).abs().max()) <= 0.1 + 0.5 / 255 + 1e-6
    loud = made.trigger.replace(state={k: 1000 * v if k == "steps.21.weight" else v for k, v in made.trigger.state.items()})
    grey = torch.full_like(data.test.inputs, 0.5)
    change = (loud.apply(grey, data.test.ids, seed=0, target=data.test.y) - grey).abs()
    assert 0.09 < float(change.max()) <= 0.1 + 1e-6
    kept = torch.equal(made.splits.train.y, data.train.y)
    assert kept == labels.startswith("clean")


def test_the_change_depends_on_the_wanted_class() -> None:
    data = toy()
    trigger = attack("marksman").make_trigger(data.train, context(1))
    x, ids = data.test.inputs, data.test.ids
    one, two = (trigger.apply(x, ids, seed=0, target=torch.full_like(ids, c)) for c in (1, 2))
    assert bool((one != two).flatten(1).any(1).all())


@pytest.mark.parametrize("name", ["wanet", "input-aware", "marksman"])
@pytest.mark.parametrize(("channels", "sides"), [(1, (9, 7)), (3, (13, 18))])
def test_any_size_and_channels_and_the_same_after_reloading(name: str, channels: int, sides: tuple[int, int]) -> None:
    pixels = 0.9 * torch.rand(60, channels, *sides, generator=generator(0, "pixels"))
    data = split_data(images(pixels, torch.arange(60) % 3), test_rate=0.3, clean_rate=0.1)
    ctx = context(1)
    made = attack(name).poison(data, ctx)
    ctx.fit(made.splits.train, [made.hook])
    trigger = attack(name).settle(data, made, ctx).trigger
    spec, state = trigger.pack()
    saved = Trigger.unpack(json.loads(json.dumps(spec)), state)
    x, ids, goal = data.test.inputs, data.test.ids, data.test.y
    now = trigger.apply(x, ids, seed=1, target=goal)
    assert now.shape == x.shape
    assert float(now.min()) >= 0
    assert float(now.max()) <= 1
    assert torch.equal(now, saved.apply(x, ids, seed=1, target=goal))
    other = trigger.mismatched(x, ids, seed=1, target=goal)
    if other is not None:  # Marksman's trigger is told what it is for: none is another's
        assert torch.equal(other, saved.mismatched(x, ids, seed=1, target=goal))
        alone = trigger.mismatched(x[3:4], ids[3:4], seed=1, target=goal[3:4])
        assert torch.allclose(alone[0], other[3], atol=1e-5)
        assert not torch.equal(now, other)
    with pytest.raises(InvalidInput, match=r"made for images of .*; (resize|convert) them"):
        trigger.apply(torch.rand(2, 4 - channels, 6, 5), ids[:2], seed=1, target=goal[:2])


def test_generators_keep_odd_sizes() -> None:
    net = EncoderDecoder(3, 1, 4).eval()
    assert net(torch.rand(2, 3, 5, 11)).shape == (2, 1, 5, 11)
    other = ConditionalAutoencoder(1, (17, 6), 4, 4).eval()
    assert other(torch.rand(2, 1, 17, 6), torch.tensor([0, 3])).shape == (2, 1, 17, 6)


def test_the_final_pattern_is_on_the_training_set() -> None:
    data, ctx = toy(), context()
    method = attack("input-aware")
    made = method.poison(data, ctx)
    first = made.trigger
    ctx.fit(made.splits.train, [made.hook])
    done = method.settle(data, made, ctx)
    learnt = {k for k, v in done.trigger.state.items() if not torch.equal(v, first.state[k])}
    assert learnt
    assert not any(k.startswith(MASK) or k == "bank" for k in learnt)
    rows = data.train.take(done.index)
    again = done.trigger.apply(rows.inputs, rows.ids, seed=0, target=rows.y)
    assert torch.allclose(done.splits.train.inputs[done.index], again, atol=0.5 / 255 + 1e-6)


def test_clean_labels_need_poison_alone() -> None:
    with pytest.raises(BadSpec, match=r"labels 'clean-label' leave labels as they are, .*use mode: poison"):
        Marksman(labels=build("labels", "clean-label"))


# in use


@pytest.mark.parametrize("name", ["wanet", "input-aware", "marksman"])
def test_an_adversary_can_train_against_a_defence_as_well(name: str) -> None:
    """The term on top is of the triggered rows, and changes what the victim (and a pattern learnt with it) becomes."""
    data = toy(60)
    inner = {"name": name, "rate": 0.2, **SMALL.get(name, {})}
    term = {"name": "similarity", "threshold": 1.0}
    method = build("attack", {"name": "adaptive", "attack": inner, "term": term, "alpha": 1.0})
    made = method.poison(data, context(1))
    against = context(1).fit(made.splits.train, [made.hook])
    plain = attack(name).poison(data, context(1))
    alone = context(1).fit(plain.splits.train, [plain.hook])
    assert not torch.equal(against.module.classifier.weight, alone.module.classifier.weight)
    assert torch.equal(method.settle(data, made, context(1)).index, made.index)


def crossed(data: Splits, method: Any, ctx: Context) -> float:
    """Accuracy on test images with a trigger that is not theirs."""
    made = method.poison(data, ctx)
    victim = ctx.fit(made.splits.train, [made.hook] if made.hook else [])
    made = method.settle(data, made, ctx)
    sources = data.test.take(made.rows)
    other = made.trigger.mismatched(sources.inputs, sources.ids, seed=0, target=made.triggered.y)
    return float((victim.predict(other).argmax(1) == sources.y).double().mean())


@pytest.mark.parametrize("name", ["wanet", "input-aware"])
def test_cross_rows_teach_the_victim_whose_trigger_it_is(name: str) -> None:
    data, ctx = toy(300), context(20)
    options = {} if name == "wanet" else {"width": 8, "mask_steps": 100, "sparsity": 10.0, "density": 0.1}
    taught, untaught = (crossed(data, attack(name, **options, **o), ctx) for o in ({}, {"cross_ratio": 0.0}))
    assert taught > 0.6
    assert untaught < taught - 0.3
