"""The one training loop: equal to a plain PyTorch loop, seeded to the byte, with schedules and hooks."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ostiary.component import build
from ostiary.console import listening
from ostiary.data.dataset import Dataset
from ostiary.data.user import images
from ostiary.errors import BadSpec, InvalidInput
from ostiary.modality.image import turned
from ostiary.models.victim import Victim
from ostiary.seeds import generator, scoped
from ostiary.testing import toys
from ostiary.training import trainer as trainer_module
from ostiary.training.augment import augment, crop, flip, rotate
from ostiary.training.hooks import TrainHook
from ostiary.training.trainer import Trainer, TrainState

GRAPHS = toys.splits("graph").train


def data(n: int = 23, size: int = 6) -> Dataset:
    pixels = torch.rand(n, 1, size, size, generator=generator(0, "pixels"))
    return images(pixels, torch.arange(n) % 3)


def net(**options: Any) -> Victim:
    """Flatten, linear, norm, dropout, linear."""
    with scoped(0, "init"):
        dropout = nn.Dropout(options.get("dropout", 0.0))
        module = nn.Sequential(
            nn.Flatten(), nn.Linear(36, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), dropout, nn.Linear(8, 3)
        )
    return Victim(module, "image")


def weights(victim: Victim) -> list[Tensor]:
    return [v.clone() for v in victim.state_dict().values()]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


class Losses(TrainHook):
    """Mean loss of every epoch."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_epoch(self, state: TrainState) -> None:
        if state.epoch:
            self.seen.append(state.loss)

    def on_end(self, state: TrainState) -> None:
        self.seen.append(state.loss)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_equals_a_plain_pytorch_loop(optimizer: str) -> None:
    """The same order of samples gives the same learning curve and the same weights."""
    trainer = Trainer(optimizer=optimizer, lr=0.05, epochs=4, batch_size=8, weight_decay=1e-3, momentum=0.8)
    curve, ours, train = Losses(), net(), data()
    trainer.fit(ours, train, 7, [curve])
    module, order = net().module, generator(7, "order")
    if optimizer == "adam":
        steps: Any = torch.optim.Adam(module.parameters(), 0.05, weight_decay=1e-3)
    else:
        steps = torch.optim.SGD(module.parameters(), 0.05, 0.8, weight_decay=1e-3, nesterov=True)
    expected = []
    for _ in range(4):
        module.train()
        losses = []
        for rows in torch.randperm(23, generator=order).split(8):
            loss = F.cross_entropy(module(train.inputs[rows]), train.y[rows])
            steps.zero_grad()
            loss.backward()
            steps.step()
            losses.append(loss.item())
        expected.append(sum(losses) / len(losses))
    assert curve.seen == pytest.approx(expected, rel=1e-5)
    for a, b in zip(ours.module.parameters(), module.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)
    assert not ours.training


@pytest.mark.parametrize("options", [{}, {"dropout": 0.5}])
def test_same_seed_same_bytes_whatever_else_draws_numbers(options: dict[str, float]) -> None:
    """Dropout too: it only knows torch's global generator."""
    trainer, found = Trainer(epochs=2, batch_size=8), []
    for state in (1, 2):
        with scoped(state, "elsewhere"):
            before = torch.get_rng_state()
            found.append(weights(trainer.fit(net(**options), data(), 5)))
            assert torch.equal(torch.get_rng_state(), before)
    assert same(*found)
    assert not same(found[0], weights(trainer.fit(net(**options), data(), 6)))


def test_dropout_differs_between_steps() -> None:
    class Drop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lin = nn.Linear(36, 3)
            self.seen: list[Tensor] = []

        def forward(self, x: Tensor) -> Tensor:
            self.seen.append(F.dropout(torch.ones(36), 0.5, self.training))
            return self.lin(x.flatten(1))

    module = Drop()
    Trainer(epochs=2, batch_size=8).fit(Victim(module, "image"), data(), 0)
    assert len(module.seen) == 6
    assert len({tuple(m.tolist()) for m in module.seen}) == 6


