"""Triggers made of flipped edges: each graph's own, found by the gradient of the attacker's model."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ostiary.component import NonNegative, Positive, Rate
from ostiary.modality.graphs import Graphs, join, with_degrees
from ostiary.models.edge_gradient import Flips, flip, top_flips
from ostiary.models.victim import Victim
from ostiary.triggers.own_model import ModelTrigger

Loss = Callable[[Tensor, Tensor], Tensor]
CHUNK = 256  # graphs per gradient
SPARE, MOST = 16, 1024  # more pairs than wanted, so that ties are seen; where all of these tie, eight times as many
TIE = 2e-5  # of the best score; rounding moves a score by some 1e-6 of it


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
            parts.append(self.flipped(model, graphs, loss, self.wanted(graphs)))
        return join(parts)

    def wanted(self, graphs: Graphs) -> Tensor:
        """How many pairs to flip in each graph: int64 [G]."""
        m = (self.share * graphs.n_edges / 2).round().long().clamp(min=1) if self.share else self.flips
        return torch.as_tensor(m).expand(len(graphs))

    def flipped(self, model: Victim, graphs: Graphs, loss: Loss, m: Tensor) -> Graphs:
        done = torch.full((len(graphs), 0, 2), -1, device=graphs.x.device)
        for step in range(self.steps):
            now = m * (step + 1) // self.steps - m * step // self.steps
            found, spare = self.candidates(model, graphs, loss, now + SPARE, done), SPARE
            while spare < MOST and undecided(found, now):
                spare *= 8
                found = self.candidates(model, graphs, loss, now + spare, done)
            chosen = settled(found, now)
            done = torch.cat([done, chosen], 1)
            graphs = flip(graphs, chosen)
            graphs = with_degrees(graphs) if self.degree_features else graphs
        return graphs

    def candidates(self, model: Victim, graphs: Graphs, loss: Loss, m: Tensor, done: Tensor) -> Flips:
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
        own = model.predict(graphs, features=True)[1]
        assert own is not None
        chosen = distances(own, anchors).argmin(1)
        known = (ids[:, None] == self.state["ids"][None, :]).nonzero()
        chosen[known[:, 0]] = self.state["pairs"][known[:, 1]]
        goal = anchors[chosen].to(graphs.x.device)
        return lambda _, features: (1 - F.cosine_similarity(features, goal)).sum()

    def doubts(self, inputs: Graphs, ids: Tensor, *, seed: int) -> tuple[str, ...]:
        model, blind = self.model(inputs.x.device), 0
        for rows in torch.arange(len(inputs)).split(CHUNK):
            graphs = inputs.take(rows)
            loss = self.loss_of(model, graphs, ids[rows], ids[rows])
            blind += int((top_flips(model, graphs, loss, 1).scores == 0).sum())
        said = f"in {blind} of {len(ids)} graphs to poison no edge moves the attacker's embedding towards its anchor"
        return (f"{said}: their flips are arbitrary",) if blind else ()


def levels(found: Flips) -> Tensor:
    """0 for the best score of each graph, 1 for the next, and so on: float64 [G, k], infinite where there is no pair. By gaps,
    since a score may stand at the edge of any fixed step."""
    falls = found.scores.diff(dim=1).abs() > TIE * found.scores[:, :1].abs()
    return F.pad(falls.double().cumsum(1), (1, 0)).masked_fill(found.pairs[:, :, 0] < 0, torch.inf)


def settled(found: Flips, m: Tensor) -> Tensor:
    """The best m (int64 [G]) pairs of each graph, int64 [G, k, 2], in an order no rounding error can change: the scores of
    twin nodes tie, and then the lower node numbers come first."""
    level, pairs = levels(found), found.pairs
    for place in (1, 0, None):  # the last key counts most
        key = level if place is None else pairs[:, :, place]
        order = torch.argsort(key, dim=1, stable=True)
        pairs, level = pairs.gather(1, order[:, :, None].expand(-1, -1, 2)), level.gather(1, order)
    late = torch.arange(pairs.shape[1], device=pairs.device) >= m[:, None].to(pairs.device)
    return pairs.masked_fill(late[:, :, None], -1)


def undecided(found: Flips, m: Tensor) -> bool:
    """Whether in a graph pairs that were not found may tie with the last of the best m (int64 [G])."""
    level, m = levels(found), m.to(found.pairs.device)
    held = torch.isfinite(level)
    last = level.masked_fill(~held, -torch.inf).amax(1)
    ties = level.gather(1, (m - 1).clamp(min=0)[:, None])[:, 0] == last
    return bool((ties & (m > 0) & (held.sum(1) >= m + SPARE)).any())


def without(found: Flips, done: Tensor) -> Flips:
    """The pairs that are not among `done`, int64 [G, k, 2]; the others stand last, as -1."""
    known = (found.pairs[:, :, None] == done[:, None]).all(3).any(2)
    order = known.long().argsort(dim=1, stable=True)
    pairs = found.pairs.masked_fill(known[:, :, None], -1).gather(1, order[:, :, None].expand(-1, -1, 2))
    return Flips(pairs, found.scores.masked_fill(known, -torch.inf).gather(1, order))


def distances(a: Tensor, b: Tensor) -> Tensor:
    """1 - cos(a_i, b_j): float [n, p]."""
    return 1 - F.normalize(a, dim=1) @ F.normalize(b, dim=1).t()
