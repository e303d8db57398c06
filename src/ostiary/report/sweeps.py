"""How figures move with a number: one that a plan varies (poisoning rate, trigger size, strength of an adaptive attack), or an
option of a purifier that it lists at several levels."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from ostiary.experiment.record import canonical
from ostiary.metrics.intervals import Estimate
from ostiary.report.drawing import (
    ATTACK,
    DASHES,
    MANY,
    PLAIN,
    SHAPES,
    TARGET,
    Figure,
    Looks,
    Rows,
    Spec,
    alt,
    header,
    lines,
    looks,
    mark,
    specification,
    stem,
    tips,
)
from ostiary.report.levels import Levels, families, levels, numbers, without
from ostiary.report.tables import FIGURES, Group, Row, labelled, names, rows, short

SHOWN = ("asr", "asr_strict", "cad", "drop")  # strict ASR is shown where a paper counts it: over candidates of its own
PURIFIED = {"acc": TARGET, "asr": ATTACK, "ra": MANY[2]}
SIGNED = ("cad", "drop")
PANELS = 12  # most cells of a figure
LINES = 6  # most lines of a panel
UNDEFENDED = "no defence"
WIDTH = 290  # of a panel with its axis, in pixels


def sweeps(found: Sequence[Group]) -> list[Figure]:
    """One figure for each varied number and each kind of rate, and one for each purifier at several levels: lines of means
    over seeds, intervals as bars."""
    made = []
    for path in dict.fromkeys(path for group in found for path, _ in numbers(group.plan)):
        along = list(_lines(found, path))
        for name in SHOWN:
            points = [p for p in along if p["figure"] == name]
            if points and (name != "asr_strict" or any(p["own"] for p in points)):
                made.append(_drawn(path, name, points))
    curves: dict[tuple[bytes, str], list[tuple[Group, Levels]]] = {}
    for group in found:
        for curve in levels(group.records[0]):
            curves.setdefault((curve.key, curve.path), []).append((group, curve))
    return made + [figure for held in curves.values() for figure in _purified(held)]


def _lines(found: Sequence[Group], path: str) -> Iterator[dict[str, Any]]:
    """The points of all lines along `path`: groups that differ in nothing else."""
    plans = (({k: v for k, v in group.plan.items() if k != "seed"}, group) for group in found)
    held = list(families(plans, path).values())
    places = [_place(members[0][1].plan) for members in held]
    whole = _told(names([without(labelled(members[0][1].records[0]), path) for members in held]))
    for members, (what, panel), name in zip(held, places, whole, strict=True):
        alone = places.count((what, panel)) == 1  # else several lines of one attack, which differ in other settings
        told = what if alone else name or what
        for value, group in members:
            yield from (point for row in rows(group) for point in _points(value, told, panel, row))


def file_stem(plan: dict[str, Any]) -> str:
    """What the files of a cell's figures begin with: data, victim and attack, and a mark of all settings but the seed. So a
    name stays with its cell, whatever else is in a store and in whatever order it ran."""
    attack, panel = _place(plan)
    return f"{stem(f'{panel} {attack}')}-{mark(canonical({k: v for k, v in plan.items() if k != 'seed'}))}"


def _place(plan: dict[str, Any]) -> tuple[str, str]:
    """(the attack, data and victim) in a few words."""
    attack = plan["attack"] or {"name": "no attack"}
    part = plan["dataset"].get("set") or plan["dataset"]["name"]
    return " ".join(w for w in (attack["name"], _box(attack)) if w), f"{part}, {plan['victim']['name']}"


def _points(value: float, what: str, panel: str, row: Row) -> Iterator[dict[str, Any]]:
    line = what if row.defence == "none" else f"{what} after {row.defence}"
    place = {"at": value, "line": line, "panel": panel, "attack": what, "defence": row.defence}
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
    title = f"{FIGURES[name].removesuffix(' %')} along {path}"
    said = "Means over seeds; bars: 95 % intervals, over seeds or, where it is wider or for one seed, over test inputs."
    if any(p["own"] for p in points):
        said += " Over the paper's own candidates where an attack names some, else over all test sources."
    sheets = _sheets(points)
    if len(sheets) > 1:
        cells = list(dict.fromkeys(p["panel"] for sheet in sheets for p in sheet))
        sheets = [[p for p in sheet if p["panel"] in cells[:PANELS]] for sheet in sheets]
        said += f" Of {len(cells)} cells the first {PANELS}; the tables have all." if len(cells) > PANELS else ""
    told = [(sheet, looks([p["line"] for p in sheet], UNDEFENDED)) for sheet in sheets if sheet]
    signed = name in SIGNED
    drawn = _grid(told, path, {"title": f"{FIGURES[name]}, points" if signed else FIGURES[name]}, alike=not signed)
    return Figure("sweeps", f"sweep-{stem(path)}-{name}", title, said, _words(points), drawn)


def _sheets(points: Rows) -> list[Rows]:
    """The points in so many parts that few lines share a panel. Where defences are many, each attack has panels of its own,
    and every part of them the line of its victim."""
    if len({p["line"] for p in points}) <= LINES:
        return [points]
    if any(p["defence"] != "none" for p in points):
        told = ({**p, "line": UNDEFENDED if p["defence"] == "none" else p["defence"]} for p in points)
        points = [{**p, "panel": f"{p['panel']}, {p['attack']}"} for p in told]
    labels = [label for label in dict.fromkeys(p["line"] for p in points) if label != UNDEFENDED]
    parts = math.ceil(len(labels) / (LINES - 1))
    most = math.ceil(len(labels) / parts)
    held = [{UNDEFENDED, *labels[i : i + most]} for i in range(0, len(labels), most)]
    return [[p for p in points if p["line"] in own] for own in held]


def _purified(held: Sequence[tuple[Group, Levels]]) -> list[Figure]:
    """ACC, ASR and RA along one option of a purifier, one panel for each cell; none where no level was judged."""
    curve = held[0][1]
    panels = dict(zip(_told([group.name for group, _ in held]), held, strict=True))
    points = [p for panel, (group, at) in list(panels.items())[:PANELS] for p in _levels(panel, group, at)]
    if not any("at" in p for p in points):
        return []
    own = {FIGURES[name]: (colour, SHAPES[0], DASHES[0]) for name, colour in (*PURIFIED.items(), ("natural", PLAIN))}
    axis = {"title": "%", "scale": alt.Scale(domain=[0, 100])}
    said = "Means over seeds; bars: 95 % intervals. Dashed: the victim as it came, and what the trigger does to a clean model."
    if len(panels) > PANELS:
        said += f" Of {len(panels)} cells the first {PANELS}; the table has all."
    title, name = f"{curve.name} along {curve.path}", f"levels-{stem(curve.name)}-{stem(curve.path)}-{mark(curve.key)}"
    return [Figure("sweeps", name, title, said, _words(points), _grid([(points, own)], curve.path, axis))]


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


def _grid(sheets: Sequence[tuple[Rows, Looks]], path: str, y: dict[str, Any], *, alike: bool = True) -> Spec:
    """One chart for each sheet, each with its legend. alike: all on one scale; else one wide interval squeezes its own only."""
    panels = max(len({p["panel"] for p in points}) for points, _ in sheets)
    charts = [_panels(points, path, y, own) for points, own in sheets]
    if len(charts) == 1:
        return specification(charts[0])
    apart = dict.fromkeys(("color", "shape", "strokeDash"), "independent")
    return specification(
        alt.concat(*charts, columns=2 if panels == 1 else 1).resolve_scale(y="shared" if alike else "independent", **apart)
    )


def _panels(points: Rows, path: str, y: dict[str, Any], own: Looks) -> Any:
    """Lines along `at` in panels; dashed where a point has no place along it but a value, `was`."""
    panels = list(dict.fromkeys(p["panel"] for p in points))
    room = alt.Scale(zero=False, nice=False, padding=len(own) + 4)  # for the bars of the first and the last value
    x = alt.X("at:Q", title=path, scale=room, axis=alt.Axis(tickCount=5, labelOverlap=True))
    base = alt.Chart().encode(x=x).transform_filter("isValid(datum.at)")
    width = WIDTH if len(panels) == 1 else 2 * WIDTH
    layers = lines(base, "line", own, y, width, tips("line", "panel", "at", "%", "low", "high"))
    if any("was" in p for p in points):
        given = alt.Chart().transform_filter("isValid(datum.was)").mark_rule(strokeDash=[4, 4], opacity=0.9)
        layers.insert(0, given.encode(y=alt.Y("was:Q", **y), color="line:N", tooltip=tips("line", "panel", "was")))
    whole = alt.layer(*layers).properties(width=250, height=170)
    facet = alt.Facet("panel:N", title=None, sort=panels, header=header(panels, WIDTH))
    return whole.facet(facet=facet, columns=2, data=alt.Data(values=points))


def _words(points: Rows) -> str:
    """The first points, those of a line after its name."""
    told: dict[str, list[str]] = {}
    for p in [p for p in points if "at" in p][:12]:
        told.setdefault(f"{p['panel']}, {p['line']}", []).append(f"{p['at']}: {p['%']} %")
    return "; ".join(f"{line}, {', '.join(found)}" for line, found in told.items())
