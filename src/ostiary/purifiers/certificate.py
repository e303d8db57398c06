"""What is certain of predictions by vote."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ostiary.errors import Unsupported


@dataclass(frozen=True, eq=False)
class Certificate:
    """votes: int64 [n, k]. prediction: int64 [n]. margin: int64 [n], what an attacker may use up before a prediction can turn;
    -1 where nothing is certain (abstained). costs: what one change uses up, by its kind: "edges" flipped in an input, "nodes"
    of it overwritten with the edges among them (not those to others), "poisoned" training graphs. alpha: how likely the
    certificate of an input may be wrong, of a vote of random samples that of all of them (Sampled); 0: a proof."""

    votes: Tensor
    prediction: Tensor
    margin: Tensor
    costs: Mapping[str, int] = field(default_factory=dict)
    alpha: float = 0.0

    def covers(self, **changes: int) -> Tensor:
        """Whether the prediction stands under so many changes of each kind, all at once: bool [n]. Raises Unsupported for a
        kind of which it says nothing."""
        if unknown := changes.keys() - self.costs.keys():
            raise Unsupported(f"this certificate covers {', '.join(self.costs)}, not {', '.join(sorted(unknown))}")
        return self.margin >= sum(self.costs[kind] * n for kind, n in changes.items())

    def radius(self, kind: str) -> Tensor | None:
        """The most changes of one kind alone: int64 [n], -1 where abstained; None where nothing is said of that kind."""
        cost = self.costs.get(kind)
        return None if cost is None else self.margin.div(cost, rounding_mode="floor")

    @property
    def edges(self) -> Tensor | None:
        return self.radius("edges")

    @property
    def poisoned(self) -> Tensor | None:
        return self.radius("poisoned")


def margins(votes: Tensor) -> tuple[Tensor, Tensor]:
    """(prediction, how many votes may change sides): floor((N_a - N_b - [a > b]) / 2) for the nearest b; ties fall to the
    smaller class. int64 [n] both."""
    k = votes.shape[1]
    winner = (votes * k - torch.arange(k)).argmax(1)
    lead = votes.gather(1, winner[:, None]) - votes - (winner[:, None] > torch.arange(k)).long()
    lead = lead.scatter(1, winner[:, None], int(votes.sum(1).max()) if len(votes) else 0)
    return winner, lead.amin(1).div(2, rounding_mode="floor")


def clopper_pearson(hits: Tensor, n: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """Exact bounds on a probability from counts, each wrong with probability alpha / 2 (Clopper & Pearson, 1934): float64."""
    from scipy.special import betaincinv

    h, m = (np.asarray(v.cpu(), dtype=float) for v in torch.broadcast_tensors(hits, n))
    low = np.where(h > 0, betaincinv(np.maximum(h, 1), m - h + 1, alpha / 2), 0.0)
    high = np.where(h < m, betaincinv(h + 1, np.maximum(m - h, 1), 1 - alpha / 2), 1.0)
    return torch.from_numpy(low), torch.from_numpy(high)
