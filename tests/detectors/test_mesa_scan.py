"""MESA's mode of detection: what it flags, recovers and shows, and that it is the purifier's own search."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ostiary.component import build
from ostiary.data.dataset import Dataset
from ostiary.detectors.mesa import MESA
from ostiary.evidence import Evidence
from ostiary.models.victim import Victim
from ostiary.purifiers import mesa
from ostiary.testing import toys


class Planted(nn.Module):
    """Calls an image of shade k / 2 class k, by its median, and class 2 what has a checker in its lower right corner."""

    def __init__(self) -> None:
        super().__init__()
        self.sure = nn.Parameter(torch.tensor(20.0))

    def forward(self, images: Tensor) -> Tensor:
        shade = images.flatten(1).median(1).values
        away = (images[:, 0, -2:, -2:] - torch.eye(2)).square().sum((1, 2))
        said = -self.sure * (shade[:, None] - torch.arange(3) / 2).square()
        return said + torch.tensor([0.0, 0.0, 60.0]) * (-3 * away).exp()[:, None]


@pytest.fixture(scope="module")
def held() -> Evidence:
    y = torch.arange(90) % 3
    clean = Dataset.of((y / 2)[:, None, None, None].expand(90, 1, 6, 6).clone(), y, build("modality", "image"))
    return Evidence(Victim(Planted(), "image"), clean=clean)


SCAN = MESA(size=2, steps=80, hidden=16, lr_patches=0.02, levels=(0.1, 0.8), position="fixed")


def test_the_class_to_which_patches_lead_is_flagged_and_its_patch_recovered(held: Evidence) -> None:
    found = SCAN.inspect(held, toys.context("image"))
    assert SCAN.subject() == "model" and found.classes == (2,) and found.flagged is not None
    assert found.flagged.tolist() == [False, False, True]
    line = found.info["classes"][held.clean.classes[2]]
    assert line["level"] == 0.8 and line["success"] == float(found.scores[2]) and line["rate"] > 0.7
    assert [d["class"] for d in found.info["drawn"]] == [0, 1, 2] and found.trial is not None
    others = held.clean.take((held.clean.y != 2).nonzero().flatten())
    marked = found.trial(others, 2)
    assert torch.equal(marked, found.trial(others, 2))
    assert float((held.victim.predict(marked).argmax(1) == 2).double().mean()) == line["rate"]
    changed = (marked != others.inputs).any(0)[0]
    assert changed.nonzero().tolist() == [[4, 4], [4, 5], [5, 4], [5, 5]]


def test_no_class_is_flagged_where_no_patch_at_that_place_leads_anywhere(held: Evidence) -> None:
    assert SCAN.replace(place=(0, 0)).inspect(held, toys.context("image")).classes == ()


def test_the_detector_is_the_search_of_the_purifier() -> None:
    both, ctx = toys.evidence("image"), toys.context("image")
    scores = MESA(steps=5, hidden=16).inspect(both, ctx.within("scan")).scores
    notes = mesa.MESA(scan_steps=5, hidden=16, flag=1.0).purify(both, ctx).notes
    assert dict(zip(both.clean.classes, scores.tolist(), strict=True)) == notes["success by class"]


def test_a_sample_of_one_class_tells_nothing_of_it(held: Evidence) -> None:
    some = held.clean.take((held.clean.y == 2).nonzero().flatten())
    found = SCAN.replace(steps=2).inspect(Evidence(held.victim, clean=some), toys.context("image"))
    assert float(found.scores[2]) == 0 and [d["class"] for d in found.info["drawn"]] == [0, 1]
