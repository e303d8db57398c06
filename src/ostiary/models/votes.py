"""A victim that asks several models about several views of an input and counts their votes."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from ostiary.errors import Unsupported
from ostiary.modality.base import Inputs
from ostiary.models.victim import Victim, check_logits

AT_ONCE = 4096  # views per forward pass, of however many inputs


class View(nn.Module, ABC):
    """Shows a part of each input. count: the views that vote, numbered from 0. among: how many numbers training may draw.

    What a view shows depends on the input, the view's number and the buffers alone, never on the rest of the batch.
    """

    count: int
    among: int

    @abstractmethod
    def forward(self, batch: Inputs, which: Tensor) -> Inputs:
        """View `which[i]` (int64 [n]) of input i, for every input."""

    def draw(self, n: int, rng: Generator) -> Tensor:
        """Numbers to train on: int64 [n]."""
        return torch.randint(self.among, (n,), generator=rng)


class Whole(View):
    """Every input as it is."""

    count = among = 1

    def forward(self, batch: Inputs, which: Tensor) -> Inputs:
        return batch


class Ensemble(nn.Module):
    """The voters' modules and the view before them: all weights and buffers under one roof."""

    def __init__(self, members: Sequence[nn.Module], view: View) -> None:
        super().__init__()
        self.members, self.view = nn.ModuleList(members), view


class Voting(Victim):
    """Every member judges every view. Logits: the votes for each class, less a part of one that lets ties fall to the smaller
    class; `ballots` gives the counts back. Features: their mean over members and views."""

    def __init__(self, members: Sequence[Victim], view: View) -> None:
        super().__init__(Ensemble([m.module for m in members], view), members[0].modality)
        self.members = tuple(members)

    @property
    def view(self) -> View:
        found = self.module.view
        assert isinstance(found, View)
        return found

    def forward(self, batch: Inputs) -> Tensor:
        return self.polled(batch, features=False)[0]

    def both(self, batch: Inputs) -> tuple[Tensor, Tensor]:
        return self.polled(batch, features=True)

    def polled(self, batch: Inputs, *, features: bool) -> tuple[Tensor, Tensor]:
        """Logits and, where asked for, features: not every member has any."""
        n, asked = self.modality.count(batch), self.view.count * len(self.members)
        votes = pooled = torch.zeros((), device=self.device)
        for numbers in torch.arange(self.view.count).split(max(1, AT_ONCE // max(1, n))):
            rows, which = torch.arange(n).repeat(len(numbers)), numbers.repeat_interleave(n)
            seen = self.view(self.modality.take(batch, rows.to(self.device)), which.to(self.device))
            for member in self.members:
                logits, feature = member.both(seen) if features else (member(seen), None)
                said = check_logits(logits, len(rows)).argmax(1)
                votes = votes + F.one_hot(said, logits.shape[1]).view(len(numbers), n, -1).sum(0)
                if feature is not None:
                    pooled = pooled + feature.view(len(numbers), n, -1).sum(0) / asked
        k = votes.shape[1]
        return votes - torch.arange(k, device=votes.device) / (2 * k), pooled

    def stages(self, batch: Inputs) -> tuple[str, ...]:
        raise Unsupported("a vote of several models has no layers of its own; look at one of its members")

    def clone(self) -> Voting:
        other = Voting([m.clone() for m in self.members], copy.deepcopy(self.view))
        other.notes = copy.deepcopy(self.notes)
        other.train(self.training)
        return other


def ballots(logits: Tensor) -> Tensor:
    """The votes in a `Voting` victim's logits: int64 [n, k]."""
    return logits.ceil().long()
