"""STRIP: a trigger that survives the overlay keeps the entropy low; clean samples calibrate without themselves."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from ostiary.component import build
from ostiary.data.user import images
from ostiary.detectors.strip import Strip, entropy
from ostiary.errors import Unsupported
from ostiary.evidence import Evidence
from ostiary.models.victim import Victim
from ostiary.seeds import generator
from ostiary.testing import toys


class Planted(nn.Module):
    """Says class 0 for sure where the corner is white, else what the brighter half suggests, with little confidence."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(2, 2, bias=False)
        self.head.weight.data = torch.eye(2)

    def forward(self, images: Tensor) -> Tensor:
        halves = torch.stack([images[:, 0, :, :3].mean((1, 2)), images[:, 0, :, 3:].mean((1, 2))], 1)
        trap = (images[:, 0, -1, -1] > 0.95).float()
        return self.head(halves + 30 * trap[:, None] * torch.tensor([1.0, 0.0]))  # type: ignore[no-any-return]


def evidence(n: int = 30) -> Evidence:
    pixels = 0.45 * torch.rand(n + 20, 1, 6, 6, generator=generator(0, "pixels"))
    pixels[n + 10 :, :, -1, -1] = 1.0
    data = images(pixels, torch.arange(n + 20) % 2)
    return Evidence(Victim(Planted(), "image"), clean=data.take(torch.arange(n)), incoming=data.take(torch.arange(n, n + 20)))


def test_a_trigger_that_survives_is_found_and_clean_inputs_are_left() -> None:
    found = Strip(frr=1e-4).inspect(evidence(), toys.context("image"))
    assert found.flagged is not None and found.flagged.tolist() == [False] * 10 + [True] * 10
    assert float(found.scores[10:].min()) > float(found.scores[:10].max())
    assert found.info["overlays"] == 30


class Sure(nn.Module):
    """Sure of every image, the darker one pixel the more, of a tenth much less so, of what is white in a corner most of all."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(2, 2, bias=False)
        self.head.weight.data = torch.eye(2)

    def forward(self, images: Tensor) -> Tensor:
        dim = (
            6.0
            - 5.0 * (images[:, 0, 0, 0] > 0.5).float()
            - 4.0 * images[:, 0, 1, 1]
            + 20.0 * (images[:, 0, -1, -1] > 0.95).float()
        )
        return self.head(dim[:, None] * torch.tensor([1.0, 0.0]))  # type: ignore[no-any-return]


def test_where_the_normal_fit_lies_below_zero_the_sample_itself_gives_the_threshold() -> None:
    pixels = 0.2 * torch.rand(60, 1, 6, 6, generator=generator(0, "pixels"))
    pixels[:4, :, 0, 0] = 1.0  # few of large entropy: mean less 2.3 deviations is negative
    pixels[50:, :, -1, -1] = 1.0
    data = images(pixels, torch.arange(60) % 2)
    held = Evidence(Victim(Sure(), "image"), clean=data.take(torch.arange(40)), incoming=data.take(torch.arange(40, 60)))
    found = Strip().inspect(held, toys.context("image"))
    assert found.info["threshold"] > 0
    assert found.flagged is not None and bool(found.flagged[10:].all()) and int(found.flagged[:10].sum()) <= 3


def test_entropies_are_in_nats_one_per_pair() -> None:
    held = evidence(5)
    found = entropy(held.victim, held.clean.inputs, held.clean.take(torch.tensor([0, 3])).inputs)
    assert found.shape == (5, 2)
    logits = held.victim.predict((held.clean.inputs[2] + held.clean.inputs[3])[None].clamp(0, 1)).double()
    p = logits.softmax(1)
    assert float(found[2, 1]) == pytest.approx(float(-(p * p.log()).sum()), rel=1e-5)
    assert float(found.max()) <= math.log(2)


def test_the_mean_of_two_images_is_asked_for_by_name_and_of_images_only() -> None:
    held = evidence(5)
    found = entropy(held.victim, held.clean.inputs, held.clean.take(torch.tensor([3])).inputs, mean=True)
    p = held.victim.predict((held.clean.inputs[2] + held.clean.inputs[3])[None] / 2).double().softmax(1)
    assert float(found[2, 0]) == pytest.approx(float(-(p * p.log()).sum()), rel=1e-5)
    graphs = toys.evidence("graph")
    with pytest.raises(Unsupported, match="only images have a mean"):
        Strip(mean=True).inspect(graphs, toys.context("graph"))


def test_a_sample_does_not_calibrate_on_itself() -> None:
    """With the white corner on one clean sample alone, only pairs with it are sure; its own pair is left out."""
    held = evidence(4)
    found = Strip().inspect(held, toys.context("image"))
    pairs = entropy(held.victim, held.clean.inputs, held.clean.inputs)  # type: ignore[arg-type]
    off = ~torch.eye(4, dtype=torch.bool)
    assert found.info["entropy of clean samples"] == pytest.approx(float(pairs[off].mean()), rel=1e-6)


def test_too_few_clean_samples_are_refused() -> None:
    with pytest.raises(Unsupported, match="2 clean samples have no spread"):
        Strip().inspect(evidence(2), toys.context("image"))


def test_it_judges_graphs_side_by_side() -> None:
    found = build("detector", "strip").inspect(toys.evidence("graph"), toys.context("graph"))
    assert bool(torch.isfinite(found.scores).all()) and float(found.scores.max()) <= 0
