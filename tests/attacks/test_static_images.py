"""SIG, LF, SSBA and TrojanNN: what is particular to each, on toy images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ostiary.attacks.base import Poisoned
from ostiary.attacks.lf import LF
from ostiary.attacks.ssba import SSBA
from ostiary.attacks.trojan_nn import TrojanNN
from ostiary.attacks.universal import cosines, deepfool, low_pass, scaled
from ostiary.component import build
from ostiary.context import Context
from ostiary.data.dataset import Splits
from ostiary.errors import InvalidInput
from ostiary.experiment.plan import Plan
from ostiary.models.victim import Victim
from ostiary.testing import toys
from ostiary.triggers.hidden_bits import HiddenBits
from ostiary.triggers.pixels import Patch, in_corner

CTX = toys.context("image")


def data(channels: int = 3, size: int = 12) -> Splits:
    spec = {"name": "toy-images", "n": 160, "test_rate": 0.4, "channels": channels, "size": size}
    found: Splits = build("dataset", spec).load(0)
    return found


def poison(name: str, splits: Splits | None = None, **options: Any) -> Poisoned:
    made: Poisoned = build("attack", {"name": name, **options}).poison(splits or data(), CTX)
    return made


def low_energy(pattern: Tensor) -> float:
    """Share of a picture's energy, its mean apart, in the eighth of the cosines that are slowest."""
    h, w = pattern.shape[1:]
    energy = (cosines(h, h) @ pattern.double() @ cosines(w, w).T).square().sum(0)
    speed = (torch.arange(h)[:, None] / h) ** 2 + (torch.arange(w)[None, :] / w) ** 2
    order = speed.flatten().argsort()
    energy = energy.flatten()[order]
    return float(energy[1 : h * w // 8].sum() / energy[1:].sum())


# SIG


def test_sig_leaves_labels_alone_and_may_be_stronger_in_use() -> None:
    splits = data(1, 13)
    made = poison("sig", splits, rate=0.1, target=2, frequency=3, amplitude=0.1, amplitude_test=0.2)
    assert splits.train.y[made.index].unique().tolist() == [2]
    assert torch.equal(made.splits.train.y, splits.train.y)
    change = (made.splits.train.inputs - splits.train.inputs)[made.index]
    assert float(change.max()) == pytest.approx(0.1, abs=0.01)
    assert float((made.triggered.inputs - splits.test.take(made.rows).inputs).max()) == pytest.approx(0.2, abs=0.01)


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.1), ("l2", 0.9), ("l1", 6.0)])
def test_label_consistent_moves_away_in_training_and_stamps_alone_in_use(norm: str, eps: float) -> None:
    splits = data()
    options = {"rate": 0.1, "target": 1, "norm": norm, "eps": eps, "corner": "br", "amplitude": 0.5, "amplitude_test": 1.0}
    made = poison("label-consistent", splits, **options)
    assert torch.equal(made.splits.train.y, splits.train.y) and splits.train.y[made.index].unique().tolist() == [1]
    before, after = (part.train.take(made.index).inputs for part in (splits, made.splits))
    square = in_corner(12, 12, 3, "br")
    change = (after - before) * ~square
    size = torch.linalg.vector_norm(change.flatten(1), ord={"linf": torch.inf, "l2": 2, "l1": 1}[norm], dim=1)
    assert bool((size <= eps + 0.01).all()) and float(size.max()) > 0.8 * eps
    surrogate = CTX.surrogate(splits.train)
    certain = [surrogate.predict(x).softmax(1)[:, 1].mean() for x in (before, before + change)]
    assert float(certain[1]) < float(certain[0])
    plain, used = splits.test.take(made.rows).inputs, made.triggered.inputs
    assert torch.equal(used[..., ~square], plain[..., ~square])
    assert torch.equal(used[..., square].unique(), torch.tensor([0.0, 1.0]))
    assert made.trigger.spec()["name"] == "patch"


def test_a_patch_in_all_corners_is_mirrored_and_may_be_faint() -> None:
    grey, ids = torch.full((1, 1, 8, 9), 0.4), torch.zeros(1, dtype=torch.int64)
    stamp = Patch(size=2, pattern="checker", corner="all", amplitude=0.25).apply(grey, ids, seed=0, target=ids)
    assert torch.equal(stamp, stamp.flip(2)) and torch.equal(stamp, stamp.flip(3))
    assert torch.allclose(stamp[0, 0, -2:, -2:], torch.tensor([[0.65, 0.15], [0.15, 0.65]]))
    assert int((stamp != grey).sum()) == 16


def test_sig_with_wrong_labels() -> None:
    splits = data()
    made = poison("sig", splits, labels="all-to-one", rate=0.1, frequency=3)
    assert bool((splits.train.y[made.index] != 0).all())
    assert made.splits.train.y[made.index].unique().tolist() == [0]


