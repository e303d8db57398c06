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
from dataclasses import dataclass
from typing import Any

from ostiary.errors import MissingPackage

try:
    alt: Any = importlib.import_module("altair")  # Any: its own types refuse the shared options below
    vl_convert: Any = importlib.import_module("vl_convert")
except ImportError as error:
    raise MissingPackage(error.name or "altair", "report") from error

Rows = list[dict[str, Any]]
Spec = dict[str, Any]

INK = "currentColor"
ATTACK, TARGET, PLAIN = "#d55e00", "#0072b2", "#8a8a8a"
MANY = ("#e69f00", "#56b4e9", "#009e73", "#cc79a7", "#aa3377", "#bbaa33", "#44aa99", "#8c6d31", "#999999")
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


def stem(label: str) -> str:
    """A label as part of a file name: of a long one the beginning, and a mark that tells it from others that begin so."""
    safe = re.sub(r"[^\w.=+-]+", "-", label, flags=re.ASCII).strip("-")
    return safe if len(safe) <= 80 else f"{safe[:71]}-{mark(label.encode())}"


def mark(content: bytes) -> str:
    """Eight letters that are the same for the same content, and hardly ever for another."""
    return hashlib.sha256(content).hexdigest()[:8]
