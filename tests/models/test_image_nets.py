"""Image networks: sizes known from the literature, features, normalisation."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ostiary.component import build
from ostiary.data.user import images
from ostiary.errors import Unsupported
from ostiary.models.victim import Victim
from ostiary.seeds import generator

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


def test_final_norm_adds_a_gain_and_a_bias_per_channel() -> None:
    with_norm, without = (count(make("preact-resnet", width=4, blocks=[1, 1], final_norm=flag)) for flag in (True, False))
    assert with_norm - without == 2 * 8


def test_svhn_cnn_has_the_published_size() -> None:
    victim = make("svhn-cnn")
    assert count(victim) == 1_176_746
    logits, features = victim.predict(DATA.inputs, features=True)
    assert (tuple(logits.shape), tuple(features.shape)) == ((20, 10), (20, 256))
    assert [s.shape[2] for s in victim.layers(DATA.inputs[:1])[1]] == [16, 8, 4, 1]


def test_svhn_cnn_says_which_size_it_needs() -> None:
    small = images(torch.rand(4, 3, 28, 28), [0, 1, 0, 1])
    with pytest.raises(Unsupported, match="needs 32 x 32 images, got 28 x 28"):
        build("victim", "svhn-cnn").make(small, 0)


@pytest.mark.parametrize("name", ["preact-resnet", "svhn-cnn"])
def test_networks_own_their_normalisation(name: str) -> None:
    """The same weights on data of another brightness: the mean and spread of the training images are taken out."""
    dark = images(DATA.inputs * 0.5, DATA.y)
    arch = build("victim", {"name": name, "width": 4})
    bright, dim = arch.make(DATA, 0).eval(), arch.make(dark, 0).eval()
    torch.testing.assert_close(bright(DATA.inputs), dim(dark.inputs), atol=1e-4, rtol=1e-4)


def test_grey_images_work() -> None:
    grey = images(torch.rand(4, 1, 16, 16), [0, 1, 2, 0])
    assert build("victim", {"name": "preact-resnet", "width": 4}).make(grey, 0).eval()(grey.inputs).shape == (4, 3)
