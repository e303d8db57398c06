"""Flexible noise."""

from __future__ import annotations

from torch import Tensor

from ostiary.evidence import Evidence
from ostiary.modality.graphs import Graphs
from ostiary.modality.pairs import absent
from ostiary.models.votes import View
from ostiary.purifiers.flips import lead
from ostiary.purifiers.sampled import RandomEdges, Sampled, Share
from ostiary.seeds import derive, uniform


class FlexibleNoise(Sampled, name="flexible-noise"):
    """Trains on and votes over copies of each graph that lack random edges and have random others, with a certificate.

    Source: Kato, Meguro, Hidano, Suganuma & Hiji, Flexible noise based robustness certification, ICISSP 2025: two
    probabilities, and a bound that depends on the size of the attack alone (read in its abstract; the rest is ours, the bound
    that of Bojchevski, Klicpera & Guennemann, ICML 2020, arXiv:2008.12952). The defender holds the training set, or with
    `retrain` off the model and a few clean graphs. A copy loses each edge with probability `p_minus` and gains each absent
    pair with `p_plus`; degree features are counted again. A pair that a backdoor flips seldom shows in a copy; where it does,
    noise may have made it: a few gained edges hide many more flips than lost ones alone (`edge-drop`), here up to 64. The
    defaults are ours, of five pairs tried (AIDS and NCI1, seed 10) that which certifies most of NCI1 from two flips on;
    gained edges grow with the square of a graph's nodes, so that larger graphs than molecules need a smaller `p_plus`.
    """

    p_minus: Share = 0.9
    p_plus: Share = 0.02

    def refuse(self, evidence: Evidence) -> str:
        both = self.p_minus + self.p_plus
        said = f"p_minus and p_plus add up to {both:g}, and from 1 on no bound is known; lower one of them"
        return said if both >= 1 else super().refuse(evidence)

    def view(self, key: int = 0, degrees: bool = False) -> View:
        return Noisy(self.p_minus, self.p_plus, self.samples, key, degrees)

    def lead(self, first: Tensor, second: Tensor, inputs: Graphs) -> Tensor:
        return lead(first, second, self.p_minus, self.p_plus)


class Noisy(RandomEdges):
    """Every edge is lost with probability `p_minus` and every absent pair is there with `p_plus`, independently."""

    def __init__(self, p_minus: float, p_plus: float, samples: int, key: int, degrees: bool) -> None:
        super().__init__(samples, key, degrees)
        self.p_minus, self.p_plus = p_minus, p_plus

    def keep(self, batch: Graphs, pairs: Tensor, which: Tensor) -> Tensor:
        return uniform(int(self.key), pairs, which[batch.edge_batch]) >= self.p_minus

    def gained(self, kept: Graphs, batch: Graphs, which: Tensor) -> Graphs:
        return kept.with_added(absent(batch, self.p_plus, derive(int(self.key), "gained"), which))
