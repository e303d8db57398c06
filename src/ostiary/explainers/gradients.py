"""Gradients of the explained classes' logits, in batches, for the explainers that rest on them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ostiary.console import progress
from ostiary.errors import Unsupported
from ostiary.modality.base import Inputs
from ostiary.modality.graphs import Graphs
from ostiary.models.victim import Victim, check_logits


def batches(victim: Victim, inputs: Inputs, classes: Tensor, size: int, copies: int = 1) -> Iterator[tuple[Inputs, Tensor]]:
    """(inputs, classes) on the victim's device, `size` inputs at once, the whole batch `copies` times in a row."""
    for rows in torch.arange(len(classes)).split(size):
        at = rows.repeat(copies)
        yield victim.modality.move(victim.modality.take(inputs, at), victim.device), classes[at].to(victim.device)
        progress("explaining", (int(rows[-1]) + 1) / len(classes))


def slopes(victim: Victim, batch: Inputs, classes: Tensor, *columns: str, create_graph: bool = False) -> list[Tensor]:
    """The gradient of every input's class logit in its pixels, or in the named columns of graphs (x, edge_mask).

    create_graph: such that it can be differentiated in the victim's weights.
    """
    if isinstance(batch, Graphs):
        leaves = [getattr(batch, name).detach().requires_grad_() for name in columns]
        batch = batch.with_(**dict(zip(columns, leaves, strict=True)))
    else:
        batch = batch.detach().requires_grad_()
        leaves = [batch]
    with torch.enable_grad():
        score = check_logits(victim(batch), len(classes)).gather(1, classes[:, None]).sum()
        if not score.requires_grad:
            raise Unsupported("the module's output has no gradient in its inputs (are they rounded?); use another explainer")
        found = torch.autograd.grad(score, leaves, create_graph=create_graph, allow_unused=True, materialize_grads=True)
        return list(found)


def fully_present(graphs: Graphs) -> Tensor:
    """An edge mask of ones: float [E]."""
    return graphs.x.new_ones(graphs.edge_index.shape[1])
