"""Intervals: of a rate from counts, and of a mean over seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

Estimate = dict[str, float | int]


def rate(hits: int, n: int, level: float = 0.95) -> Estimate:
    """A share with its Wilson interval (Wilson, 1927): value, low, high in [0, 1], and n. NaN where n is 0."""
    if n == 0:
        return {"value": math.nan, "low": math.nan, "high": math.nan, "n": 0}
    z = _normal_quantile(0.5 + level / 2)
    p = hits / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low, high = 0.0 if hits == 0 else centre - half, 1.0 if hits == n else centre + half  # rounding must not miss the ends
    return {"value": p, "low": low, "high": high, "n": n}


def lost(before: Sequence[bool], after: Sequence[bool], level: float = 0.95) -> Estimate:
    """What a share fell by, of pairs of answers to the same inputs: value, low, high in [-1, 1], and n; the interval of Agresti
    & Min, Statistics in Medicine 2005 (Wald's with half a pair more of each kind)."""
    n = len(before)
    if n == 0:
        return {"value": math.nan, "low": math.nan, "high": math.nan, "n": 0}
    fell = sum(b and not a for b, a in zip(before, after, strict=True))
    rose = sum(a and not b for b, a in zip(before, after, strict=True))
    centre, both = (fell - rose) / (n + 2), (fell + rose + 1) / (n + 2)
    half = _normal_quantile(0.5 + level / 2) * math.sqrt((both - centre * centre) / (n + 2))
    return {"value": (fell - rose) / n, "low": max(-1.0, centre - half), "high": min(1.0, centre + half), "n": n}


def averaged(estimates: Sequence[Mapping[str, float | int]]) -> Estimate:
    """Mean of independent estimates (each with value, low, high, n) with the interval that follows from theirs (MOVER: Zou &
    Donner, Statistics in Medicine 2008), and n in all."""
    k = len(estimates)
    m = math.fsum(e["value"] for e in estimates) / k
    below, above = (math.sqrt(math.fsum((e["value"] - e[end]) ** 2 for e in estimates)) / k for end in ("low", "high"))
    return {"value": m, "low": m - below, "high": m + above, "n": sum(int(e["n"]) for e in estimates)}


def difference(one: Mapping[str, float | int], other: Mapping[str, float | int]) -> Estimate:
    """One estimate less an independent one (each with value, low, high, n) with the interval that follows from theirs (MOVER,
    as `averaged`), and the lesser n. Of answers to the same inputs, which mostly agree, it is wider than that of `lost`."""
    below = math.hypot(one["value"] - one["low"], other["high"] - other["value"])
    above = math.hypot(one["high"] - one["value"], other["value"] - other["low"])
    v = one["value"] - other["value"]
    return {"value": v, "low": v - below, "high": v + above, "n": min(int(one["n"]), int(other["n"]))}


def mean(values: Sequence[float], level: float = 0.95) -> Estimate:
    """Mean over seeds with Student's t interval, spread (sd, n - 1) and n. One value has no interval (NaN)."""
    found = [v for v in values if not math.isnan(v)]
    n = len(found)
    if n == 0:
        return {"value": math.nan, "low": math.nan, "high": math.nan, "sd": math.nan, "n": 0}
    m = math.fsum(found) / n
    if n == 1:
        return {"value": m, "low": math.nan, "high": math.nan, "sd": math.nan, "n": 1}
    sd = math.sqrt(math.fsum((v - m) ** 2 for v in found) / (n - 1))
    half = _t_quantile(0.5 + level / 2, n - 1) * sd / math.sqrt(n)
    return {"value": m, "low": m - half, "high": m + half, "sd": sd, "n": n}


def _normal_quantile(q: float) -> float:
    from statistics import NormalDist

    return NormalDist().inv_cdf(q)


def _t_quantile(q: float, df: int) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(df, q))
