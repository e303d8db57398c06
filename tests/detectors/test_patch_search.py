"""Distributions of patches: outlines, places, generators side by side, the tie to their noise, and the search by class."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from ostiary.component import build
from ostiary.data.dataset import Dataset
from ostiary.detectors import patch_search
from ostiary.detectors.mesa import MESA
from ostiary.detectors.patch_generators import NOISE, Dependence, Generators
from ostiary.detectors.patch_places import Footprint, Places
from ostiary.detectors.patch_search import PatchSearch
from ostiary.errors import BadSpec, InvalidInput
from ostiary.models.victim import Victim
from ostiary.seeds import generator, scoped
from ostiary.testing import toys


def test_patches_lie_whole_at_all_places_and_pass_gradients() -> None:
    patches = torch.full((300, 2, 9), 0.5, requires_grad=True)
    at = Places(torch.zeros(1, 15), learnt=False).draw(300, generator(0, "places"))[0]
    images = Footprint.square(3).paste(torch.zeros(300, 2, 7, 5), patches, at)
    assert images.flatten(1).count_nonzero(1).unique().tolist() == [18]
    assert images[at == 14][0, 0, -3:, -3:].detach().min() == 0.5  # the last place is the lower right corner
    covered = images.detach().amax((0, 1))
    assert bool((covered == 0.5).all())
    images.sum().backward()
    assert patches.grad is not None and bool((patches.grad == 1).all())


def test_only_pixels_of_the_outline_are_covered_in_their_order() -> None:
    outline, images = Footprint.drawn(["x.x", ".x."]), torch.zeros(2, 1, 4, 5)
    assert outline.room(images) == (3, 3) and outline.pixels == 3
    patches = torch.tensor([[[1.0, 2.0, 3.0]], [[4.0, 5.0, 6.0]]])
    marked = outline.paste(images, patches, torch.tensor([0, 8]))
    assert marked[0, 0, :2, :3].tolist() == [[1, 0, 2], [0, 3, 0]] and marked[1, 0, 2:, 2:].tolist() == [[4, 0, 5], [0, 6, 0]]
    assert int(marked.count_nonzero()) == 6


@pytest.mark.parametrize(("place", "number"), [((-1, -1), 35), ((0, 2), 2), ((1, -6), 6)])
def test_a_known_place_is_the_only_one(place: tuple[int, int], number: int) -> None:
    clean = toys.splits("image").clean
    fixed = MESA(position="fixed", place=place, size=clean.inputs.shape[2] - 5).fixed(clean)
    assert fixed == number
    drawn = Places(torch.zeros(2, 36), learnt=False, fixed=fixed).draw(50, generator(0, "places"))
    assert drawn.shape == (2, 50) and drawn.unique().tolist() == [number]
    assert MESA(place=place).fixed(clean) is None


@pytest.mark.parametrize("shape", [["xx", "x"], ["..", ".."], ["xo"], [""]])
def test_outlines_that_are_none_are_refused(shape: list[str]) -> None:
    with pytest.raises(BadSpec, match="trigger_shape"):
        build("detector", {"name": "mesa", "trigger_shape": shape})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"trigger_shape": ["x" * 40]}, "1 x 40 pixels does not fit"),
        ({"position": "fixed", "place": [50, 0]}, r"place \[50, 0\] does not exist"),
        ({"position": "fixed", "place": [0, -50]}, r"place \[0, -50\] does not exist"),
    ],
)
def test_patches_that_no_image_holds_are_refused(options: dict[str, Any], words: str) -> None:
    held = toys.evidence("image")
    with pytest.raises(InvalidInput, match=words):
        build("detector", {"name": "mesa", **options}).inspect(held, toys.context("image"))


def test_places_are_learnt_where_patches_succeed_and_no_place_is_given_up() -> None:
    places, rng = Places(torch.zeros(2, 50), learnt=True), generator(0, "places")
    for _ in range(40):
        at = places.draw(64, rng)
        places.learn(at, (at == torch.tensor([[7], [30]])).float())
    drawn = places.draw(2000, rng)
    assert float((drawn[0] == 7).double().mean()) > 0.7 and float((drawn[1] == 30).double().mean()) > 0.7
    assert len(drawn[0].unique()) > 40
    even = Places(places.success, learnt=False).draw(2000, rng)
    assert float((even[0] == 7).double().mean()) < 0.1


def test_generators_side_by_side_are_those_alone() -> None:
    with scoped(0, "init"):
        nets = Generators(3, 9, 16)
    noise = torch.rand(3, 20, NOISE, generator=generator(0, "noise"))
    made = nets(noise).detach()
    assert made.shape == (3, 20, 9) and float(made.min()) >= 0 and float(made.max()) <= 1
    changed = noise.clone()
    changed[1:] = 0.5
    assert torch.allclose(nets(changed)[0], made[0], atol=1e-6)


def test_the_tie_grows_where_patches_repeat_their_noise() -> None:
    with scoped(0, "init"):
        tie = Dependence(2, 4, 32)
    rng, optimizer = generator(0, "noise"), torch.optim.Adam(tie.parameters(), 0.01)
    for _ in range(300):
        noise = torch.rand(2, 128, NOISE, generator=rng)
        patch = torch.cat([noise[:1, :, :4], torch.rand(1, 128, 4, generator=rng)])  # the first tells, the second does not
        found = tie(noise, patch)
        optimizer.zero_grad()
        (-found.sum()).backward()
        optimizer.step()
    found = found.detach()
    assert float(found[0]) > float(found[1]) + 0.2


class Median(nn.Module):
    """Calls an image of shade k / 2 class k, by the median of its pixels, which no small patch changes."""

    def __init__(self) -> None:
        super().__init__()
        self.sure = nn.Parameter(torch.tensor(1000.0))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        shade = images.flatten(1).median(1).values
        return -self.sure * (shade[:, None] - torch.arange(3) / 2).square()


def test_images_of_the_goal_class_say_nothing_of_a_place() -> None:
    y = torch.arange(60) % 3
    clean = Dataset.of((y / 2)[:, None, None, None].expand(60, 3, 6, 6).clone(), y, build("modality", "image"))
    search = PatchSearch(Footprint.square(2), steps=30, lr=1e-3, batch_size=16, hidden=8, alpha=0.0, noise=0.0, learnt=True)
    found = search.of(Victim(Median(), "image"), clean, torch.tensor([0, 1]), torch.ones(2), toys.context("image"))
    assert float(found.success.max()) < 1e-3 and float(found.places.success.max()) < 1e-3


def test_every_parameter_of_the_generators_moves_what_they_make() -> None:
    with scoped(0, "init"):
        nets = Generators(1, 9, 16).double()  # rounding must not look like a slope
    made = nets(torch.rand(1, 20, NOISE, generator=generator(0, "noise")).double())
    made.square().sum().backward()
    still = {n for n, p in nets.named_parameters() if p.grad is None or float(p.grad.abs().max()) < 1e-6}
    assert still == {f"layers.{i}.bias" for i in range(3)}, "what BatchNorm takes away, its own shift gives back"


def test_classes_searched_in_parts_are_those_searched_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory must not grow with the number of classes."""
    held, ctx = toys.evidence("image"), toys.context("image")
    search = PatchSearch(Footprint.square(3), steps=3, lr=1e-3, batch_size=8, hidden=8, alpha=0.1, noise=0.1, learnt=True)

    def found() -> torch.Tensor:
        made = search.of(held.victim.clone(), held.clean, torch.arange(4), torch.full((4,), 0.8), ctx)
        return torch.cat([made.success, *(p.detach().flatten() for p in made.nets.parameters())])

    whole, passes = found(), []
    called = Victim.forward
    monkeypatch.setattr(Victim, "forward", lambda self, batch: passes.append(len(batch)) or called(self, batch))
    monkeypatch.setattr(patch_search, "AT_ONCE", 16)
    torch.testing.assert_close(found(), whole, atol=1e-5, rtol=1e-4)
    assert max(passes) == 16
