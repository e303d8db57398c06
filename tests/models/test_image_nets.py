"""Image networks: sizes known from the literature, features, normalisation."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ostiary.component import build
from ostiary.data.user import images, split_data
from ostiary.errors import BadSpec, InvalidInput, Unsupported
from ostiary.models.image_layers import Projection
from ostiary.models.victim import Victim
from ostiary.seeds import generator
from ostiary.testing.contracts import check_architecture
from ostiary.training.trainer import Trainer

DATA = images(torch.rand(20, 3, 32, 32, generator=generator(0, "images")), torch.arange(20) % 10)


def make(name: str, **options: Any) -> Victim:
    victim: Victim = build("victim", {"name": name, **options}).make(DATA, 0)
    return victim.eval()


def count(victim: Victim) -> int:
    return sum(p.numel() for p in victim.parameters())


@pytest.mark.slow
def test_preact_resnet18_has_the_published_size() -> None:
    victim = make("preact-resnet", width=64, blocks=[2, 2, 2, 2], final_norm=False)
    assert count(victim) == 11_171_146
    assert {n: tuple(b.shape) for n, b in victim.module.normalise.named_buffers()} == {"mean": (3, 1, 1), "std": (3, 1, 1)}
    assert victim.features(DATA.inputs[:2]).shape == (2, 512)
    assert victim.head == "classifier"
    assert [tuple(s.shape[1:]) for s in victim.layers(DATA.inputs[:1])[1]] == [
        (64, 32, 32),
        (128, 16, 16),
        (256, 8, 8),
        (512, 4, 4),
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "parameters", "features", "sides"),
    [
        ({"name": "preact-resnet"}, 11_171_146 + 1_024, 512, [32, 16, 8, 4]),
        ({"name": "resnet"}, 11_173_962, 512, [32, 16, 8, 4]),
        ({"name": "mobilenet-v2"}, 2_236_682, 1280, [32, 32, 16, 8, 8, 4, 4]),
        ({"name": "efficientnet-b0"}, 4_020_358, 1280, [32, 32, 16, 8, 8, 4, 4]),
    ],
    ids=lambda value: value.get("name") if isinstance(value, dict) else None,
)
def test_paper_presets_have_the_published_size(
    options: dict[str, Any], parameters: int, features: int, sides: list[int]
) -> None:
    """The first three as in the tables; 2.24 and 4.02 million with ten classes are what the CIFAR forms are quoted with."""
    victim = make(preset="paper", **options)
    assert count(victim) == parameters
    assert victim.head == "classifier"
    assert victim.features(DATA.inputs[:1]).shape == (1, features)
    assert [s.shape[2] for s in victim.layers(DATA.inputs[:1])[1]] == sides


@pytest.mark.parametrize(("name", "kernels"), [("mobilenet-v2", {3}), ("efficientnet-b0", {3, 5})])
def test_inverted_blocks_follow_the_tables(name: str, kernels: set[int]) -> None:
    """Channels per stage, one filter per channel in between, a gate of a quarter of the block's input."""
    net = build("victim", {"name": name, "preset": "paper"}).make(DATA, 0).module
    wide = {"mobilenet-v2": [16, 24, 32, 64, 96, 160, 320], "efficientnet-b0": [16, 24, 40, 80, 112, 192, 320]}[name]
    depth = {"mobilenet-v2": [1, 2, 3, 4, 3, 3, 1], "efficientnet-b0": [1, 2, 2, 3, 3, 4, 1]}[name]
    assert [len(stage) for stage in net.layers] == depth
    assert [stage[-1].body[-2].out_channels for stage in net.layers] == wide
    middle = [m for m in net.layers.modules() if isinstance(m, torch.nn.Conv2d) and m.groups > 1]
    assert {m.kernel_size[0] for m in middle} == kernels
    assert all(m.groups == m.in_channels == m.out_channels for m in middle)
    gates = [m for m in net.modules() if type(m).__name__ == "Squeeze"]
    assert len(gates) == (sum(depth) if "efficient" in name else 0)
    if gates:
        assert gates[1].down.out_channels == 4  # a quarter of 16, the input of the second block


def test_width_and_repeats_make_narrow_and_shallow_nets() -> None:
    assert build("victim", {"name": "mobilenet-v2", "width": 0.1}).make(DATA, 0).module.stem[0].out_channels == 8
    net = build("victim", {"name": "mobilenet-v2", "width": 0.25, "repeats": [1, 0, 2, 0, 0, 0, 0]}).make(DATA, 0).module
    assert [len(stage) for stage in net.layers] == [1, 2]
    for repeats in ([1, 1], [0] * 7):
        with pytest.raises(BadSpec, match="repeats must hold 7 numbers, not all 0, one per stage"):
            build("victim", {"name": "efficientnet-b0", "repeats": repeats}).make(DATA, 0)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ["preact-resnet", "resnet", "mobilenet-v2", "efficientnet-b0"])