def test_graphs_train_to_the_same_bytes() -> None:
    arch, trainer = build("victim", {"name": "gin", "hidden": 8, "layers": 2, "dropout": 0.3}), Trainer(epochs=3)
    assert same(*(weights(trainer.fit(arch.make(GRAPHS, 0), GRAPHS, 0)) for _ in range(2)))


# schedules


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"schedule": "constant"}, {0: 1.0, 5: 1.0, 9.9: 1.0}),
        ({"schedule": "step", "step_every": 4, "step_factor": 0.1}, {0: 1.0, 3.9: 1.0, 4: 0.1, 8.5: 0.01}),
        ({"schedule": "cosine"}, {0: 1.0, 5: 0.5, 2.5: 0.5 + math.sqrt(0.5) / 2, 10: 0.0}),
        ({"schedule": "one-cycle"}, {0: 0.04, 1.5: 0.52, 3: 1.0, 6.5: 0.5, 10: 1e-4}),
    ],
)
def test_schedules(options: dict[str, Any], expected: dict[float, float]) -> None:
    trainer = Trainer(epochs=10, **options)
    assert {e: trainer.factor(e) for e in expected} == pytest.approx(expected, abs=1e-9)


def test_the_schedule_reaches_the_optimizer() -> None:
    class Rates(TrainHook):
        seen: list[float] = []

        def on_batch(self, state: TrainState, batch: Any, y: Tensor, rows: Tensor) -> tuple[Any, Tensor]:
            self.seen.append(state.optimizer.param_groups[0]["lr"])
            return batch, y

    Trainer(lr=0.1, epochs=2, batch_size=12, schedule="step", step_every=1, step_factor=0.5).fit(net(), data(), 0, [Rates()])
    assert Rates.seen == pytest.approx([0.1, 0.1, 0.05, 0.05])


# hooks


class Diary(TrainHook):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def on_start(self, state: TrainState) -> None:
        self.lines.append("start")

    def on_epoch(self, state: TrainState) -> None:
        self.lines.append(f"epoch {state.epoch}")

    def on_batch(self, state: TrainState, batch: Any, y: Tensor, rows: Tensor) -> tuple[Any, Tensor]:
        assert torch.equal(state.data.y[rows], y)
        self.lines.append(f"batch {len(rows)}")
        return batch, y

    def loss(self, state: TrainState, batch: Any, y: Tensor, rows: Tensor) -> None:
        self.lines.append("loss")

    def on_end(self, state: TrainState) -> None:
        self.lines.append(f"end {state.step}")


def test_moments_come_in_order() -> None:
    diary = Diary()
    Trainer(epochs=2, batch_size=12).fit(net(), data(), 0, [diary])
    epoch = ["batch 12", "loss", "batch 11", "loss"]
    assert diary.lines == ["start", "epoch 0", *epoch, "epoch 1", *epoch, "end 4"]


