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
    assert held.clean is not None
    monkeypatch.setattr(Trainer, "fit", lambda *_, **__: pytest.fail("it has begun to train"))
    with pytest.raises(Unsupported, match="'nad' not applicable: betas names no weight of a layer; give at least one number"):
        NAD(betas=()).purify(held, ctx)
    bare = Evidence(victim=Victim(Bare(held.clean.n_classes), held.clean.modality), clean=held.clean)
    with pytest.raises(Unsupported, match="no layers to compare were found in the module; name them as stages="):
        NAD().purify(bare, ctx)
