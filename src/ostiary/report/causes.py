"""What is left after each defence, and whether it is the backdoor: one figure over all runs. Reads records only."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from ostiary.experiment.record import Record
from ostiary.report.drawing import ATTACK, PLAIN, Figure, Rows, alt, header, specification, tips
from ostiary.report.levels import curved
from ostiary.report.ranking import attacked
from ostiary.report.tables import groups, united

ONE_TARGET = ("all-to-one", "clean-label")
PANEL = 150  # width of a panel, in pixels
LEAST = 6  # runs: fewer points are read from the tables


def causes(records: Iterable[Record]) -> list[Figure]:
    """ASR after each defence over the share of the same sources, untriggered, that the purified model calls the target.

    On the diagonal the trigger does nothing any more: the model has lost the source class. Above it the trigger works.
    """
    told = list(records)
    apart = set().union(*map(curved, told))  # before they are united: a united record has the list of one plan only
    held = groups(attacked(united(told)))
    points = [p for group in held for record in group.records for p in _points(group.name, record) if p["defence"] not in apart]
    if len({p["run"] for p in points}) < LEAST:
        return []
    return [_drawn(points)]


def false_target(metrics: dict[str, Any], target: int) -> float:
    """Share of untriggered test inputs of other classes that are called the target class."""
    rows = [row for y, row in enumerate(metrics["confusion"]) if y != target]
    return float(sum(row[target] for row in rows) / max(1, sum(map(sum, rows))))


def _points(name: str, record: Record) -> Rows:
    attack, seed = record.plan["attack"], record.plan["seed"]
    target = attack.get("target")
    if not isinstance(target, int) or attack.get("labels", {}).get("name", "all-to-one") not in ONE_TARGET:
        return []
    found = []
    for label, metrics in record.metrics["purifiers"].items():
        asr = metrics.get("asr", {}).get("value")
        if asr is not None and not math.isnan(asr):
            error = false_target(metrics, target)
            point = {"untriggered": round(100 * error, 2), "triggered": round(100 * asr, 2), "defence": label}
            found.append({**point, "run": f"{name}, seed {seed}"})
    return found


def _drawn(points: Rows) -> Figure:
    labels = list(dict.fromkeys(p["defence"] for p in points))
    data = alt.Data(values=points)
    place = {"scale": alt.Scale(domain=[0, 100]), "axis": alt.Axis(values=[0, 50, 100])}
    dots = alt.Chart().mark_circle(size=40, opacity=0.7, color=ATTACK)
    dots = dots.encode(
        x=alt.X("untriggered:Q", **place, title="untriggered, %"),
        y=alt.Y("triggered:Q", **place, title="triggered, %"),
        tooltip=tips("run", "untriggered", "triggered"),
    )
    ends = alt.Data(values=[{"a": 0, "b": 0}, {"a": 100, "b": 100}])
    line = alt.Chart(ends).mark_line(color=PLAIN, strokeDash=[4, 3]).encode(x="a:Q", y="b:Q")
    layers = alt.layer(dots, line).properties(width=PANEL, height=PANEL)
    facet = alt.Facet("defence:N", title=None, sort=labels, header=header(labels, PANEL + 20))
    whole = layers.facet(facet=facet, columns=4, data=data)
    words = "; ".join(f"{label}: {_words([p for p in points if p['defence'] == label])}" for label in labels)
    caption = (
        "Sources called the target after each defence, with the trigger (ASR) over without; one point a run in which the "
        "attack works. On the dashed line both fare alike: what ASR is left is a source class that the model has lost. Above "
        "it the trigger still works."
    )
    return Figure("causes", "causes", "What is left after each defence", caption, words, specification(whole))


def _words(points: Sequence[dict[str, Any]]) -> str:
    above = sum(p["triggered"] - p["untriggered"] > 5 for p in points)
    lost = sum(p["untriggered"] > 20 for p in points)
    return f"{above} of {len(points)} points more than 5 above the line, {lost} right of 20"
