"""Spectral signatures."""

from __future__ import annotations

import pytest
import torch

from ostiary.detectors.spectral import along_top


@pytest.mark.parametrize(("n", "d"), [(40, 7), (7, 40), (1, 5), (9, 9)])
def test_projections_on_the_top_direction_are_those_of_a_decomposition(n: int, d: int) -> None:
    features = torch.randn(n, d, generator=torch.Generator().manual_seed(n)).double()
    centred = features - features.mean(0)
    spread, top = torch.linalg.svd(centred, full_matrices=False)[1:]
    found, share = along_top(centred)
    assert torch.allclose(found, (centred @ top[0]).square(), atol=1e-9)
    assert share == pytest.approx(float(spread[0].square() / spread.square().sum().clamp(min=1e-12)))


@pytest.mark.parametrize("shape", [(6, 3), (3, 6)])
def test_features_all_alike_point_nowhere(shape: tuple[int, int]) -> None:
    found, share = along_top(torch.zeros(shape).double())
    assert found.tolist() == [0.0] * shape[0] and share == 0.0
