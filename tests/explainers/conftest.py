"""What tests of several explainers explain."""

from __future__ import annotations

import pytest
import torch

from ostiary.modality.graphs import Graphs
from ostiary.testing import toys


@pytest.fixture
def graphs() -> Graphs:
    """Four toy graphs in double precision."""
    found: Graphs = toys.splits("graph").test.inputs.take(torch.arange(4))
    return found.with_(x=found.x.double())