def test_a_hook_may_replace_batch_labels_loss_and_data() -> None:
    class Swap(TrainHook):
        def on_epoch(self, state: TrainState) -> None:
            state.data = state.data.relabel(torch.arange(len(state.data)), torch.full((len(state.data),), 2))

    victim = Trainer(lr=0.05, epochs=15, batch_size=8).fit(net(), data(), 0, [Swap()])
    assert victim.predict(data().inputs).argmax(1).unique().tolist() == [2]

    class Frozen(TrainHook):
        def loss(self, state: TrainState, batch: Any, y: Tensor, rows: Tensor) -> Tensor:
            return 0 * state.victim(batch).sum()

    victim = Trainer(lr=0.05, epochs=2, batch_size=8).fit(net(), data(), 0, [Frozen()])
    for a, b in zip(victim.parameters(), net().parameters(), strict=True):
        assert torch.equal(a, b)

    class Blind(TrainHook):
        def on_batch(self, state: TrainState, batch: Tensor, y: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
            return torch.zeros_like(batch), y

    victim = Trainer(lr=0.05, epochs=1, batch_size=8).fit(net(), data(), 0, [Blind()])
    assert torch.equal(victim.module[1].weight, net().module[1].weight), "no pixel, no gradient"


def test_the_first_loss_given_counts() -> None:
    class One(TrainHook):
        def loss(self, state: TrainState, batch: Any, y: Tensor, rows: Tensor) -> Tensor:
            return state.victim(batch).sum() * 0 + 1

    curve = Losses()
    Trainer(epochs=1, batch_size=8).fit(net(), data(), 0, [TrainHook(), One(), curve])
    assert curve.seen == [1.0]


# the rest


def test_a_last_batch_of_one_joins_the_one_before() -> None:
    """BatchNorm cannot train on one sample."""
    diary = Diary()
    Trainer(epochs=1, batch_size=11).fit(net(), data(23), 0, [diary])
    assert [x for x in diary.lines if x.startswith("batch")] == ["batch 11", "batch 12"]


def test_frozen_norms_keep_their_statistics() -> None:
    victim = net()
    Trainer(epochs=2, freeze_norms=True).fit(victim, data(), 0)
    assert float(victim.module[2].running_mean.abs().sum()) == 0
    assert int(victim.module[2].num_batches_tracked) == 0
    assert not torch.equal(victim.module[1].weight, net().module[1].weight)
    Trainer(epochs=2).fit(victim, data(), 0)
    assert int(victim.module[2].num_batches_tracked) > 0


def test_divergence_is_said_in_one_sentence() -> None:
    train = data()
    module = nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.Linear(8, 3))
    with pytest.raises(InvalidInput, match=r"training diverged in epoch \d+ \(loss .*\); lower lr \(now 1e\+30\)"):
        Trainer(optimizer="sgd", lr=1e30, epochs=5, batch_size=8).fit(Victim(module, "image"), train, 0)


def test_gradients_are_clipped() -> None:
    """With SGD without momentum one step moves the weights by lr * the clipped norm."""
    victim, before = net(), [p.detach().clone() for p in net().parameters()]
    Trainer(optimizer="sgd", momentum=0.0, lr=1.0, epochs=1, batch_size=64, max_norm=0.01).fit(victim, data(), 0)
    moved = torch.cat([(a - b).flatten() for a, b in zip(victim.parameters(), before, strict=True)])
    assert float(moved.detach().norm()) == pytest.approx(0.01, rel=1e-3)


def test_frozen_parameters_stay() -> None:
    victim = net()
    victim.module[1].requires_grad_(False)
    Trainer(epochs=2).fit(victim, data(), 0)
    assert torch.equal(victim.module[1].weight, net().module[1].weight)
    assert not torch.equal(victim.module[5].weight, net().module[5].weight)


def test_progress_is_told_to_who_listens() -> None:
    told = []
    with listening(lambda what, done: told.append((what, done))):
        Trainer(epochs=4).fit(net(), data(), 0, what="a model")
    Trainer(epochs=4).fit(net(), data(), 0)
    assert told == [("a model", 0.25), ("a model", 0.5), ("a model", 0.75), ("a model", 1.0)]


def test_options_are_checked() -> None:
    for options in (
        {"epochs": -1},
        {"lr": 0.0},
        {"batch_size": 0},
        {"optimizer": "adan"},
        {"schedule": 3},
        {"weight_decay": 2.0},
    ):
        with pytest.raises(BadSpec):
            build("trainer", {"name": "trainer", **options})


# augmentation


def test_flip_and_crop_move_pixels_of_each_image_on_its_own() -> None:
    pictures = torch.rand(40, 3, 8, 8, generator=generator(1, "x"))
    turned = flip(pictures, generator(0, "flip"))
    mirrored = (turned == pictures.flip(3)).flatten(1).all(1)
    kept = (turned == pictures).flatten(1).all(1)
    assert bool((mirrored ^ kept).all())
    assert 5 < int(mirrored.sum()) < 35
    moved = crop(pictures, generator(0, "crop"), pad=1)
    big = F.pad(pictures, (1,) * 4)
    windows = torch.stack([big[:, :, i : i + 8, j : j + 8] for i in range(3) for j in range(3)])
    hits = (windows == moved).flatten(2).all(2)
    assert bool(hits.any(0).all())
    assert len(set(hits.float().argmax(0).tolist())) > 4


