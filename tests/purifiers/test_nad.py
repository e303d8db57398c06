"""NAD: what it refuses before its teacher is trained."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ostiary.errors import Unsupported
from ostiary.evidence import Evidence
from ostiary.models.victim import Victim
from ostiary.purifiers.nad import NAD
from ostiary.testing import toys
from ostiary.training.trainer import Trainer


class Bare(nn.Module):
    """A network without any layer of its own."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3, classes))

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))[:, :3] @ self.weight[: x.shape[1]]


def test_no_weight_and_no_layer_are_refused_before_work_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    held, ctx = toys.evidence("image"), toys.context("image")
    monkeypatch.setattr(Trainer, "fit", lambda *_, **__: pytest.fail("it has begun to train"))
    with pytest.raises(Unsupported, match="'nad' not applicable: betas names no weight of a layer; give at least one number"):
        NAD(betas=()).purify(held, ctx)
    bare = Evidence(victim=Victim(Bare(held.clean.n_classes), held.clean.modality), clean=held.clean)
    with pytest.raises(Unsupported, match="no layers to compare were found in the module; name them as stages="):
        NAD().purify(bare, ctx)


def test_a_stage_of_one_pixel_is_passed_over_for_those_that_have_maps() -> None:
    small, wide = torch.rand(2, 5, 8, 1, 1), torch.rand(2, 5, 4, 3, 3)
    student, teacher = ([wide[i], small[i]] for i in (0, 1))
    batch = torch.rand(5, 1, 8, 8)
    assert NAD(betas=(7.0,)).apart(student, teacher, batch) == NAD(betas=(7.0,)).apart([wide[0]], [wide[1]], batch) > 0


def test_a_model_whose_stages_have_one_pixel_each_is_refused() -> None:
    held = toys.evidence("image")
    point = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(held.clean.inputs.shape[1], 4, 1), nn.ReLU(), nn.Flatten())
    point.append(nn.Linear(4, held.clean.n_classes))
    victim = Victim(point, held.clean.modality, stages=["1", "2"])
    with pytest.raises(Unsupported, match="holds a map of more than one pixel"):
        NAD().purify(Evidence(victim=victim, clean=held.clean), toys.context("image"))
