"""Edge weights and masks for modules that do not take them: PyG's own explanation mask on every layer.

A module that takes `edge_weight` / `edge_mask` gets them there. Any other module made of PyG's message-passing layers
has its messages multiplied: exact for masks; for weights exact in sums, while layers that normalise by degree still
count a faded edge.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ostiary.errors import Unsupported
from ostiary.modality.base import Inputs, Modality
from ostiary.modality.graphs import Graphs
from ostiary.modality.nodes import Nodes

WEIGHTS = ("edge_weight", "edge_mask")


@contextmanager
def applied(module: nn.Module, batch: Inputs, modality: Modality, taken: Collection[str] | None = None) -> Iterator[None]:
    """Inside, the module's messages are scaled by whatever of the batch's weights its forward does not take.

    taken: the names it takes; None: those its forward names.
    """
    if taken is None:
        taken = [n for n in WEIGHTS if modality.accepts(module, "graphs") or modality.accepts(module, n)]
    factors = [w for n, w in held(batch).items() if n not in taken]
    if not factors:
        yield
        return
    layers: list[Any] = [m for m in module.modules() if hasattr(m, "explain") and hasattr(m, "_edge_mask")]
    if not layers and any(modality.accepts(module, n) for n in WEIGHTS):
        raise Unsupported(
            f"what {type(module).__name__} returns does not depend on the edge_weight that it takes, so edges cannot be "
            "weighed; let its messages be multiplied by it"
        )
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
        m._parameters.pop("_edge_mask", None)  # left there by PyG's own explainer, and then not assignable
        m._edge_mask, m._loop_mask, m._apply_sigmoid = mask, loops, False
    try:
        yield
    finally:
        for m, explain, edge_mask, loop_mask, sigmoid in was:
            m.explain = explain
            m._edge_mask, m._loop_mask, m._apply_sigmoid = edge_mask, loop_mask, sigmoid


def held(batch: Inputs) -> dict[str, Tensor]:
    """The weights a batch carries, by name."""
    found = {n: getattr(batch, n) for n in WEIGHTS} if isinstance(batch, Graphs | Nodes) else {}
    return {n: w for n, w in found.items() if w is not None}


def acts(call: Callable[[Inputs], Tensor], batch: Graphs | Nodes, name: str) -> bool:
    """Whether the weights called `name` act on what `call` returns (PyG's models name some that they then ignore)."""
    probe = batch.x.new_ones(batch.edge_index.shape[1]).requires_grad_()
    with torch.enable_grad():
        out = call(batch.with_(**{**dict.fromkeys(WEIGHTS), name: probe}))
        return out.requires_grad and torch.autograd.grad(out.sum(), probe, allow_unused=True)[0] is not None
