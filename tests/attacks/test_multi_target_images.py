"""Image attacks on every class at once: positive triggers, codes and warp fields, and the signed steps beneath the first."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ostiary.attacks.base import Poisoned
from ostiary.attacks.patch_mt import PatchMT
from ostiary.attacks.ppt import PPT
from ostiary.attacks.wanet_mt import WaNetMT
from ostiary.component import build
from ostiary.context import Context
from ostiary.data.dataset import Splits
from ostiary.errors import BadSpec, InvalidInput
from ostiary.modality.image import ImageModality
from ostiary.models.victim import Victim
from ostiary.perturbation import descend, room
from ostiary.testing import toys
from ostiary.training.trainer import Trainer
from ostiary.triggers import per_class
from ostiary.triggers.base import Trigger
from ostiary.triggers.per_class import ClassPatches, ClassWarps
from ostiary.triggers.positive import PositiveTrigger
from ostiary.triggers.warp import jittered, warp_grid, warped

EPS = 0.05


@pytest.fixture(scope="module")
def splits() -> Splits:
    found: Splits = build("dataset", {"name": "toy-images", "n": 240, "n_classes": 3, "test_rate": 0.4}).load(0)
    return found


@pytest.fixture(scope="module")
def ctx() -> Context:
    net = build("victim", {"name": "preact-resnet", "width": 8, "blocks": [1, 1]})
    return Context(0, architecture=net, trainer=Trainer(lr=0.01, epochs=4, batch_size=32))


@pytest.fixture(scope="module")
def poisoned(splits: Splits, ctx: Context) -> Poisoned:
    return PPT(rate=0.1).poison(splits, ctx)


def images(n: int = 20, side: int = 12, channels: int = 3) -> Tensor:
    """Noise, with pixels of pure black and white."""
    noise = 2 * torch.rand(n, channels, side, side, generator=torch.Generator().manual_seed(0)) - 0.5
    return (noise.clamp(0, 1) * 255).round() / 255


def stamped(trigger: Trigger, inputs: Tensor, target: Tensor, seed: int = 1) -> Tensor:
    made: Tensor = trigger.apply(inputs, torch.arange(len(inputs)), seed=seed, target=target)
    return made


def again(trigger: Trigger) -> Trigger:
    spec, tensors = trigger.pack()
    return Trigger.unpack(json.loads(json.dumps(spec)), tensors)


# signed steps


def test_descent_ends_at_the_nearest_point_within_radius_and_room() -> None:
    goal = torch.tensor([0.3, -0.02, -0.9, 0.9])
    low, high = torch.tensor([-1.0, -1.0, -0.05, -1.0]), torch.tensor([1.0, 1.0, 1.0, 0.0])
    found = descend(lambda by: (by - goal).square().sum(), torch.zeros(4), room(0.1, low, high), step=0.01, steps=20)
    torch.testing.assert_close(found, torch.tensor([0.1, -0.02, -0.05, 0.0]), atol=0.011, rtol=0)
    assert float(found.abs().max()) <= 0.1 + 1e-7
    assert not found.requires_grad


def test_descent_starts_anywhere_and_steps_as_far_as_it_is_told() -> None:
    found = descend(lambda by: by.sum(), torch.full((3,), 0.5), room(1.0), step=0.25, steps=2)
    assert torch.equal(found, torch.zeros(3))
    assert torch.equal(descend(lambda by: -by.sum(), torch.full((3,), 5.0), room(1.0), step=0.1, steps=0), torch.ones(3))


def test_descent_works_without_gradients_around_it_and_leaves_none() -> None:
    layer, start = nn.Linear(4, 1), torch.zeros(1, 4)
    with torch.no_grad():
        found = descend(lambda by: layer(torch.ones(5, 4) + by).sum(), start, room(0.3), step=0.1, steps=5)
    torch.testing.assert_close(found, -0.3 * layer.weight.sign().detach())
    assert layer.weight.grad is None
    assert torch.equal(start, torch.zeros(1, 4))
    assert not start.requires_grad


def test_descent_moves_the_node_features_of_graphs_too() -> None:
    graphs, model = toys.splits("graph").clean.inputs, toys.victim("graph")
    modality, goal = model.modality, torch.ones(len(graphs), dtype=torch.int64)
    model.eval()

    def loss(by: Tensor) -> Tensor:
        return F.cross_entropy(model(modality.perturb(graphs, by)), goal, reduction="sum")

    start = modality.unperturbed(graphs)
    found = descend(loss, start, room(0.2), step=0.05, steps=5)
    with torch.no_grad():
        assert float(loss(found)) < float(loss(start))
    assert float((modality.perturb(graphs, found).x - graphs.x).abs().max()) <= 0.2 + 1e-6


def test_descent_ends_early_where_the_loss_says_so() -> None:
    seen: list[Tensor] = []

    def loss(by: Tensor) -> Tensor | None:
        seen.append(by.detach().clone())
        return None if len(seen) > 2 else by.sum()

    found = descend(loss, torch.zeros(2), room(1.0), step=0.1, steps=9)
    assert len(seen) == 3
    assert torch.equal(found, seen[-1])
    assert not found.requires_grad


# PPT


@pytest.mark.parametrize("sign", ["positive", "negative"])
def test_triggers_stay_in_budget_and_move_the_loss_as_their_sign_says(poisoned: Poisoned, sign: str) -> None:
    trigger = poisoned.trigger.replace(sign=sign)
    assert isinstance(trigger, PositiveTrigger)
    before, goal = images(70), torch.arange(70) % 3
    after = stamped(trigger, before, goal)
    assert float((after - before).abs().max()) <= EPS + 1e-6
    assert 0 <= float(after.min()) <= float(after.max()) <= 1
    model = trigger.model(torch.device("cpu"))
    losses = [F.cross_entropy(model.predict(x), goal, reduction="none") for x in (before, after)]
    change = losses[1] - losses[0]
    assert bool((change < 0).all() if sign == "positive" else (change > 0).all())


def test_neutral_noise_fills_the_budget_asks_no_model_and_follows_the_image(poisoned: Poisoned) -> None:
    trigger = poisoned.trigger.replace(sign="neutral", state={})
    before, goal = images(70), torch.arange(70) % 3
    after = stamped(trigger, before, goal)
    room = torch.stack([before, 1 - before]).amin(0) >= EPS
    torch.testing.assert_close((after - before)[room].abs(), torch.full_like(before[room], EPS))
    up = ((after - before)[room] > 0).double().mean()
    assert 0.47 < float(up) < 0.53
    turned = trigger.apply(before.flip(0), torch.arange(69, -1, -1), seed=1, target=goal.flip(0))
    assert torch.equal(turned.flip(0), after), "the noise follows the image's id, whatever its batch"
    signs = (after - before).sign().flatten(1)
    assert float((signs[0] == signs[1]).double().mean()) < 0.7, "another image has another noise"


def test_pixels_leave_black_and_white_again_where_that_helps(poisoned: Poisoned) -> None:
    """The search ends within the bounds of pixels; it does not get stuck beyond them."""

    class Turning(nn.Module):
        """Wants a pixel darker above 0.02, brighter below."""

        def forward(self, x: Tensor) -> Tensor:
            return -torch.stack([((x - 0.02) ** 2).sum((1, 2, 3)), 0 * x.sum((1, 2, 3))], 1)

    trigger = PositiveTrigger(step=0.03, steps=2)
    found = trigger.search(Victim(Turning(), ImageModality()), torch.full((1, 1, 2, 2), 0.025), torch.tensor([0]))
    torch.testing.assert_close(found, torch.full((1, 1, 2, 2), 0.03))


def test_an_image_gets_the_same_trigger_in_any_batch(poisoned: Poisoned) -> None:
    before, goal = images(70), torch.arange(70) % 3
    whole = stamped(poisoned.trigger, before, goal)
    assert torch.equal(stamped(poisoned.trigger, before.flip(0), goal.flip(0)).flip(0), whole)
    assert torch.equal(stamped(poisoned.trigger, before[66:67], goal[66:67], seed=9), whole[66:67])
    assert stamped(poisoned.trigger, before[:0], goal[:0]).shape == (0, 3, 12, 12)


def test_a_reloaded_trigger_gives_the_same_image(poisoned: Poisoned) -> None:
    before, goal = images(9), torch.arange(9) % 3
    weights = {k: v.clone() for k, v in poisoned.trigger.state.items()}
    assert torch.equal(stamped(again(poisoned.trigger), before, goal), stamped(poisoned.trigger, before, goal))
    assert all(torch.equal(v, poisoned.trigger.state[k]) for k, v in weights.items())  # norms have learnt nothing


def test_one_class_can_be_the_only_target(splits: Splits, ctx: Context) -> None:
    made = PPT(rate=0.1, labels={"name": "all-to-one"}, target=2, sign="negative").poison(splits, ctx)
    assert set(made.triggered.y.tolist()) == {2}
    assert set(made.splits.train.y[made.index].tolist()) == {2}
    assert not bool((splits.train.y[made.index] == 2).any())


@pytest.mark.parametrize("name", ["ppt", "patch-mt", "wanet-mt"])
def test_clean_labels_stay_and_every_other_class_is_wanted_in_use(splits: Splits, ctx: Context, name: str) -> None:
    made = build("attack", {"name": name, "preset": "clean-label", "rate": 0.3}).poison(splits, ctx)
    assert torch.equal(made.splits.train.y, splits.train.y)
    assert set(splits.train.y[made.index].tolist()) == {0, 1, 2}
    pairs = set(zip(splits.test.y[made.rows].tolist(), made.triggered.y.tolist(), strict=True))
    assert pairs == {(a, b) for a in range(3) for b in range(3) if a != b}


def test_the_attacker_may_hold_less_data_and_another_network(splits: Splits, ctx: Context) -> None:
    other = {"name": "preact-resnet", "width": 4, "blocks": [1]}
    less = PPT(surrogate_data=0.5, surrogate=other)
    held = less.held(splits.train, ctx)
    assert len(held) == len(splits.train) // 2
    assert set(held.ids.tolist()) < set(splits.train.ids.tolist())
    trigger = less.make_trigger(splits.train, ctx)
    assert trigger.architecture == build("victim", other)
    same = PPT(surrogate=other).make_trigger(splits.train, ctx)
    assert any(not torch.equal(v, same.state[k]) for k, v in trigger.state.items())
    with pytest.raises(BadSpec, match="surrogate_data"):
        PPT(surrogate_data=0.0)


# codes


@pytest.mark.parametrize(("side", "channels"), [(8, 1), (12, 3), (32, 3)])
def test_each_of_200_classes_has_a_code_of_its_own_in_one_place(side: int, channels: int) -> None:
    trigger, before = ClassPatches(made_with=3), torch.full((200, channels, side, side), 0.5)
    after = stamped(trigger, before, torch.arange(200))
    assert torch.equal(stamped(again(trigger), before, torch.arange(200), seed=5), after)
    assert len(after.flatten(1).unique(dim=0)) == 200  # type: ignore[no-untyped-call]
    assert set(after.unique().tolist()) == {0.0, 0.5, 1.0}  # type: ignore[no-untyped-call]
    changed = (after != before).any(1)
    assert bool((changed.sum((1, 2)) == 9).all())
    rows, columns = changed.any(2), changed.any(1)
    assert bool((rows.sum(1) == 3).all() and (columns.sum(1) == 3).all())
    assert len(trigger.codes()[:200].flatten(1).unique(dim=0)) == 200  # type: ignore[no-untyped-call]


def test_places_run_from_the_border_inwards() -> None:
    places = ClassPatches().places(32, 32)
    assert len(places.unique(dim=0)) == 49  # type: ignore[no-untyped-call]
    margin = torch.cat([places, 29 - places], 1).amin(1)  # distance of the patch to the border
    ring = margin // 4
    assert torch.equal(ring, ring.sort()[0])
    assert int((ring == 0).sum()) == 24
    assert not torch.equal(places, ClassPatches(made_with=1).places(32, 32))


def test_codes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InvalidInput, match="7 pixels a side, got 6 x 12"):
        stamped(ClassPatches(), torch.zeros(1, 3, 6, 12), torch.tensor([0]))


# warps


def test_a_grid_of_no_strength_changes_nothing_and_others_shift_by_their_strength() -> None:
    still = warp_grid(4, 0.0, 12, 16, torch.Generator())
    torch.testing.assert_close(warped(images(3), warp_grid(4, 0.0, 12, 12, torch.Generator())), images(3))
    grid = warp_grid(4, 0.5, 12, 16, torch.Generator().manual_seed(0))
    assert grid.shape == (12, 16, 2)
    assert float(grid.abs().max()) <= 1
    shift = (grid - still).abs() * torch.tensor([16, 12])
    assert 0.15 < float(shift.mean()) < 0.75
    more = (warp_grid(4, 1.0, 12, 16, torch.Generator().manual_seed(0)) - still)[4:8, 5:11]  # off the border, where it is cut
    torch.testing.assert_close(more, 2 * (grid - still)[4:8, 5:11])


def test_one_grid_for_all_is_the_same_as_one_each_and_noise_is_the_images_own() -> None:
    before, grid = images(4), warp_grid(4, 0.5, 12, 12, torch.Generator().manual_seed(0))
    assert torch.equal(warped(before, grid), warped(before, torch.stack([grid] * 4)))
    noise = torch.zeros(4, 12, 12, 2)
    noise[2] = 1.0
    apart = (warped(before, jittered(grid, noise)) != warped(before, grid)).flatten(1).any(1)
    assert apart.tolist() == [False, False, True, False]
    assert float((jittered(grid, noise)[2] - grid).max()) == pytest.approx(1 / 12)


@pytest.mark.parametrize(("side", "channels"), [(8, 1), (32, 3)])
def test_every_class_has_a_field_of_its_own_which_stays(side: int, channels: int) -> None:
    trigger = ClassWarps(classes=7, made_with=2)
    before = images(1, side, channels).expand(7, -1, -1, -1)
    after = stamped(trigger, before, torch.arange(7))
    assert len(after.flatten(1).unique(dim=0)) == 7  # type: ignore[no-untyped-call]
    assert torch.equal(stamped(again(trigger), before, torch.arange(7), seed=8), after)
    fields = [trigger.grid(c, side, side) for c in (0, 5)]
    assert not torch.equal(*fields)  # of the same k, in another strength and drawn anew
    assert not torch.equal(ClassWarps(classes=7, made_with=3).grid(0, side, side), fields[0])


def test_k_goes_round_and_strength_rises(monkeypatch: pytest.MonkeyPatch) -> None:
    trigger, made = ClassWarps(classes=11), []

    def note(k: int, strength: float, height: int, width: int, generator: torch.Generator) -> Tensor:
        made.append((k, strength))
        return warp_grid(k, strength, height, width, generator)

    monkeypatch.setattr(per_class, "warp_grid", note)
    for c in range(11):
        trigger.grid(c, 12, 12)
    assert [k for k, _ in made] == [4, 5, 6, 7, 8, 4, 5, 6, 7, 8, 4]
    assert [s for _, s in made] == pytest.approx([0.5 + 0.025 * c for c in range(11)])


def test_training_and_test_images_of_a_class_go_through_one_field(splits: Splits) -> None:
    made = WaNetMT(rate=0.2).poison(splits, Context())
    parts = ((splits.train, made.index, made.splits.train.take(made.index)), (splits.test, made.rows, made.triggered))
    for clean, rows, marked in parts:
        expected = stamped(made.trigger, clean.inputs[rows], marked.y, seed=99)
        torch.testing.assert_close(marked.inputs, expected, atol=0.5 / 255 + 1e-6, rtol=0)  # 8 bits


def test_seeds_give_other_codes_and_fields(splits: Splits) -> None:
    for attack in (PatchMT(rate=0.1), WaNetMT(rate=0.1)):
        one, two = (attack.make_trigger(splits.train, replace(Context(), seed=s)) for s in (0, 1))
        assert one != two
    with pytest.raises(BadSpec, match="k runs from 8 down to 4"):
        WaNetMT(k=(8, 4)).make_trigger(splits.train, Context())
