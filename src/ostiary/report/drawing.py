"""What every figure of a report is made with: one Vega-Lite specification each, static SVG for paper and page, hover where
scripts run.

Colours are safe for colour-blind readers (Okabe & Ito; Tol); words and lines take the colour of the page around them.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import json
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ostiary.errors import MissingPackage


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingPackage(name, "report", error) from error


alt = _library("altair")  # Any: its own types refuse the shared options below
vl_convert = _library("vl_convert")

Rows = list[dict[str, Any]]
Spec = dict[str, Any]
Looks = dict[str, tuple[str, str, list[int]]]  # line -> colour, shape, dashes

INK = "currentColor"
ATTACK, TARGET, PLAIN = "#d55e00", "#0072b2", "#8a8a8a"
MANY = ("#e69f00", "#56b4e9", "#009e73", "#cc79a7", "#aa3377", "#bbaa33", "#44aa99", "#8c6d31", "#999999")
SHAPES = ("circle", "triangle-up", "square", "diamond", "cross", "triangle-down")
DASHES = ([1, 0], [6, 3], [2, 2], [8, 3, 2, 3], [4, 6], [10, 2])
LETTER = 7  # width of a letter in pixels
_WORDS = {"labelColor": INK, "titleColor": INK, "labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal"}
_LINES = {"domainColor": INK, "tickColor": INK, "gridColor": INK, "domainOpacity": 0.5, "tickOpacity": 0.5, "gridOpacity": 0.12}
_MARKS = {"symbolSize": 80, "symbolOpacity": 1}
_LOOK: dict[str, Any] = {
    "aria": False,  # one description per figure says more than a label per point
    "background": "transparent",
    "font": "Arial, Helvetica, 'Liberation Sans', sans-serif",  # equally wide where it is measured and where it is read
    "axis": {**_WORDS, **_LINES},
    "legend": {**_WORDS, "orient": "bottom", "title": None, "columns": 3, "columnPadding": 16, "labelLimit": 120, **_MARKS},
    "text": {"fill": INK, "fontSize": 11},
    "view": {"stroke": None},
    "header": {"labelColor": INK, "labelFontSize": 12},
}
_WRITTEN_FOR = ".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])
VERSION = _WRITTEN_FOR if _WRITTEN_FOR in vl_convert.get_vegalite_versions() else None  # None: the newest one there


@dataclass(frozen=True)
class Figure:
    """part: section of the report; name: file stem, unique in its group; alt: what it shows, for those who cannot see it."""

    part: str
    name: str
    title: str
    caption: str
    alt: str
    spec: Spec
    hover: bool = True

    def svg(self) -> str:
        return str(vl_convert.vegalite_to_svg(self.spec, vl_version=VERSION))

    def file(self) -> str:
        """The SVG to stand in a file of its own: not every reader of those knows currentColor."""
        return self.svg().replace(f'"{INK}"', '"#1a1a1a"')

    def data(self) -> str:
        """The specification as JSON that may stand inside a <script> element."""
        return json.dumps(self.spec, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


@functools.cache
def bundle() -> str:
    """The drawing library, to stand inside a <script> element."""
    return str(vl_convert.javascript_bundle(vl_version=VERSION)).replace("</script", "<\\/script").replace("<!--", "<\\!--")


def chart(rows: Rows) -> Any:
    return alt.Chart(alt.Data(values=rows))


def specification(drawn: Any, width: float = 0, height: float = 0) -> Spec:
    """As plain JSON; width and height in pixels, 0 where the parts of the drawing have their own."""
    sized = drawn.properties(width=width, height=height) if width else drawn
    return dict(sized.configure(**_LOOK).to_dict(validate=False))  # checking every row takes seconds


def tips(*names: str) -> list[Any]:
    return [alt.Tooltip(field=name, type="nominal") for name in names]


def looks(labels: Sequence[str], plain: str = "") -> Looks:
    """Colour, shape and dashes of every line, no two lines alike (of up to 54): those that coincide show through each other.
    plain: the line that comes first and grey, if it is there."""
    colours = (PLAIN, *MANY) if plain in labels else MANY
    own = enumerate(sorted(dict.fromkeys(labels), key=lambda label: label != plain))
    turn = {label: (i, (i + i // 18) % len(SHAPES)) for i, label in own}
    return {label: (colours[i % len(colours)], SHAPES[j], DASHES[j]) for label, (i, j) in turn.items()}


def lines(base: Any, field: str, looks: Looks, y: Mapping[str, Any], width: int, shown: list[Any]) -> list[Any]:
    """The layers of a line chart in percent: for each value of `field` a bar from `low` to `high`, the line and its points.

    base: the chart with its x. width: of the legend, in pixels. shown: the tooltip.
    """
    label, of = f"{field}:N", list(looks)
    below = legend(of, width)
    colours, shapes, dashes = (alt.Scale(domain=of, range=list(parts)) for parts in zip(*looks.values(), strict=True))
    base = base.encode(color=alt.Color(label, scale=colours, legend=below))
    middle = base.encode(y=alt.Y("%:Q", **y), tooltip=shown)
    means = middle.mark_line(strokeWidth=2).encode(strokeDash=alt.StrokeDash(label, scale=dashes, legend=None))
    sizes = alt.Scale(domain=of, range=[(7 + 0.8 * i) ** 2 for i in reversed(range(len(of)))])  # equal points: one in another
    marks = {"shape": alt.Shape(label, scale=shapes, legend=below), "size": alt.Size(label, scale=sizes, legend=None)}
    dots = middle.mark_point(filled=True, opacity=1).encode(**marks)
    bars = base.encode(y=alt.Y("low:Q", **y), y2="high:Q")
    beside = {name: 2 * i - len(of) + 1 for i, name in enumerate(of)}  # pixels, so that no bar hides another
    apart = [bars.transform_filter(alt.datum[field] == k).mark_rule(opacity=0.4, xOffset=px) for k, px in beside.items()]
    return [*apart, means, dots]


def legend(labels: Sequence[str], width: int) -> Any:
    """As many columns as the longest label leaves room for, its words whole."""
    room = LETTER * max(map(len, labels)) + 50  # of an entry: its words, its symbol and what is between
    columns = min(4, max(1, width // room))
    return alt.Legend(columns=columns, labelLimit=0, labelExpr=_broken(labels, width - 22), symbolStrokeWidth=0)


def header(labels: Sequence[str], width: int) -> Any:
    """The titles of panels, whole, in lines of at most `width` pixels."""
    return alt.Header(labelLimit=0, labelExpr=_broken(labels, width))


def _broken(labels: Sequence[str], width: int) -> str:
    """An expression for labels, in lines of at most `width` pixels."""
    return f"({json.dumps({label: _wrapped(label, width // LETTER) for label in labels})})[datum.label]"


def _wrapped(label: str, most: int) -> list[str]:
    """In lines of at most so many letters, broken between options where that goes, before values where it must."""
    found = [""]
    for part in re.split(r"(?<=[( =])", label):
        *cut, last = textwrap.wrap(part, most, break_on_hyphens=False, drop_whitespace=False) or [""]
        if found[-1] and len(found[-1] + "".join([*cut, last]).rstrip()) > most:
            found.append("")
        found[-1] += "".join(cut[:1]) or last
        found += [*cut[1:], last] if cut else []
    return [line.rstrip() for line in found]


def stem(label: str) -> str:
    """A label as part of a file name: of a long one the beginning, and a mark that tells it from others that begin so."""
    safe = re.sub(r"[^\w.=+-]+", "-", label, flags=re.ASCII).strip("-")
    return safe if len(safe) <= 80 else f"{safe[:71]}-{mark(label.encode())}"


def mark(content: bytes) -> str:
    """Eight letters that are the same for the same content, and hardly ever for another."""
    return hashlib.sha256(content).hexdigest()[:8]
