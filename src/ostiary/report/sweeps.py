"""How figures move with a number that a plan varies: poisoning rate, trigger size, strength of an adaptive attack."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from ostiary.experiment.record import canonical
from ostiary.report.drawing import MANY, Figure, alt, specification, tips
from ostiary.report.tables import FIGURES, Group, Row, rows, short

SHOWN = ("asr", "asr_strict", "cad", "drop")  # strict ASR is shown where a paper counts it: over candidates of its own
LEAST = 3  # values of an option that make a line


def sweeps(found: Sequence[Group]) -> list[Figure]:
    """One figure for each varied number and each kind of rate: lines of means over seeds, intervals as bars."""
    made = []
    for path in dict.fromkeys(path for group in found for path, _ in _numbers(group.plan)):
        lines = list(_lines(found, path))
        for name in SHOWN:
            points = [p for p in lines if p["figure"] == name]
            if points and (name != "asr_strict" or any(p["own"] for p in points)):
                made.append(_drawn(path, name, points))
    return made


def _numbers(plan: dict[str, Any], path: str = "") -> Iterator[tuple[str, float]]:
    """Dotted path and value of every numeric setting but the seed."""
    for key, value in plan.items():
        here = f"{path}.{key}" if path else key
        if isinstance(value, dict):
            yield from _numbers(value, here)
        elif isinstance(value, int | float) and not isinstance(value, bool) and here != "seed":
            yield here, value


def _without(plan: dict[str, Any], path: str) -> dict[str, Any]:
    head, _, rest = path.partition(".")
    return {k: _without(v, rest) if k == head and rest else v for k, v in plan.items() if k != head or rest}


def _lines(found: Sequence[Group], path: str) -> Iterator[dict[str, Any]]:
    """The points of all lines along `path`: groups that differ in nothing else, over at least three values."""
    families: dict[bytes, list[tuple[float, Group]]] = {}
    for group in found:
        value = dict(_numbers(group.plan)).get(path)
        if value is not None:
            same = {k: v for k, v in _without(group.plan, path).items() if k != "seed"}
            families.setdefault(canonical(same), []).append((value, group))
    for members in families.values():
        if len({value for value, _ in members}) >= LEAST:
            for value, group in members:
                yield from (point for row in rows(group) for point in _points(value, group, row))


def _points(value: float, group: Group, row: Row) -> Iterator[dict[str, Any]]:
    plan = group.plan
    part = plan["dataset"].get("set") or plan["dataset"]["name"]
    attack = plan["attack"]
    line = " ".join(w for w in (attack["name"], _box(attack), "" if row.defence == "none" else f"after {row.defence}") if w)
    for name in SHOWN:
        own = row.figures.get(f"{name}_candidates") if name == "asr_strict" else None
        figure = own or row.figures.get(name)
        if figure is not None and not math.isnan(float(figure["value"])):
            ends = [float(figure.get(k, math.nan)) for k in ("low", "high")]
            low, high = (round(100 * (float(figure["value"]) if math.isnan(e) else e), 2) for e in ends)
            low, high = max(0.0 if name.startswith("asr") else -100.0, low), min(100.0, high)
            yield {
                "figure": name,
                "own": own is not None,
                "at": value,
                "%": round(100 * float(figure["value"]), 2),
                "low": low,
                "high": high,
                "line": line,
                "panel": f"{part}, {plan['victim']['name']}",
            }


def _box(attack: dict[str, Any]) -> str:
    return f"by {short(attack['surrogate'])}" if attack.get("surrogate") else ""


def _drawn(path: str, name: str, points: list[dict[str, Any]]) -> Figure:
    labels = list(dict.fromkeys(p["line"] for p in points))
    panels = list(dict.fromkeys(p["panel"] for p in points))
    base = alt.Chart().encode(
        x=alt.X("at:Q", title=path, scale=alt.Scale(zero=False)),
        color=alt.Color("line:N", scale=alt.Scale(domain=labels, range=[MANY[i % len(MANY)] for i in range(len(labels))])),
    )
    middle = base.mark_line(point=True, strokeWidth=2).encode(
        y=alt.Y("%:Q", title=FIGURES[name]), tooltip=tips("line", "panel", "at", "%", "low", "high")
    )
    bars = base.mark_rule(opacity=0.4).encode(y=alt.Y("low:Q", title=FIGURES[name]), y2="high:Q")
    layers = alt.layer(bars, middle).properties(width=250, height=170)
    whole = layers.facet(facet=alt.Facet("panel:N", title=None, sort=panels), columns=2, data=alt.Data(values=points))
    title = f"{FIGURES[name].removesuffix(' %')} along {path}"
    words = "; ".join(f"{p['panel']}, {p['line']}, {p['at']}: {p['%']} %" for p in points[:12])
    said = "Means over seeds; bars: 95 % interval over seeds."
    if any(p["own"] for p in points):
        said += " Over the paper's own candidates where an attack names some, else over all test sources."
    return Figure("sweeps", f"sweep-{path}-{name}", title, said, words, specification(whole))
