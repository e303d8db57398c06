"""Two detectors together, by the ranks they give."""

from __future__ import annotations

import torch
from scipy.stats import rankdata
from torch import Tensor

from ostiary.component import Rate
from ostiary.context import Context
from ostiary.detectors.base import Detector, Findings
from ostiary.detectors.rigbd import RIGBD
from ostiary.evidence import Evidence


class RankSum(Detector, name="rank-sum"):
    """Adds up the ranks that two detectors give the rows of a training set, and flags labels in excess among the highest.

    Ours; sums of ranks as in Dwork, Kumar, Naor & Sivakumar, Rank aggregation methods for the Web, WWW 2001,
    doi.org/10.1145/371920.372165. Of the `share` of all rows that rank highest, those labels are suspected of which there are
    more than chance would draw by `above` standard deviations, or the one most in excess: not the most frequent, which in
    uneven classes is the largest. All rows of them there are flagged; where nothing is poisoned these are few as well.
    `first` and `second`: any detectors of training rows; by default RIGBD's score by the given model and by three networks of
    its own, both without restoring last edges: on nodes, one sees triggers that the other does not (block model, four attacks,
    seeds 10 to 13: AUROC of the given model alone 0.91, with own ones 0.95). `share` 0.0225 and `above` 1: chosen there (the
    target is among 1.3 suspected labels on average in 98 % of the runs, with one network in 97). Where most rows are of the
    target, an excess says little: on AIDS with target 1, four graphs in five, with XGBD as `second`, the other label was
    suspected (seed 10).
    """

    modalities = frozenset({"graph", "image", "node"})
    needs = frozenset({"train"})
    about = "train"
    first: Detector = RIGBD(keep_last=False)
    second: Detector = RIGBD(own_model=True, keep_last=False, networks=3)
    share: Rate = 0.0225
    above: float = 1.0

    def needed(self) -> frozenset[str]:
        return self.needs | self.first.needed() | self.second.needed()

    def refuse(self, evidence: Evidence) -> str:
        return self.first.cannot_filter(evidence) or self.second.cannot_filter(evidence)

    def examine(self, evidence: Evidence, ctx: Context) -> Findings:
        train, parts = evidence.train, ((self.first, "first"), (self.second, "second"))
        scores = torch.stack([shared_ranks(part.findings(evidence, ctx.within(name)).scores) for part, name in parts]).sum(0)
        labels, flagged = labels_in_excess(scores, train.y, self.share, self.above)
        info = {"suspected": [train.classes[c] for c in labels], "flagged": int(flagged.sum())}
        return Findings(scores, flagged, labels, info)


def shared_ranks(scores: Tensor) -> Tensor:
    """From 0 for the lowest score to 1 for the highest: float64 [n]; equal scores share the mean of their ranks."""
    return torch.from_numpy(rankdata(scores.numpy()) - 1) / max(1, len(scores) - 1)


def labels_in_excess(scores: Tensor, labels: Tensor, share: float, least: float) -> tuple[tuple[int, ...], Tensor]:
    """Of the rows in the highest `share` the labels in excess by `least` standard deviations, or the one most so, and all rows
    there that bear them: bool [n]; none where all scores are equal, and the order says nothing."""
    flagged = torch.zeros(len(scores), dtype=torch.bool)
    if float(scores.max()) <= float(scores.min()):
        return (), flagged
    n = max(1, round(share * len(scores)))
    above = scores.argsort(descending=True, stable=True)[:n]
    usual = torch.bincount(labels).double() / len(labels)
    found = torch.bincount(labels[above], minlength=len(usual))
    more = (found - n * usual) / (n * usual * (1 - usual)).sqrt().clamp(min=1e-9)
    goals = (more >= min(least, float(more.max()))).nonzero().flatten()
    flagged[above[torch.isin(labels[above], goals)]] = True
    return tuple(goals.tolist()), flagged
