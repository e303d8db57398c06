"""Defences ranked, each over those runs in which it was tried and the attack works. Reads records only."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ostiary.experiment.record import Record
from ostiary.metrics.intervals import Estimate, mean, rate
from ostiary.report import tables
from ostiary.report.levels import curved
from ostiary.report.tables import united
from ostiary.thresholds import EXACT, WORKS

COUNTS = 0.05  # the least difference that counts: 5 points
RANKING = {
    "solved": "solved %",
    "asr": "ASR %",
    "asr_lift": "lift",
    "drop": "ACC drop",
    "ra": "RA %",
    "seconds": "seconds",
    "clean_drop": "ACC drop of clean models",
}


@dataclass(frozen=True)
class Rank:
    """One defence. cells: runs it was judged on; failed: runs in which it refused or failed. figures: mean and spread over
    the former; solved: share of both that `solves`."""

    defence: str
    cells: int
    failed: int
    figures: dict[str, Estimate]


def ranking(records: Iterable[Record]) -> list[Rank]:
    """The best first: by the share of runs it solves, then by what is left of the attack and lost of the accuracy together.
    Points of a curve are not ranked."""
    told = [r for r in records if "asr_lift" in r.metrics.get("victim", {})]
    judged = united(told)
    taken = attacked(judged)
    clean = tables.unpoisoned(judged)
    apart = set().union(*map(curved, told))
    labels = list(dict.fromkeys(label for r in judged for label in tables.purifiers(r) if label not in apart))
    if len(taken) < 2 or len(labels) < 2:
        return []
    found = [_rank("none", taken, [], [r.metrics["victim"] for r in taken])]
    found += [_of(label, taken, clean) for label in labels]
    return sorted((f for f in found if f.cells or f.failed), key=_order)


def uneven(ranks: Iterable[Rank]) -> str:
    """A warning where defences were tried in unlike numbers of runs; else nothing."""
    tried = [rank.cells + rank.failed for rank in ranks if rank.defence != "none"]
    if len(set(tried)) < 2:
        return ""
    told = f"{min(tried)} to {max(tried)} runs, not all in the same"
    return f"The defences were tried in {told}: a better place may be due to easier runs."


def attacked(records: Iterable[Record]) -> list[Record]:
    """The runs in which the attack works."""
    judged = [r for r in records if "asr_lift" in r.metrics.get("victim", {})]
    return [r for r in judged if _value(r.metrics["victim"], "asr_lift") >= WORKS - EXACT]


def _of(label: str, taken: Sequence[Record], clean: Sequence[Record]) -> Rank:
    own = [r for r in taken if label in tables.judged(r)]
    having = [r for r in own if "asr" in r.metrics["purifiers"].get(label, {})]
    seconds = [r.seconds.get(f"purifier {label}", math.nan) for r in having]
    costs = [r.metrics["purifiers"][label] for r in clean if "drop" in r.metrics["purifiers"].get(label, {})]
    figures = [r.metrics["purifiers"][label] for r in having]
    return _rank(label, own, seconds, figures, [_value(c, "drop") for c in costs])


def _rank(
    label: str, own: Sequence[Record], seconds: Sequence[float], held: Sequence[dict[str, Any]], costs: Sequence[float] = ()
) -> Rank:
    values = {c: [_value(m, c) for m in held if c in m] for c in ("asr", "asr_lift", "drop", "ra")}
    values |= {"seconds": list(seconds), "clean_drop": list(costs)}
    figures = {c: mean(v) for c, v in values.items() if v}
    tried = [m for m in held if "drop" in m]
    figures |= {"solved": rate(sum(map(solves, tried)), len(own))} if tried else {}
    return Rank(label, len(held), len(own) - len(held), figures)


def solves(metrics: dict[str, Any]) -> bool:
    """Whether a defence leaves a lift of at most 5 points, takes at most 5 points of accuracy, and does not do so by saying
    one class only: where the classes are as uneven as the victim is poor, that costs no accuracy."""
    most = COUNTS + EXACT
    return _value(metrics, "asr_lift") <= most and _value(metrics, "drop") <= most and not collapsed(metrics)


def collapsed(metrics: dict[str, Any]) -> bool:
    """Whether a model gives 99 % of the clean test inputs to one class."""
    said = [sum(column) for column in zip(*metrics.get("confusion", []), strict=True)]
    return bool(said) and max(said) >= 0.99 * sum(said)


def _value(metrics: dict[str, Any], name: str) -> float:
    value = metrics[name]["value"]
    return math.nan if value is None else float(value)


def _order(rank: Rank) -> tuple[float, float]:
    solved, lift, drop = (
        float(rank.figures[c]["value"]) if c in rank.figures else math.nan for c in ("solved", "asr_lift", "drop")
    )
    left = lift + (0.0 if math.isnan(drop) else max(0.0, drop))
    return 0.0 if math.isnan(solved) else -solved, math.inf if math.isnan(left) else left


def spread(name: str, figure: Estimate | None) -> str:
    """Mean and standard deviation over runs, in percent or points; seconds as they are."""
    if figure is None or math.isnan(float(figure["value"])):
        return "-"
    factor = 1.0 if name == "seconds" else 100.0
    shown, sd = f"{factor * float(figure['value']):z.1f}", float(figure.get("sd", math.nan))
    return shown if math.isnan(sd) else f"{shown} ± {factor * sd:.1f}"
