"""Edge weights and masks for modules that do not take them: PyG's own explanation mask on every layer.

A module that names `edge_weight` / `edge_mask` in its forward gets them there. Any other module made of PyG's
message-passing layers has its messages multiplied: exact for masks; for weights exact in sums, while layers that
normalise by degree still count a faded edge.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from ostiary.errors import Unsupported
from ostiary.modality.base import Inputs, Modality
from ostiary.modality.graphs import Graphs


@contextmanager
def applied(module: nn.Module, batch: Inputs, modality: Modality) -> Iterator[None]:
    """Inside, the module's messages are scaled by whatever of the batch's weights its forward does not take."""
    factors = _left_over(module, batch, modality) if isinstance(batch, Graphs) else []
    if not factors:
        yield
        return
    layers: list[Any] = [m for m in module.modules() if hasattr(m, "explain") and hasattr(m, "_edge_mask")]
    if not layers:
        raise Unsupported(
            f"{type(module).__name__} takes no edge_weight and has no PyG message-passing layer, so edges cannot be "
            "weighed; add an edge_weight argument to its forward"
        )
    mask = factors[0] if len(factors) == 1 else factors[0] * factors[1]
    was = [(m, m.explain, m._edge_mask, m._loop_mask, m._apply_sigmoid) for m in layers]
    loops = batch.edge_index[0] != batch.edge_index[1]
    for m in layers:
        m.explain = True
        m._edge_mask, m._loop_mask, m._apply_sigmoid = mask, loops, False
    try:
        yield
    finally:
        for m, explain, edge_mask, loop_mask, sigmoid in was:
            m.explain = explain
            m._edge_mask, m._loop_mask, m._apply_sigmoid = edge_mask, loop_mask, sigmoid


def _left_over(module: nn.Module, batch: Graphs, modality: Modality) -> list[Tensor]:
    takes_graphs = modality.accepts(module, "graphs")
    weights = {"edge_weight": batch.edge_weight, "edge_mask": batch.edge_mask}
    return [w for n, w in weights.items() if w is not None and not takes_graphs and not modality.accepts(module, n)]
