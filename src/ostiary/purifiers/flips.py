"""What flipped pairs leave of a vote's lead where copies of a graph lose edges at random and gain others."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

MOST = 64  # flips that are looked at, lest noise that hides nearly everything takes forever to count
SURE = 1 - 1e-12  # shares beyond are a matter of rounding


def lead(first: Tensor, second: Tensor, p_minus: float, p_plus: float) -> Tensor:
    """By how much a class leads another at least in the votes of all copies once e pairs are flipped, for e = 0, 1, ... up to
    the first that takes the lead from all: float64 [n, e]. first, second: float64 [n, 1], bounds on their shares before, from
    below and from above. A copy loses each edge with probability p_minus and gains each absent pair with p_plus; both together
    are less than 1.

    Of e pairs, a of them absent and d present before, only how many of the a show, less how many of the d, tells copies of the
    changed graph from others: the ratio of their chances falls with that number, and the worst voter goes by it (Neyman &
    Pearson; for two probabilities Bojchevski, Klicpera & Guennemann, ICML 2020, arXiv:2008.12952). The worst a and d count.
    """
    found = [first - second]
    while len(found) <= MOST and bool((found[-1] > 0).any()):
        e = len(found)
        ways = [(e - d, d, p_minus, p_plus) for d in range(e + 1)]
        found.append(torch.stack([least(first, *way) + least(1 - second, *way) - 1 for way in ways]).amin(0))
    return torch.cat(found, 1)


def least(share: Tensor, added: int, deleted: int, p_minus: float, p_plus: float) -> Tensor:
    """The least share that a class can have of the copies of the changed graph, by its share of the others: float64."""
    before, after = less(added, p_plus, deleted, 1 - p_minus), less(added, 1 - p_minus, deleted, p_plus)
    return torch.from_numpy(np.interp(share.clamp(max=SURE).cpu().numpy(), before, after))


@lru_cache(maxsize=4096)
def less(n: int, p: float, m: int, q: float) -> np.ndarray:
    """The chance that a binomial (n, p) less a binomial (m, q) is below -m, ..., n + 1: float64."""
    from scipy.stats import binom

    mass = np.convolve(binom.pmf(range(n + 1), n, p), binom.pmf(range(m, -1, -1), m, q))
    return np.concatenate([[0.0], mass.cumsum()])
