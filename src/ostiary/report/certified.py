"""Certified accuracy over the size of a change: one figure and tables of a group."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ostiary.metrics.intervals import Estimate
from ostiary.report.drawing import Figure, alt, lines, looks, specification, tips
from ostiary.report.tables import Group, over_seeds, text

KINDS = {
    "edges": "flipped edges of an input",
    "nodes": "nodes of an input, overwritten with the edges among them",
    "poisoned": "poisoned training samples",
    "joint": "both together",
}


WIDTH = 290  # of a panel with its axis, in pixels


@dataclass(frozen=True)
class Curve:
    """What one purifier proves against one kind of change: radius (or pair of radii) -> share over seeds."""

    defence: str
    kind: str
    shares: dict[str, Estimate]


def curves(group: Group) -> list[Curve]:
    """Of every purifier with a certificate, in the order of the plan."""
    held: dict[str, list[dict[str, Any]]] = {}
    for record in group.records:
        for label, metrics in record.metrics.get("purifiers", {}).items():
            if "certified" in metrics:
                held.setdefault(label, []).append(metrics["certified"])
    found = []
    for label, runs in held.items():
        for kind in (k for k in KINDS if runs[0].get(k)):
            reached = [run[kind] for run in runs]
            none = {"value": 0.0}  # a curve that ends earlier: from there on nothing is certified
            shares = {r: over_seeds([run.get(r, none) for run in reached]) for run in reached for r in run}
            found.append(Curve(label, kind, shares))
    return found


def certified(group: Group) -> list[Figure]:
    """One panel for each kind of change, one line for each purifier; none where nothing is certified."""
    points = [p for curve in curves(group) if curve.kind != "joint" for p in _points(curve)]
    if not points:
        return []
    labels, panels = (list(dict.fromkeys(p[name] for p in points)) for name in ("defence", "change"))
    base = alt.Chart().encode(x=alt.X("radius:O", title="changes", sort=None, axis=alt.Axis(labelAngle=0)))
    axis = {"title": "certified accuracy %", "scale": alt.Scale(domain=[0, 100])}
    shown = tips("defence", "change", "radius", "%", "low", "high")
    layers = lines(base, "defence", looks(labels), axis, WIDTH * len(panels[:2]), shown)
    drawn = alt.layer(*layers).properties(width=250, height=170).resolve_scale(x="shared")
    whole = drawn.facet(facet=alt.Facet("change:N", title=None, sort=panels), columns=2, data=alt.Data(values=points))
    whole = whole.resolve_scale(x="independent")
    said = (
        "Clean test inputs called rightly whose prediction no change of that size can turn. Training samples: of the set as "
        "given; flipped edges: of the model as trained. Bars: 95 % intervals."
    )
    words = "; ".join(f"{p['defence']}, {p['radius']} {p['change']}: {p['%']} %" for p in points[:12])
    return [Figure("certified", "certified", "", said, words, specification(whole))]


def _points(curve: Curve) -> Iterator[dict[str, Any]]:
    for radius, share in curve.shares.items():
        value, low, high = (float(share.get(k, math.nan)) for k in ("value", "low", "high"))
        ends = (value if math.isnan(end) else min(1.0, max(0.0, end)) for end in (low, high))
        shown = dict(zip(("%", "low", "high"), (round(100 * v, 2) for v in (value, *ends)), strict=True))
        yield {"defence": curve.defence, "change": KINDS[curve.kind], "radius": int(radius), **shown}


def certified_tables(group: Group) -> list[dict[str, Any]]:
    """One table for each kind of change: its name, the radii that any purifier reaches, and a line of text for each."""
    found = []
    for kind, name in KINDS.items():
        held = [c for c in curves(group) if c.kind == kind]
        radii = list(dict.fromkeys(r for c in sorted(held, key=lambda c: -len(c.shares)) for r in c.shares))
        lines = [[c.defence, *(text("acc", c.shares.get(r, {"value": 0.0})) for r in radii)] for c in held]
        if held:
            found.append({"name": name, "heads": ["defence", *radii], "lines": lines})
    return found