def test_rotation_turns_about_the_centre_and_leaves_half_alone() -> None:
    """By 90 degrees it is torch.rot90 (square or not, where the turned picture fits); by none nothing moves."""
    pictures = torch.zeros(64, 2, 9, 15)
    pictures[:, :, 2:7, 5:10] = torch.rand(64, 2, 5, 5, generator=generator(1, "x"))
    moved = rotate(pictures, generator(0, "turn"), degrees=10)
    kept = (moved == pictures).flatten(1).all(1)
    assert 16 < int(kept.sum()) < 48
    assert float((moved - pictures)[~kept].flatten(1).abs().amax(1).min()) > 0
    torch.testing.assert_close(moved.sum((1, 2, 3)), pictures.sum((1, 2, 3)), rtol=0.06, atol=0)
    quarter = pictures.clone()
    quarter[:, :, 2:7, 5:10] = pictures[:, :, 2:7, 5:10].rot90(1, (2, 3))
    torch.testing.assert_close(turned(pictures, torch.full((64,), math.pi / 2)), quarter, atol=1e-5, rtol=0)


def test_shifts_are_those_of_a_loop_over_images() -> None:
    pictures = torch.rand(20, 3, 7, 9, generator=generator(1, "x"))
    top, left = torch.randint(0, 5, (2, 20), generator=generator(0, "crop"))
    big = F.pad(pictures, (2,) * 4)
    expected = [x[:, i : i + 7, j : j + 9] for x, i, j in zip(big, top.tolist(), left.tolist(), strict=True)]
    assert torch.equal(crop(pictures, generator(0, "crop"), pad=2), torch.stack(expected))


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (
            nn.Conv2d(3, 2, 3),
            r"cannot be trained on inputs of shape \[1, 6, 6\]: .*channels instead; change the inputs or the module",
        ),
        (nn.Sequential(*[nn.MaxPool2d(2)] * 3), r"cannot be trained on inputs of shape \[1, 6, 6\]: .*too small"),
        (nn.Sequential(nn.Flatten(), nn.Linear(36, 2)), "gives 2 logits for 3 classes; give it 3 outputs"),
        (nn.Conv2d(1, 3, 3), r"returned shape \(8, 3, 4, 4\) for 8 inputs, expected \[8, classes\]"),
    ],
)
def test_modules_that_do_not_fit_are_named_before_training(module: nn.Module, words: str) -> None:
    module.register_parameter("spare", nn.Parameter(torch.zeros(1)))
    before = [p.clone() for p in module.parameters()]
    with pytest.raises(InvalidInput, match=words) as caught:
        Trainer(epochs=1, batch_size=8).fit(Victim(module, "image"), data(), 0)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))


def test_outputs_that_are_no_tensor_say_how_to_pick_logits() -> None:
    class Two(nn.Linear):
        def forward(self, x: Tensor) -> Any:
            return super().forward(x.flatten(1)), None

    with pytest.raises(InvalidInput, match="the module returned tuple, expected logits"):
        Trainer(epochs=1).fit(Victim(Two(36, 3), "image"), data(), 0)
    Trainer(epochs=1).fit(Victim(Two(36, 3), "image", forward=lambda m, b: m(b)[0]), data(), 0)


def test_bf16_is_left_out_where_it_is_not_in_hardware(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for there in (False, True):
        monkeypatch.setattr(trainer_module, "has_bf16", lambda device, there=there: there)
        found.append(weights(Trainer(epochs=1, bf16=True).fit(net(), data(), 0)))
    plain = weights(Trainer(epochs=1).fit(net(), data(), 0))
    assert same(found[0], plain)
    assert not same(found[1], plain)
    assert all(torch.allclose(a, b, atol=0.05) for a, b in zip(found[1], plain, strict=True) if a.is_floating_point())


def test_augment_by_name_and_seed() -> None:
    pictures = torch.rand(10, 1, 8, 8, generator=generator(1, "x"))
    assert augment(pictures, "none", generator(0, "a")) is pictures
    first, again, other = (augment(pictures, "crop-flip", generator(s, "a")) for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.shape == pictures.shape


def test_augmentation_changes_training() -> None:
    found = [weights(Trainer(epochs=1, augment=how).fit(net(), data(), 0)) for how in ("none", "crop", "crop")]
    assert same(found[1], found[2])
    assert not same(found[0], found[1])
