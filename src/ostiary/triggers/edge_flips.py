"""Triggers made of flipped edges: each graph's own, found by the gradient of the attacker's model."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from ostiary.component import NonNegative, Positive, Rate
from ostiary.modality.graphs import Graphs, join, with_degrees
from ostiary.models.edge_gradient import Flips, flip, top_flips
from ostiary.models.victim import Victim
from ostiary.triggers.own_model import ModelTrigger
from ostiary.triggers.ties import best, without

Loss = Callable[[Tensor, Tensor], Tensor]
CHUNK = 256  # graphs per gradient


class EdgeFlips(ModelTrigger):
    """Flips the `flips` node pairs (or `share` of the graph's edges, if that is given) that lower a loss most.

    `steps`: the flips are shared out among so many gradients; 1 takes all from one. No pair is flipped twice.
    `positive_only`: stop where no flip lowers the loss to first order.
    """

    modalities = frozenset({"graph"})
    flips: NonNegative = 0
    share: Rate = 0.0
    steps: Positive = 1
    positive_only: bool = False
    degree_features: bool = False

    @abstractmethod
    def loss_of(self, model: Victim, graphs: Graphs, ids: Tensor, target: Tensor) -> Loss:
        """(logits, features) -> the sum of the graphs' losses."""

    def apply(self, inputs: Graphs, ids: Tensor, *, seed: int, target: Tensor) -> Graphs:
        model, parts = self.model(inputs.x.device), []
        for rows in torch.arange(len(inputs)).split(CHUNK):
            graphs = inputs.take(rows)
            loss = self.loss_of(model, graphs, ids[rows], target[rows])
            m = (self.share * graphs.n_edges / 2).round().long().clamp(min=1) if self.share else self.flips
            parts.append(self.flipped(model, graphs, loss, torch.as_tensor(m).expand(len(graphs))))
        return join(parts)

    def flipped(self, model: Victim, graphs: Graphs, loss: Loss, m: Tensor) -> Graphs:
        done = torch.full((len(graphs), 0, 2), -1, device=graphs.x.device)
        for step in range(self.steps):
            now = m * (step + 1) // self.steps - m * step // self.steps
            chosen = best(partial(self.candidates, model, graphs, loss, done), now)
            done = torch.cat([done, chosen], 1)
            graphs = with_degrees(flip(graphs, chosen)) if self.degree_features else flip(graphs, chosen)
        return graphs

    def candidates(self, model: Victim, graphs: Graphs, loss: Loss, done: Tensor, m: Tensor) -> Flips:
        """The best m (int64 [G]) pairs of each graph that are not done yet, and perhaps more."""
        return without(top_flips(model, graphs, loss, m + done.shape[1], positive_only=self.positive_only), done)


class TowardClass(EdgeFlips, name="flips-toward-class"):
    """The flips that raise the attacker's model's probability of the target class most (TRAP)."""

    def loss_of(self, model: Victim, graphs: Graphs, ids: Tensor, target: Tensor) -> Loss:
        return lambda logits, _: F.cross_entropy(logits, target.to(logits.device), reduction="sum")


class TowardAnchor(EdgeFlips, name="flips-toward-anchor"):
    """The flips that bring a graph's embedding nearest (in cosine) to that of its anchor.

    State: `anchors`, float [p, d], embeddings of other graphs; `ids`, int64 [k], and `pairs`, int64 [k]: the anchor of
    the inputs with these ids. Any other input takes the anchor that is nearest.
    """

    def loss_of(self, model: Victim, graphs: Graphs, ids: Tensor, target: Tensor) -> Loss:
        anchors = self.state["anchors"]
        own = model.embed(graphs)[1]
        chosen = distances(own, anchors).argmin(1)
        known = (ids[:, None] == self.state["ids"][None, :]).nonzero()
        chosen[known[:, 0]] = self.state["pairs"][known[:, 1]]
        goal = anchors[chosen].to(graphs.x.device)
        return lambda _, features: (1 - F.cosine_similarity(features, goal)).sum()

    def doubts(self, inputs: Graphs, ids: Tensor, *, seed: int) -> tuple[str, ...]:
        model, blind = self.model(inputs.x.device), 0
        for rows in torch.arange(len(inputs)).split(CHUNK):
            loss = self.loss_of(model, graphs := inputs.take(rows), ids[rows], ids[rows])  # no target: it asks anchors
            blind += int((top_flips(model, graphs, loss, 1).scores == 0).sum())
        said = f"in {blind} of {len(ids)} graphs to poison no edge moves the attacker's embedding towards its anchor"
        return (f"{said}: their flips are arbitrary",) if blind else ()


def distances(a: Tensor, b: Tensor) -> Tensor:
    """1 - cos(a_i, b_j): float [n, p]."""
    return 1 - F.normalize(a, dim=1) @ F.normalize(b, dim=1).t()
