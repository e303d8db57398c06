"""Random batches beside the training loop."""

from __future__ import annotations

import pytest
import torch

from ostiary.testing import toys
from ostiary.training.draws import draws


@pytest.mark.parametrize("modality", toys.MODALITIES)
def test_batches_are_seeded_rows_with_their_own_labels(modality: str) -> None:
    data = toys.splits(modality).train
    found, again = (list(draws(data, 5, 4, torch.device("cpu"), torch.Generator().manual_seed(1))) for _ in range(2))
    assert len(found) == 4
    for (batch, y), (_, other) in zip(found, again, strict=True):
        assert data.modality.count(batch) == len(y) == 5
        assert torch.equal(y, other)
    assert len({tuple(y.tolist()) for _, y in found}) > 1


def test_small_data_come_whole_each_time() -> None:
    data = toys.splits("image").clean
    for batch, y in draws(data, len(data), 2, torch.device("cpu"), torch.Generator()):
        assert torch.equal(batch, data.inputs) and torch.equal(y, data.y)
