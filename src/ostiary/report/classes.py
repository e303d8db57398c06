"""What a scan of a model found for each of its classes, as bars. Reads records only."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ostiary.report.drawing import ATTACK, LETTER, PLAIN, Figure, Rows, alt, chart, specification, stem, tips

MOST = 3  # measures of one scan that are drawn
WIDTH = 300  # in pixels


def class_bars(label: str, found: Mapping[str, Any], names: Sequence[str], target: int | None, seed: str) -> Iterator[Figure]:
    """Of the detector `label`, if it judges classes one by one: its measures, flagged classes apart. names: those of the
    classes, in order; target: the attacker's, where it is known and one."""
    lines = found.get("info", {}).get("classes")
    if found.get("about") != "model" or not isinstance(lines, dict) or len(lines) != len(names):
        return
    shown = [f"{name} (target)" if i == target else name for i, name in enumerate(names)]
    measures = [*_measures([*lines.values()])]
    if not measures:
        return
    panels = [_panel(shown, *one, found["classes"], named=one is measures[-1]) for one in measures]
    flagged = [names[c] for c in found["classes"] if c < len(names)]
    verdict = f"Flagged: {', '.join(flagged)}" if flagged else "No class is flagged"
    said = f"What the scan found for each class; a missing bar: nothing. {verdict}. {seed}."
    words = f"Measures of {label} for {len(names)} classes. {verdict}"
    drawn = panels[0] if len(panels) == 1 else alt.vconcat(*panels, spacing=14)
    yield Figure("scores", f"classes-{stem(label)}", f"Classes by {label}", said, words, specification(drawn))


def _measures(lines: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, list[float | None]]]:
    """The first few that are numbers for some class; None where one has none."""
    kept = 0
    for name in dict.fromkeys(name for line in lines for name in line):
        values = [line.get(name) for line in lines]
        held = [v for v in values if isinstance(v, float | int) and not isinstance(v, bool) and math.isfinite(v)]
        if held and all(v is None or v in held for v in values) and kept < MOST:
            kept += 1
            yield name, values


def _panel(names: Sequence[str], measure: str, values: Sequence[float | None], flagged: Sequence[int], named: bool) -> Any:
    rows: Rows = [
        {"class": name, measure: float(f"{value:.4g}"), "verdict": "flagged" if i in flagged else "not flagged"}
        for i, (name, value) in enumerate(zip(names, values, strict=True))
        if value is not None
    ]
    flat = LETTER * max(map(len, names)) < WIDTH / len(names)
    look = alt.Axis(labels=named, labelAngle=0 if flat else -45, labelOverlap=len(names) > 24, labelLimit=84, title=None)
    drawn = (
        chart(rows)
        .mark_bar()
        .encode(
            x=alt.X("class:N", scale=alt.Scale(domain=list(names)), axis=look),
            y=alt.Y(f"{measure}:Q", title=measure),
            color=alt.Color("verdict:N", scale=alt.Scale(domain=["flagged", "not flagged"], range=[ATTACK, PLAIN])),
            tooltip=tips("class", measure, "verdict"),
        )
    )
    return drawn.properties(width=WIDTH, height=70)
