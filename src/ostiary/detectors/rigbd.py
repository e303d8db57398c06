"""RIGBD."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from ostiary.component import Positive, Rate
from ostiary.context import Context
from ostiary.data.dataset import Dataset
from ostiary.detectors.base import Findings, InputDetector
from ostiary.detectors.edge_drop import Loopless, sway
from ostiary.evidence import Evidence
from ostiary.models.victim import Victim
from ostiary.training.budget import lowered


class RIGBD(InputDetector, name="rigbd"):
    """Scores a sample by how far its prediction moves when edges are dropped at random.

    Source: Zhang, Lin, Xu, Wu & Wang, Robustness Inspired Graph Backdoor Defense, ICLR 2025, arXiv:2406.09836. In each of
    `passes` (paper: 20) every undirected edge goes with probability `drop` (paper: 0.5), with `keep_last` (the paper; the
    authors' code drops these too) except those of nodes that would be left without any; the score is the sum of KL(whole ||
    thinned). From the top, rows are flagged that carry the suspected class, until two in a row carry another label. The
    defender holds the training set and a model of it. Where a trigger brought an isolated node its only edge, `keep_last`
    never takes it: such poison is not found.

    `own_model` (the paper; preset `paper`): a graph convolutional network without self-loops, trained on the set with the
    plan's recipe, is asked, or several (`networks`, ours), whose scores add up; without it the given model is. One that
    answers every row alike has died, and another is trained at a third of the rate. Differs from the authors' code, which
    reads the true target class from its arguments: it is estimated here as the most frequent label of the `top` rows (ours);
    and which flags the odd row of another label before the cut as well. `on` incoming (ours): predictions stand for the
    labels. Whole graphs, which the paper leaves out, are scored by their own prediction.
    """

    modalities = frozenset({"graph", "node"})
    presets = {"paper": {"own_model": True}}
    added = frozenset({"keep_last", "networks"})
    needs = frozenset()
    on: Literal["train", "incoming"] = "train"
    passes: Positive = 20
    drop: Rate = 0.5
    keep_last: bool = True
    top: Positive = 10
    own_model: bool = False
    networks: Positive = 1

    def needed(self) -> frozenset[str]:
        return super().needed() | {"train" if self.own_model else "victim"}

    def refuse(self, evidence: Evidence) -> str:
        many = self.networks > 1 and not self.own_model
        return "networks are its own and it is to ask the given model; set own_model or leave networks out" if many else ""

    def examine(self, evidence: Evidence, ctx: Context) -> Findings:
        data = self.suspects(evidence)

        def scored(share: float, number: int) -> tuple[Tensor, Tensor]:
            victim = self.own(evidence.train, share, ctx, number) if self.own_model else evidence.victim
            return sway(victim, data, self.passes, self.drop, ctx.key("edges"), self.keep_last)

        if self.own_model:
            nets = [lowered(partial(scored, number=i), lambda found: _apart(found[0]))[0] for i in range(self.networks)]
            scores, logits = (torch.stack(parts).sum(0) for parts in zip(*nets, strict=True))
        else:
            scores, logits = scored(1.0, 0)
        labels = data.y if self.on == "train" else logits.argmax(1)
        goal, flagged = cut(scores, labels, self.top)
        classes = (goal,) if bool(flagged.any()) else ()
        return Findings(scores, flagged, classes, {"suspected": data.classes[goal], "flagged": int(flagged.sum())})

    def own(self, train: Dataset, share: float, ctx: Context, number: int = 0) -> Victim:
        """The model of its own, or the one of this number, at this share of the rate."""
        trainer = ctx.trainer.replace(lr=share * ctx.trainer.lr)
        name = f"own model {number}" if number else "own model"
        inside = replace(ctx.within(name), architecture=Loopless(), trainer=trainer)
        return inside.fit(train, what="rigbd: own model")


def _apart(scores: Tensor) -> bool:
    return float(scores.max()) > float(scores.min())


def cut(scores: Tensor, labels: Tensor, top: int) -> tuple[int, Tensor]:
    """The most frequent label of the `top` rows, and the rows of that label above the first two others in a row; none where
    all scores are equal, and the order says nothing."""
    order = scores.argsort(descending=True, stable=True)
    ranked = labels[order]
    goal = int(torch.bincount(ranked[:top]).argmax())
    hit = ranked == goal
    twice = (~hit[:-1] & ~hit[1:]).nonzero().flatten()
    above = order[: int(twice[0])] if len(twice) else order
    flagged = torch.zeros(len(scores), dtype=torch.bool)
    flagged[above[labels[above] == goal]] = _apart(scores)
    return goal, flagged
