"""Waves, pictures, and hidden bits: what is added to images."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from ostiary.attacks.universal import cosines
from ostiary.errors import InvalidInput
from ostiary.seeds import generator, scoped
from ostiary.triggers.additive import Perturbation, Sinusoid
from ostiary.triggers.hidden_bits import HiddenBits
from ostiary.triggers.pixels import Blend, Patch, in_corner
from ostiary.triggers.stegastamp import Steganography

IDS = torch.arange(2)


def grey(channels: int = 3, h: int = 5, w: int = 24, value: float = 0.5) -> torch.Tensor:
    return torch.full((2, channels, h, w), value)


def stamped(trigger: Any, images: torch.Tensor) -> torch.Tensor:
    return trigger.apply(images, IDS[: len(images)], seed=0, target=IDS[: len(images)])  # type: ignore[no-any-return]


@pytest.mark.parametrize("channels", [1, 3])
def test_the_sinusoid_has_its_amplitude_and_period_and_runs_along_the_columns(channels: int) -> None:
    wave = stamped(Sinusoid(amplitude=0.2, frequency=6), grey(channels)) - 0.5
    expected = torch.tensor([0.2 * math.sin(2 * math.pi * 6 * j / 24) for j in range(24)])
    assert torch.allclose(wave, expected.expand_as(wave), atol=1e-6)
    assert torch.allclose(wave[..., 4:], wave[..., :-4], atol=1e-6), "the period is 24 / 6 = 4 columns"
    assert float(wave.max()) == pytest.approx(0.2)
    assert wave.abs().sum() > 0


def test_the_sinusoid_is_forty_levels_high_by_default_and_clipped() -> None:
    assert float((stamped(Sinusoid(), grey()) - 0.5).max()) * 255 == pytest.approx(40, abs=1e-3)
    bright = stamped(Sinusoid(), grey(value=0.95))
    assert float(bright.max()) == 1.0
    assert float(bright.min()) == pytest.approx(0.95 - 40 / 255)


def test_a_sinusoid_that_would_be_sampled_at_its_zeros_is_refused() -> None:
    with pytest.raises(InvalidInput, match="6 periods cannot be drawn on 12 columns; set frequency below 6"):
        stamped(Sinusoid(), grey(w=12))
    assert bool((stamped(Sinusoid(frequency=6), grey(w=13)) != 0.5).any())


def test_a_perturbation_is_added_where_it_is_not_zero_and_clipped() -> None:
    pattern = torch.zeros(1, 5, 7)
    pattern[0, 2, 3], pattern[0, 0, 0], pattern[0, 4, 6] = 0.25, 0.9, -0.9
    after = stamped(Perturbation(state={"pattern": pattern}), grey(1, 5, 7))
    expected = grey(1, 5, 7)
    expected[:, 0, 2, 3], expected[:, 0, 0, 0], expected[:, 0, 4, 6] = 0.75, 1.0, 0.0
    assert torch.equal(after, expected)


def test_a_perturbation_of_another_shape_or_none_is_refused() -> None:
    with pytest.raises(InvalidInput, match="holds no picture"):
        stamped(Perturbation(), grey())
    with pytest.raises(InvalidInput, match=r"a picture of shape \(1, 5, 24\), the images have shape \(3, 5, 24\)"):
        stamped(Perturbation(state={"pattern": torch.zeros(1, 5, 24)}), grey())


def test_a_corner_is_a_mask_of_its_square() -> None:
    assert in_corner(3, 4, 2, "br").int().tolist() == [[0, 0, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]
    assert in_corner(3, 4, 1, "tl").nonzero().tolist() == [[0, 0]]


def test_a_patch_is_blended_by_its_opacity_and_its_black_pixels_count() -> None:
    after = stamped(Patch(size=2, pattern="checker", alpha=0.25), grey(1, 3, 3, value=0.4))
    assert torch.allclose(after[0, 0, 1:, 1:], torch.tensor([[0.55, 0.3], [0.3, 0.55]]))
    assert torch.equal(after[:, :, 0], grey(1, 3, 3, value=0.4)[:, :, 0])


def test_strips_are_rows_and_columns_of_a_seed() -> None:
    picture = Blend(picture="strips", made_with=3).pattern(3, 9, 11)
    assert picture.shape == (3, 9, 11)
    assert set(picture.unique().tolist()) == {0.0, 0.5, 1.0}
    assert torch.equal(picture[0], picture[2])
    assert len((picture[0] - picture[0, :1]).unique(dim=1)[0]) == 1, "a row differs from the first by one number"
    assert not torch.equal(picture, Blend(picture="strips", made_with=4).pattern(3, 9, 11))


@pytest.mark.parametrize("shape", [(1, 6, 6), (3, 13, 9), (3, 32, 32), (1, 1, 5)])
def test_hidden_bits_suit_images_of_any_size(shape: tuple[int, int, int]) -> None:
    with scoped(0, "init"):
        net = Steganography(shape[0], 5, 4)
    trigger = HiddenBits(channels=shape[0], bits=5, width=4, state=net.state_dict())
    images = torch.rand(2, *shape, generator=generator(0, "images"))
    after = stamped(trigger, images)
    assert after.shape == images.shape
    assert 0 <= float(after.min()) <= float(after.max()) <= 1
    assert trigger.read(after).shape == (2, 5)
    assert torch.allclose(after[:1], stamped(trigger, images[:1]), atol=1e-6)


def test_hidden_bits_of_other_channels_are_refused() -> None:
    with scoped(0, "init"):
        net = Steganography(3, 5, 4)
    trigger = HiddenBits(channels=3, bits=5, width=4, state=net.state_dict())
    with pytest.raises(InvalidInput, match="into images of 3 channels, these have 1; make one for them"):
        stamped(trigger, torch.rand(2, 1, 8, 8))


def test_cosines_are_orthonormal_and_the_first_is_constant() -> None:
    basis = cosines(9, 9)
    assert torch.allclose(basis @ basis.T, torch.eye(9, dtype=torch.float64), atol=1e-12)
    assert torch.allclose(basis[0], torch.full((9,), 1 / 3, dtype=torch.float64))
    assert cosines(5, 8).shape == (5, 5)
