"""Defences ranked over all cells in which the attack works. Reads records only."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ostiary.experiment.record import Record
from ostiary.metrics.intervals import Estimate, mean
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
    these runs; solved: share of them that `solves`."""

    defence: str
    cells: int
    failed: int
    figures: dict[str, Estimate]


def ranking(records: Iterable[Record]) -> list[Rank]:
    """The best first: by the share of runs it solves, then by what is left of the attack. Points of a curve are not ranked."""
    told = [r for r in records if "asr_lift" in r.metrics.get("victim", {})]
    judged = united(told)
    taken = attacked(judged)
    clean = [r for r in judged if r.metrics.get("attack", {}).get("poisoned") == 0]
    apart = set().union(*map(curved, told))
    labels = list(dict.fromkeys(label for r in judged for label in tables.purifiers(r) if label not in apart))
    if len(taken) < 2 or len(labels) < 2:
        return []
    found = [_rank("none", taken, [], [r.metrics["victim"] for r in taken])]
    found += [_of(label, taken, clean) for label in labels]
    return sorted((f for f in found if f.cells or f.failed), key=lambda f: (-_mean(f, "solved"), _mean(f, "asr_lift")))


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
    values["solved"] = [float(solves(m)) for m in held if "drop" in m]
    values |= {"seconds": list(seconds), "clean_drop": list(costs)}
    return Rank(label, len(held), len(own) - len(held), {c: mean(v) for c, v in values.items() if v})


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


def _mean(rank: Rank, name: str) -> float:
    return float(rank.figures[name]["value"]) if name in rank.figures else 0.0 if name == "solved" else math.inf


def spread(name: str, figure: Estimate | None) -> str:
    """Mean and standard deviation over runs, in percent or points; seconds as they are."""
    if figure is None or math.isnan(float(figure["value"])):
        return "-"
    factor = 1.0 if name == "seconds" else 100.0
    shown, sd = f"{factor * float(figure['value']):.1f}", float(figure.get("sd", math.nan))
    return shown if name == "solved" or math.isnan(sd) else f"{shown} ± {factor * sd:.1f}"
