"""MESA: patches at random places, generators side by side, the tie to their noise, and classes found or given."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from ostiary.component import build
from ostiary.data.dataset import Dataset
from ostiary.errors import InvalidInput
from ostiary.evidence import Evidence
from ostiary.models.victim import Victim
from ostiary.purifiers import patch_search
from ostiary.purifiers.mesa import MESA
from ostiary.purifiers.patch_generators import NOISE, Dependence, Generators
from ostiary.purifiers.patch_places import Places, pasted
from ostiary.purifiers.patch_search import Found, PatchSearch, Sampling
from ostiary.seeds import generator, scoped
from ostiary.testing import toys
from ostiary.training.trainer import Trainer

QUICK: dict[str, Any] = {"steps": 3, "scan_steps": 3, "epochs": 1, "hidden": 16}


def test_patches_lie_whole_at_all_places_and_pass_gradients() -> None:
    patches = torch.full((300, 2, 3, 3), 0.5, requires_grad=True)
    at = Places(torch.zeros(1, 15), learnt=False).draw(300, generator(0, "places"))[0]
    images = pasted(torch.zeros(300, 2, 7, 5), patches, at)
    assert images.flatten(1).count_nonzero(1).unique().tolist() == [18]
    assert images[at == 14][0, 0, -3:, -3:].detach().min() == 0.5  # the last place is the lower right corner
    covered = images.detach().amax((0, 1))
    assert bool((covered == 0.5).all())
    images.sum().backward()
    assert patches.grad is not None and bool((patches.grad == 1).all())


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


def test_a_share_of_a_batch_carries_patches_and_labels_stay() -> None:
    with scoped(0, "init"):
        nets = Generators(2, 9, 16)
    batch, y = torch.full((400, 1, 8, 8), 2.0), torch.arange(400)
    state = Trainer().start(toys.victim("image"), toys.splits("image").clean, 0)
    found = Found(nets, Places(torch.zeros(2, 36), learnt=True), torch.zeros(2))
    marked, labels = Sampling(found, 3, 0.2, generator(0, "sampled")).on_batch(state, batch, y, y)
    touched = (marked != 2).flatten(1).sum(1)
    assert set(touched.tolist()) == {0, 9} and 50 < int((touched == 9).sum()) < 110
    assert torch.equal(labels, y)


def test_without_a_class_that_patches_reach_the_model_stays_as_it_is() -> None:
    held = toys.evidence("image")
    found = MESA(**QUICK, flag=1.0).purify(held, toys.context("image"))
    assert found.notes["target"] is None
    assert all(torch.equal(a, b) for a, b in zip(held.victim.parameters(), found.parameters(), strict=True))
    told = MESA(**QUICK, target=2).purify(held, toys.context("image"))
    assert told.notes["target"] == held.clean.classes[2] and "success by class" not in told.notes  # type: ignore[union-attr]


@pytest.mark.parametrize(("options", "words"), [({"size": 40}, "does not fit"), ({"target": 9}, "does not exist")])
def test_bad_options_are_refused(options: dict[str, Any], words: str) -> None:
    held = toys.evidence("image")
    with pytest.raises(InvalidInput, match=words):
        MESA(**QUICK, **options).purify(Evidence(held.victim, clean=held.clean), toys.context("image"))


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
    search = PatchSearch(size=2, steps=30, lr=1e-3, batch_size=16, hidden=8, alpha=0.0, noise=0.0, learnt=True)
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
    search = PatchSearch(size=3, steps=3, lr=1e-3, batch_size=8, hidden=8, alpha=0.1, noise=0.1, learnt=True)

    def found() -> torch.Tensor:
        made = search.of(held.victim.clone(), held.clean, torch.arange(4), torch.full((4,), 0.8), ctx)
        return torch.cat([made.success, *(p.detach().flatten() for p in made.nets.parameters())])

    whole, passes = found(), []
    called = Victim.forward
    monkeypatch.setattr(Victim, "forward", lambda self, batch: passes.append(len(batch)) or called(self, batch))
    monkeypatch.setattr(patch_search, "AT_ONCE", 16)
    torch.testing.assert_close(found(), whole, atol=1e-5, rtol=1e-4)
    assert max(passes) == 16