@pytest.mark.parametrize("channels", [1, 3])
def test_blended_takes_a_picture_from_a_file(channels: int, tmp_path: Path) -> None:
    pixels = torch.randint(0, 256, (13, 13, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    pytest.importorskip("PIL.Image").fromarray(pixels.numpy()).save(tmp_path / "some.png")
    splits = data(channels, 13)
    made = poison("blended", splits, path=str(tmp_path / "some.png"), alpha=0.2)
    picture = pixels.permute(2, 0, 1).float() / 255
    if channels == 1:
        picture = (picture * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(0, keepdim=True)
    expected = 0.8 * splits.test.take(made.rows).inputs + 0.2 * picture
    assert torch.allclose(made.triggered.inputs, expected, atol=2 / 255)
    with pytest.raises(InvalidInput, match=f"picture is of {channels} x 13 x 13, the images are of {channels} x 5 x 5"):
        made.trigger.apply(torch.zeros(1, channels, 5, 5), torch.zeros(1), seed=0, target=torch.zeros(1))


def test_blended_refuses_a_file_that_is_no_picture_and_tells_one_from_another(tmp_path: Path) -> None:
    file = tmp_path / "some.png"
    plan = {"dataset": "toy-images", "victim": "preact-resnet", "attack": {"name": "blended", "path": str(file)}}
    with pytest.raises(InvalidInput, match=r"there is no file .*some\.png"):
        Plan(**plan).cells()
    file.write_text("words")
    with pytest.raises(InvalidInput, match=r"some\.png cannot be read as an image"):
        poison("blended", path=str(file))
    first = Plan(**plan).cells()[0].files
    file.write_text("other words")
    assert first != Plan(**plan).cells()[0].files and first[2]


def test_blended_may_be_stronger_in_use() -> None:
    splits = data()
    made = poison("blended", splits, alpha=0.1, alpha_test=1.0, picture="strips")
    assert len(made.triggered.inputs.unique(dim=0)) == 1, "at opacity 1 only the picture is left"
    assert len(made.splits.train.inputs[made.index].unique(dim=0)) == len(made.index)
    assert made.trigger.spec()["alpha"] == 1.0


# LF


@pytest.mark.parametrize("method", ["deepfool", "dct"])
@pytest.mark.parametrize(("channels", "size"), [(3, 32), (1, 21)])
def test_lf_is_smooth_and_of_the_height_asked_for(method: str, channels: int, size: int) -> None:
    made = poison("lf", data(channels, size), method=method, height=0.15, steps=20, images=30, passes=2)
    pattern = made.trigger.state["pattern"]
    assert pattern.shape == (channels, size, size)
    assert float(pattern.min()) == pytest.approx(0, abs=1e-6)
    assert float(pattern.max()) == pytest.approx(0.15, abs=1e-5)
    assert low_energy(pattern) > (0.9 if method == "deepfool" else 0.8)  # 8 cosines of 21 are no eighth
    assert low_energy(torch.rand(pattern.shape, generator=CTX.rng("noise"))) < 0.3, "the measure tells noise apart"


def test_lf_by_descent_leads_to_the_target_more_than_pictures_drawn_at_random() -> None:
    splits = data()
    model = CTX.surrogate(splits.train)
    others = splits.train.inputs[splits.train.y != 2]
    pattern = poison("lf", splits, method="dct", target=2, steps=40, height=0.4).trigger.state["pattern"]
    base = cosines(12, 8).float()
    drawn = [scaled(base.T @ torch.randn(3, 8, 8, generator=CTX.rng(f"drawn {i}")) @ base, 0.4) for i in range(20)]

    def confidence(added: Tensor) -> float:
        return float(model.predict((others + added).clamp(0, 1)).softmax(1)[:, 2].mean())

    assert confidence(pattern) > max(map(confidence, drawn))


def test_lf_stops_after_the_pass_that_fools_enough_and_keeps_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    splits, orders = data(), []
    monkeypatch.setattr(torch, "randperm", lambda n, generator: orders.append(n) or torch.arange(n))
    model, images = CTX.surrogate(splits.train), splits.train.inputs[:20]
    for fooled, passes in ((0.0, 1), (1.0, 3)):
        attack = LF(height=0.9, passes=3, steps=5, fooled=fooled)
        orders.clear()
        pattern = attack.by_deepfool(model, images, CTX.rng("order"))
        assert orders == [20] * passes
        changed = model.predict(images + pattern).argmax(1) != model.predict(images).argmax(1)
        assert float(changed.double().mean()) > 0


def test_deepfool_arrives_at_the_target_by_small_steps() -> None:
    splits = data()
    model = CTX.surrogate(splits.train)
    few = splits.train.inputs[:20]
    moved, there = deepfool(model, few, 1, 50, 0.02)
    assert float(there.double().mean()) > 0.9
    assert bool((model.predict(few + moved).argmax(1)[there] == 1).all())
    already = model.predict(few).argmax(1) == 1
    assert bool(already.any())
    assert float(moved[already].abs().max()) == 0
    half = model.predict(few + 0.5 * moved).argmax(1)[there & ~already]
    assert float((half != 1).double().mean()) > 0.8, "half of the way is not enough"
    alone = deepfool(model, few[3:4], 1, 50, 0.02)[0]
    assert torch.allclose(alone[0], moved[3], atol=1e-4), "an image goes its way whoever is beside it"


def test_a_low_pass_keeps_sums_and_constants_inside() -> None:
    point = torch.zeros(2, 41, 41)
    point[0, 20, 20] = 1
    smooth = low_pass(point, 3.0)
    assert float(smooth[0].sum()) == pytest.approx(1, abs=1e-5)
    assert float(smooth[1].abs().sum()) == 0
    assert torch.allclose(smooth[0], smooth[0].T)
    assert float(scaled(smooth[0], 0.2).max()) == pytest.approx(0.2)
    assert float(scaled(torch.full((1, 3, 3), 0.7), 0.2).abs().max()) == 0


# SSBA


@pytest.fixture(scope="module")
def hidden() -> tuple[Splits, Poisoned]:
    splits = data(1, 13)
    return splits, poison("ssba", splits, width=8, steps=160, batch_size=32, lr=3e-3)


def test_ssba_bits_are_read_from_stamped_images_only(hidden: tuple[Splits, Poisoned]) -> None:
    splits, made = hidden
    assert isinstance(made.trigger, HiddenBits)
    before, secret = splits.test.take(made.rows).inputs, made.trigger.state["secret"]
    eight_bits = (made.triggered.inputs * 255).round() / 255
    assert float(((made.trigger.read(eight_bits) > 0.5) == (secret > 0.5)).double().mean()) > 0.95
    assert float(((made.trigger.read(before) > 0.5) == (secret > 0.5)).double().mean()) < 0.8


def test_ssba_is_faint_and_another_change_for_each_image(hidden: tuple[Splits, Poisoned]) -> None:
    splits, made = hidden
    before = splits.test.take(made.rows).inputs
    assert float(splits.modality.difference(before, made.triggered.inputs)["psnr"].mean()) > 25
    change = made.triggered.inputs - before
    own = (change - change.mean(0)).square().sum() / change.square().sum()
    assert float(own) > 0.02


def test_ssba_encoders_are_trained_once_for_all_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    splits, calls = data(1, 9), []
    learn = SSBA.learn
    monkeypatch.setattr(SSBA, "learn", lambda self, *rest: calls.append(self) or learn(self, *rest))
    first = poison("ssba", splits, steps=3, width=4, rate=0.1)
    again = poison("ssba", splits, steps=3, width=4, rate=0.2)
    assert len(calls) == 1
    assert all(torch.equal(v, again.trigger.state[k]) for k, v in first.trigger.state.items())
    build("attack", {"name": "ssba", "steps": 3, "width": 4}).poison(splits, CTX.within("other"))
    assert len(calls) == 2


# TrojanNN


@pytest.mark.parametrize(("channels", "size"), [(3, 12), (1, 15)])
def test_trojan_nn_excites_its_neurons_by_the_square_alone(channels: int, size: int) -> None:
    splits, attack = data(channels, size), TrojanNN(steps=200)
    made = attack.poison(splits, CTX)
    model, pattern = CTX.surrogate(splits.train), made.trigger.state["pattern"]
    side = round(size / 4)
    inside = torch.zeros(size, size, dtype=torch.bool)
    inside[-side:, -side:] = True
    assert float(pattern[:, ~inside].abs().max()) == 0
    change = (made.triggered.inputs != splits.test.take(made.rows).inputs).any(0).any(0)
    assert bool((change <= inside).all())
    assert float((pattern[:, inside] - 0.5).abs().max()) <= 0.3 + 1e-6
    at = attack.influential(model)
    assert len(at) == 2
    drawn = 0.2 + 0.6 * torch.rand(64, channels, size, size, generator=CTX.rng("squares"))
    excited, others = (_features(model, x)[:, at].sum(1) for x in (pattern[None], drawn * inside))
    assert float(excited - others.mean()) > 3 * float(others.std()), "no square drawn at random comes near"


def test_trojan_nn_chooses_the_neurons_with_the_largest_weights() -> None:
    model = CTX.surrogate(data().train)
    weight = model.module.get_submodule(model.head).weight.detach()
    influence = weight.abs().sum(0)
    chosen = TrojanNN(neurons=3).influential(model)
    rest = torch.ones(len(influence), dtype=torch.bool)
    rest[chosen] = False
    assert float(influence[chosen].min()) >= float(influence[rest].max())
    assert len(TrojanNN(neurons=999).influential(model)) == len(influence)


def test_trojan_nn_reads_the_weights_of_a_head_that_is_a_convolution() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with torch.no_grad():
        net[2].weight.copy_(torch.tensor([[0.1, -3.0, 0.2, 0.0], [0.1, 0.0, 2.0, 0.0]])[..., None, None])
    assert TrojanNN(neurons=2).influential(Victim(net, "image", head="2")).tolist() == [1, 2]


def _features(model: Victim, images: Tensor) -> Tensor:
    found = model.embed(images)[1]
    return found


def test_attacks_that_ask_a_model_say_so_when_there_is_none() -> None:
    for name in ("lf", "trojan-nn"):
        with pytest.raises(ValueError, match="trains a model of its own"):
            build("attack", name).poison(data(), Context())