def test_any_channels_and_odd_sizes_keep_the_contract(name: str, channels: int) -> None:
    pixels = torch.rand(24, channels, 17, 23, generator=generator(0, "odd"))
    check_architecture(build("victim", name), split_data(images(pixels, torch.arange(24) % 3), clean_rate=0.15, test_rate=0.3))


@pytest.mark.parametrize("name", ["preact-resnet", "resnet", "mobilenet-v2", "efficientnet-b0"])
def test_one_pixel_is_enough(name: str) -> None:
    dots = images(torch.rand(8, 1, 1, 1, generator=generator(0, "dots")), torch.arange(8) % 2)
    victim = Trainer(epochs=1, batch_size=4).fit(build("victim", name).make(dots, 0), dots, 0)
    assert victim.predict(dots.inputs).shape == (8, 2)


@pytest.mark.parametrize("name", ["preact-resnet", "resnet", "mobilenet-v2", "efficientnet-b0"])
def test_convolutions_stay_in_channels_last(name: str) -> None:
    """From the first layer to the last: nothing on the way turns the layout back."""
    victim, seen = make(name), []
    for module in victim.module.modules():
        if isinstance(module, torch.nn.Conv2d) and module.weight.shape[1] > 1:
            module.register_forward_pre_hook(lambda _m, inputs: seen.append(inputs[0]))
            assert module.weight.is_contiguous(memory_format=torch.channels_last)
    victim(DATA.inputs[:2])
    assert len(seen) > 4
    assert all(x.is_contiguous(memory_format=torch.channels_last) for x in seen)


@pytest.mark.parametrize(
    "wrong",
    [torch.rand(2, 1, 32, 32), torch.rand(2, 4, 32, 32), torch.zeros(2, 3, 32, 32, dtype=torch.uint8), torch.rand(3, 32, 32)],
    ids=["grey", "four channels", "uint8", "no batch"],
)
def test_other_images_than_trained_on_are_refused(wrong: torch.Tensor) -> None:
    """Grey ones would broadcast to three channels, bytes to pixels of up to 255, without a word."""
    with pytest.raises(InvalidInput, match=r"the network takes floats \[n, 3, height, width\] in \[0, 1\], got torch\."):
        make("preact-resnet")(wrong)


def test_final_norm_adds_a_gain_and_a_bias_per_channel() -> None:
    with_norm, without = (count(make("preact-resnet", width=4, blocks=[1, 1], final_norm=flag)) for flag in (True, False))
    assert with_norm - without == 2 * 8


def test_svhn_cnn_has_the_published_size() -> None:
    victim = make("svhn-cnn")
    assert count(victim) == 1_176_746
    logits, features = victim.embed(DATA.inputs)
    assert (tuple(logits.shape), tuple(features.shape)) == ((20, 10), (20, 256))
    assert [s.shape[2] for s in victim.layers(DATA.inputs[:1])[1]] == [16, 8, 4, 1]


def test_svhn_cnn_says_which_size_it_needs() -> None:
    small = images(torch.rand(4, 3, 28, 28), [0, 1, 0, 1])
    with pytest.raises(Unsupported, match="needs 32 x 32 images, got 28 x 28"):
        build("victim", "svhn-cnn").make(small, 0)


@pytest.mark.parametrize("name", ["preact-resnet", "resnet", "svhn-cnn"])
def test_networks_own_their_normalisation(name: str) -> None:
    """The same weights on data of another brightness: the mean and spread of the training images are taken out."""
    dark = images(DATA.inputs * 0.5, DATA.y)
    arch = build("victim", {"name": name, "width": 4})
    bright, dim = arch.make(DATA, 0).eval(), arch.make(dark, 0).eval()
    torch.testing.assert_close(bright(DATA.inputs), dim(dark.inputs), atol=1e-4, rtol=1e-4)


def test_grey_images_work() -> None:
    grey = images(torch.rand(4, 1, 16, 16), [0, 1, 2, 0])
    assert build("victim", {"name": "preact-resnet", "width": 4}).make(grey, 0).eval()(grey.inputs).shape == (4, 3)


def test_a_narrow_projection_is_the_convolution_it_stands_for() -> None:
    torch.manual_seed(0)
    for d_in, stride in ((4, 2), (4, 1), (8, 2)):
        layer, x = Projection(d_in, 6, stride), torch.rand(3, d_in, 9, 8).contiguous(memory_format=torch.channels_last)
        expected = torch.nn.functional.conv2d(x.contiguous(), layer.weight, stride=stride)
        assert torch.allclose(layer(x), expected, atol=1e-6)
    assert list(Projection(4, 6, 2).state_dict()) == ["weight"]
