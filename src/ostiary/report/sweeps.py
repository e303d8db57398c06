"""How figures move with a number: one that a plan varies (poisoning rate, trigger size, strength of an adaptive attack), or an
option of a purifier that it lists at several levels."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from ostiary.metrics.intervals import Estimate
from ostiary.report.drawing import ATTACK, MANY, PLAIN, TARGET, Figure, Rows, Spec, alt, specification, stem, tips
from ostiary.report.levels import Levels, families, levels, numbers, without
from ostiary.report.tables import FIGURES, Group, Row, names, rows, short

SHOWN = ("asr", "asr_strict", "cad", "drop")  # strict ASR is shown where a paper counts it: over candidates of its own
PURIFIED = {"acc": TARGET, "asr": ATTACK, "ra": MANY[2]}
SIGNED = ("cad", "drop")
PANELS = 12  # most cells of a figure


def sweeps(found: Sequence[Group]) -> list[Figure]:
    """One figure for each varied number and each kind of rate, and one for each purifier at several levels: lines of means
    over seeds, intervals as bars."""
    made = []
    for path in dict.fromkeys(path for group in found for path, _ in numbers(group.plan)):
        lines = list(_lines(found, path))
        for name in SHOWN:
            points = [p for p in lines if p["figure"] == name]
            if points and (name != "asr_strict" or any(p["own"] for p in points)):
                made.append(_drawn(path, name, points))
    curves: dict[tuple[bytes, str], list[tuple[Group, Levels]]] = {}
    for group in found:
        for curve in levels(group.records[0]):
            curves.setdefault((curve.key, curve.path), []).append((group, curve))
    return made + [figure for i, held in enumerate(curves.values(), 1) for figure in _purified(i, held)]


def _lines(found: Sequence[Group], path: str) -> Iterator[dict[str, Any]]:
    """The points of all lines along `path`: groups that differ in nothing else."""
    plans = (({k: v for k, v in group.plan.items() if k != "seed"}, group) for group in found)
    held = list(families(plans, path).values())
    places = [_place(members[0][1].plan) for members in held]
    whole = _told(names([without(members[0][1].plan, path) for members in held]))
    for members, (what, panel), name in zip(held, places, whole, strict=True):
        alone = places.count((what, panel)) == 1  # else several lines of one attack, which differ in other settings
        told = what if alone else name or what
        for value, group in members:
            yield from (point for row in rows(group) for point in _points(value, told, panel, row))


def _place(plan: dict[str, Any]) -> tuple[str, str]:
    """(the attack, data and victim) in a few words."""
    attack = plan["attack"] or {"name": "no attack"}
    part = plan["dataset"].get("set") or plan["dataset"]["name"]
    return " ".join(w for w in (attack["name"], _box(attack)) if w), f"{part}, {plan['victim']['name']}"


def _points(value: float, what: str, panel: str, row: Row) -> Iterator[dict[str, Any]]:
    place = {"at": value, "line": what if row.defence == "none" else f"{what} after {row.defence}", "panel": panel}
    for name in SHOWN:
        own = row.figures.get(f"{name}_candidates") if name == "asr_strict" else None
        yield from ({**point, **place, "own": own is not None} for point in _point(name, own or row.figures.get(name)))


def _point(name: str, figure: Estimate | None) -> Rows:
    """A rate in percent with its interval, cut to what is possible; nothing where it is not known."""
    if figure is None or math.isnan(float(figure["value"])):
        return []
    ends = [float(figure.get(k, math.nan)) for k in ("low", "high")]
    low, high = (round(100 * (float(figure["value"]) if math.isnan(e) else e), 2) for e in ends)
    least = -100.0 if name in SIGNED else 0.0
    return [{"figure": name, "%": round(100 * float(figure["value"]), 2), "low": max(least, low), "high": min(100.0, high)}]


def _box(attack: dict[str, Any]) -> str:
    return f"by {short(attack['surrogate'])}" if attack.get("surrogate") else ""


def _drawn(path: str, name: str, points: Rows) -> Figure:
    labels = list(dict.fromkeys(p["line"] for p in points))
    colours = {label: MANY[i % len(MANY)] for i, label in enumerate(labels)}
    title = f"{FIGURES[name].removesuffix(' %')} along {path}"
    said = "Means over seeds; bars: 95 % intervals, over seeds or, of a single one, over its test inputs."
    if any(p["own"] for p in points):
        said += " Over the paper's own candidates where an attack names some, else over all test sources."
    drawn = _panels(points, path, {"title": FIGURES[name]}, colours)
    return Figure("sweeps", f"sweep-{path}-{name}", title, said, _words(points), drawn)


def _purified(number: int, held: Sequence[tuple[Group, Levels]]) -> list[Figure]:
    """ACC, ASR and RA along one option of a purifier, one panel for each cell; none where no level was judged."""
    curve = held[0][1]
    panels = dict(zip(_told([group.name for group, _ in held]), held, strict=True))
    points = [p for panel, (group, own) in list(panels.items())[:PANELS] for p in _levels(panel, group, own)]
    if not any("at" in p for p in points):
        return []
    colours = {FIGURES[name]: colour for name, colour in (*PURIFIED.items(), ("natural", PLAIN))}
    axis = {"title": "%", "scale": alt.Scale(domain=[0, 100])}
    said = "Means over seeds; bars: 95 % intervals. Dashed: the victim as it came, and what the trigger does to a clean model."
    if len(panels) > PANELS:
        said += f" Of {len(panels)} cells the first {PANELS}; the table has all."
    title, name = f"{curve.name} along {curve.path}", f"levels-{number}-{stem(curve.name)}-{curve.path}"
    return [Figure("sweeps", name, title, said, _words(points), _panels(points, curve.path, axis, colours))]


def _levels(panel: str, group: Group, curve: Levels) -> Iterator[dict[str, Any]]:
    found = {row.defence: row.figures for row in rows(group)}
    for value, label in curve.labels:
        for name in PURIFIED:
            for point in _point(name, found.get(label, {}).get(name)):
                yield {**point, "at": value, "line": FIGURES[name], "panel": panel}
    for name in (*PURIFIED, "natural"):
        for point in _point(name, found["none"].get(name)):
            yield {"was": point["%"], "line": FIGURES[name], "panel": panel}


def _told(names: Sequence[str]) -> list[str]:
    """Names of cells without the parts that all of them share."""
    parts = [name.split(" / ") for name in names]
    same = set(parts[0]).intersection(*parts[1:]) if len(parts) > 1 else set()
    return [" / ".join(p for p in own if p not in same) for own in parts]


def _panels(points: Rows, path: str, y: dict[str, Any], colours: dict[str, str]) -> Spec:
    """Lines along `at` in panels; dashed where a point has no place along it but a value, `was`."""
    legend = alt.Legend(columns=2 if max(map(len, colours)) > 15 else 4, labelLimit=270)
    line = alt.Color("line:N", scale=alt.Scale(domain=list(colours), range=list(colours.values())), legend=legend)
    base = alt.Chart().encode(x=alt.X("at:Q", title=path, scale=alt.Scale(zero=False)), color=line)
    base = base.transform_filter("isValid(datum.at)")
    shown = tips("line", "panel", "at", "%", "low", "high")
    middle = base.mark_line(point=True, strokeWidth=2).encode(y=alt.Y("%:Q", **y), tooltip=shown)
    bars = base.encode(y=alt.Y("low:Q", **y), y2="high:Q")
    beside = {label: 2 * i - len(colours) + 1 for i, label in enumerate(colours)}  # pixels, so that no bar hides another
    apart = [bars.transform_filter(alt.datum.line == k).mark_rule(opacity=0.4, xOffset=x) for k, x in beside.items()]
    layers = [*apart, middle]
    if any("was" in p for p in points):
        given = alt.Chart().transform_filter("isValid(datum.was)").mark_rule(strokeDash=[4, 4], opacity=0.9)
        layers.insert(0, given.encode(y=alt.Y("was:Q", **y), color=line, tooltip=tips("line", "panel", "was")))
    whole = alt.layer(*layers).properties(width=250, height=170)
    order = list(dict.fromkeys(p["panel"] for p in points))
    head = alt.Header(labelLimit=290)
    return specification(
        whole.facet(facet=alt.Facet("panel:N", title=None, sort=order, header=head), columns=2, data=alt.Data(values=points))
    )


def _words(points: Rows) -> str:
    told = [p for p in points if "at" in p][:12]
    return "; ".join(f"{p['panel']}, {p['line']}, {p['at']}: {p['%']} %" for p in told)
