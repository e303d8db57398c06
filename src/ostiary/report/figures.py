"""Every figure of a report as one Vega-Lite specification: static SVG for paper and page, hover where scripts run.

Colours are safe for colour-blind readers (Okabe & Ito; Tol); words and lines take the colour of the page around them.
"""

from __future__ import annotations

import base64
import functools
import io
import json
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ostiary.errors import MissingPackage, StoreError
from ostiary.experiment.record import Record
from ostiary.experiment.store import Store
from ostiary.report.tables import COLUMNS, TITLES, Group

try:
    import altair as alt
    import vl_convert
except ImportError as error:
    raise MissingPackage(error.name or "altair", "report") from error

Rows = list[dict[str, Any]]
Spec = dict[str, Any]
Array = np.ndarray[Any, Any]

POINTS = {"clean": 200, "triggered": 120}  # per embedding: more only makes the page heavy
CELLS, NODES, PIXELS = 1500, 60, 112  # most cells of a heat map, nodes of a drawn graph, pixels along an image
INK = "currentColor"
_ATTACK, _TARGET, _PLAIN = "#d55e00", "#0072b2", "#8a8a8a"
_MANY = ("#e69f00", "#56b4e9", "#009e73", "#cc79a7", "#aa3377", "#bbaa33", "#44aa99", "#8c6d31", "#999999")
_LIGHT = ("#77aadd", "#bbcc33", "#ffaabb", "#99ddff", "#eedd88", "#44bb99", "#ee8866", "#aaaa00", "#dddddd")
_WORDS = {"labelColor": INK, "titleColor": INK, "labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal"}
_LINES = {"domainColor": INK, "tickColor": INK, "gridColor": INK, "domainOpacity": 0.5, "tickOpacity": 0.5, "gridOpacity": 0.12}
_LOOK: dict[str, Any] = {
    "aria": False,  # one description per figure says more than a label per point
    "background": "transparent",
    "font": "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif",
    "axis": {**_WORDS, **_LINES},
    "legend": {**_WORDS, "orient": "bottom", "title": None, "columns": 3, "labelLimit": 120, "symbolSize": 80},
    "text": {"fill": INK, "fontSize": 11},
    "view": {"stroke": None},
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

    def data(self) -> str:
        """The specification as JSON that may stand inside a <script> element."""
        return json.dumps(self.spec, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


@functools.cache
def bundle() -> str:
    """The drawing library, to stand inside a <script> element."""
    return str(vl_convert.javascript_bundle(vl_version=VERSION)).replace("</script", "<\\/script").replace("<!--", "<\\!--")


def figures(group: Group, store: Store) -> tuple[list[Figure], list[str]]:
    """Those of one group, and one sentence for each kind whose data the store no longer has.

    What belongs to one model (scores, confusion, features, samples) is drawn for the first seed that has it.
    """
    made, missing = [], []
    record = first(group)
    if record is not None:
        made.append(_scatter(group))
        for maker in (_scores, _confusions, _embeddings, _drawings):
            try:
                made += maker(record, store)
            except StoreError as error:
                missing.append(str(error))
    return made, missing


def first(group: Group) -> Record | None:
    """The record that stands for its group where one model is shown."""
    return next((r for r in group.records if "acc" in r.metrics.get("victim", {})), None)


def _scatter(group: Group) -> Figure:
    rows = [row for record in group.records for row in _results(record)]
    labels = list(dict.fromkeys(r["defence"] for r in rows))
    palette = [_PLAIN, *(_MANY[i % len(_MANY)] for i in range(len(labels) - 1))]
    base = alt.Chart(alt.Data(values=rows)).encode(
        x=alt.X("ASR %:Q", scale=alt.Scale(domain=[0, 100])),
        y=alt.Y("ACC %:Q", scale=alt.Scale(zero=False, padding=12)),
        color=alt.Color("defence:N", scale=alt.Scale(domain=labels, range=palette)),
    )
    moves = base.mark_rule(opacity=0.45, strokeWidth=1.5).encode(x2="was ASR:Q", y2="was ACC:Q")
    marks = base.mark_point(filled=True, size=110, opacity=0.9).encode(
        shape=alt.Shape("when:N", scale=alt.Scale(domain=["before", "after"], range=["circle", "triangle-up"])),
        tooltip=_tips("defence", "seed", *(TITLES[c] for c in COLUMNS)),
    )
    natural = [{"x": r["natural %"]} for r in rows if r["when"] == "before"]
    line = alt.Chart(alt.Data(values=natural)).mark_rule(strokeDash=[4, 4], stroke=INK, opacity=0.5).encode(x="mean(x):Q")
    words = "; ".join(f"{r['defence']} seed {r['seed']}: ACC {r['ACC %']} %, ASR {r['ASR %']} %" for r in rows[:12])
    said = "From each victim a line leads to what a purifier made of it; up and left is better. Dashed: the clean model's rate."
    return Figure("scatter", "scatter", "Accuracy against attack success", said, words, _spec(line + moves + marks, 420, 270))


def _results(record: Record) -> Iterator[dict[str, Any]]:
    for label, found in _models(record):
        row = {TITLES[c]: _value(found, c) for c in COLUMNS}
        was = {f"was {c.upper()}": _value(record.metrics["victim"], c) for c in ("acc", "asr")}
        yield {"defence": label, "seed": record.plan.get("seed"), "when": "before" if label == "none" else "after", **row, **was}


def _value(metrics: dict[str, Any], name: str) -> float | None:
    value = metrics.get(name, {}).get("value")
    return None if value is None or not np.isfinite(value) else round(value if name == "der" else 100 * value, 2)


def _scores(record: Record, store: Store) -> Iterator[Figure]:
    for label in record.metrics.get("detectors", {}):
        arrays = _arrays(record, store, f"detector {label}", "scores")
        if len(arrays.get("scores", ())) != len(arrays.get("poisoned", ())):
            continue  # scores of classes or of the model: there is no poisoned and clean to compare
        held = np.isfinite(arrays["scores"]) if arrays else np.zeros(0, bool)
        if not held.any():
            continue
        scores, poisoned = arrays["scores"][held].astype(float), arrays["poisoned"][held].astype(bool)
        edges = np.histogram_bin_edges(scores, bins=30)
        rows = _bins("clean", scores[~poisoned], edges) + _bins("poisoned", scores[poisoned], edges)
        bars = alt.Chart(alt.Data(values=rows)).mark_bar(opacity=0.6)
        drawn = bars.encode(
            x=alt.X("from:Q", title="score", scale=alt.Scale(zero=False)),
            x2="to:Q",
            y=alt.Y("% of its kind:Q", stack=None),
            color=alt.Color("kind:N", scale=alt.Scale(domain=["clean", "poisoned"], range=[_TARGET, _ATTACK])),
            tooltip=_tips("kind", "number", "% of its kind", "from", "to"),
        )
        said = f"Share of clean and of poisoned inputs per score; higher is more suspicious. {_seed(record)}."
        words = f"Scores of {label}: {int(poisoned.sum())} poisoned and {int((~poisoned).sum())} clean inputs"
        yield Figure("scores", f"scores-{_stem(label)}", f"Scores of {label}", said, words, _spec(drawn, 290, 160))


def _bins(kind: str, scores: Array, edges: Array) -> Rows:
    low, high, counts = (a.round(6).tolist() for a in (edges[:-1], edges[1:], np.histogram(scores, edges)[0]))
    found = zip(low, high, counts, strict=True)
    return [{"from": a, "to": b, "number": n, "kind": kind, "% of its kind": round(100 * n / len(scores), 2)} for a, b, n in found if n]


def _confusions(record: Record, store: Store) -> Iterator[Figure]:
    for label, metrics in _models(record):
        counts, gone = metrics["confusion"], metrics["triggered_as"]
        names = _names(record, max(len(gone), *map(len, counts)))
        lines = [*zip(names, counts, strict=False), ("triggered", gone)]
        cells = [
            {"true": true, "said": said, "inputs": n, "share": round(n / sum(line), 4), "% of its row": round(100 * n / sum(line), 1)}
            for true, line in lines
            for said, n in zip(names, line, strict=False)
            if n
        ]
        cells = sorted(cells, key=lambda c: -c["share"])[:CELLS]
        drawn = _heatmap(cells, names, [true for true, _ in lines])
        said = f"Row: true class, last one: triggered inputs. Column: what the model says. {_seed(record)}."
        words = f"Confusion of the model {_when(label)}; most triggered inputs go to {names[int(np.argmax(gone))]}"
        yield Figure("confusion", f"confusion-{_stem(label)}", _when(label), said, words, drawn)


def _heatmap(cells: Rows, names: list[str], lines: list[str]) -> Spec:
    side = min(44.0, max(3.0, 260 / len(names)))
    flat = max(map(len, names)) * 7 < side
    look = {"labelOverlap": True, "labelLimit": 84, "domain": False, "ticks": False}
    base = alt.Chart(alt.Data(values=cells)).encode(
        x=alt.X("said:N", scale=alt.Scale(domain=names), axis=alt.Axis(labelAngle=0 if flat else -45, **look)),
        y=alt.Y("true:N", scale=alt.Scale(domain=lines), axis=alt.Axis(**look)),
        tooltip=_tips("true", "said", "inputs", "% of its row"),
    )
    boxes = base.mark_rect().encode(
        color=alt.condition("datum.true == 'triggered'", alt.value(_ATTACK), alt.value(_TARGET)),
        opacity=alt.Opacity("share:Q", scale=alt.Scale(domain=[0, 1], range=[0.05, 1]), legend=None),
    )
    shade = alt.condition("datum.share > 0.5", alt.value("#ffffff"), alt.value(INK))
    numbers = base.mark_text(fontSize=11 if side > 24 else 9).encode(text="inputs:Q", color=shade)
    return _spec(boxes + numbers if side > 18 else boxes, side * len(names), side * len(lines))


def _embeddings(record: Record, store: Store) -> Iterator[Figure]:
    for label, _ in _models(record):
        arrays = _arrays(record, store, "judge" if label == "none" else f"verdict {label}", "embedding")
        if not arrays:
            continue
        place, kept = _plane(np.concatenate([arrays[kind][:most] for kind, most in POINTS.items()]))
        names = _names(record, 1 + max(int(a.max(initial=0)) for key, a in arrays.items() if key.endswith(("_y", "_said"))))
        goals = {names[int(w)] for w in arrays["wanted"]}
        target = goals.pop() if len(goals) == 1 else ""
        rows = []
        for kind, most in POINTS.items():
            for y, said in zip(arrays[f"{kind}_y"][:most], arrays[f"{kind}_said"][:most], strict=True):
                (x, up), group = place[len(rows)].tolist(), _group(kind, names[y], names, target)
                rows.append({"x": x, "y": up, "input": group, "true": names[y], "said": names[said]})
        note = f"Last features along two principal axes ({kept:.0%} of their variance). {_seed(record)}."
        words = f"Features of the model {_when(label)}: clean inputs by class, and triggered inputs"
        drawn = _cloud(rows, list(dict.fromkeys(_group("clean", n, names, target) for n in names)), f"{target} (target)")
        yield Figure("embedding", f"embedding-{_stem(label)}", _when(label), note, words, drawn)


def _plane(features: Array) -> tuple[Array, float]:
    """The two principal components, and the share of the variance they keep."""
    flat = np.nan_to_num(features.reshape(len(features), -1).astype(float), posinf=0.0, neginf=0.0)
    left, size, _ = np.linalg.svd(np.pad(flat - flat.mean(0), ((0, 2), (0, 2))), full_matrices=False)
    place = (left * size)[: len(flat), :2].round(3)  # padded with zeros: there are always two axes
    return place, float((size[:2] ** 2).sum() / max(1e-12, float((size**2).sum())))


def _group(kind: str, name: str, names: list[str], target: str) -> str:
    """What an input is shown as; classes beyond the palette share one colour."""
    if kind == "triggered" or name == target:
        return kind if kind == "triggered" else f"{name} (target)"
    return name if len(names) <= len(_MANY) + 1 else "other classes"


def _cloud(rows: Rows, clean: list[str], target: str) -> Spec:
    """Triggered inputs and the target class differ from the rest in shape, not only in colour."""
    plain = [n for n in clean if n != target]
    looks = {n: (_MANY[i % len(_MANY)] if len(plain) > 1 else _PLAIN, "circle") for i, n in enumerate(plain)}
    looks |= {target: (_TARGET, "diamond")} if target in clean else {}
    looks["triggered"] = (_ATTACK, "triangle-up")
    colours, shapes = (alt.Scale(domain=list(looks), range=list(column)) for column in zip(*looks.values(), strict=True))
    place = {"axis": None, "scale": alt.Scale(zero=False, padding=6)}
    drawn = alt.Chart(alt.Data(values=rows)).mark_point(filled=True, size=42, opacity=0.75)
    drawn = drawn.encode(x=alt.X("x:Q", **place), y=alt.Y("y:Q", **place), tooltip=_tips("input", "true", "said"))
    return _spec(drawn.encode(color=alt.Color("input:N", scale=colours), shape=alt.Shape("input:N", scale=shapes)), 320, 270)


def _drawings(record: Record, store: Store) -> Iterator[Figure]:
    digest = record.artefacts.get("judge", {}).get("drawn")
    drawn = json.loads(store.get_object(digest)) if digest else {"samples": []}
    kinds = [str(k) for k in record.metrics.get("data", {}).get("node_kinds") or []]
    for i, sample in enumerate(drawn["samples"]):
        true, before, after = (_names(record, 1 + drawn[k][i])[drawn[k][i]] for k in ("true", "said_before", "said"))
        said = f"True: {true}; said before: {before}; with the trigger: {after}."
        if sample["kind"] in ("graph", "image"):
            is_graph = sample["kind"] == "graph"
            spec, note = _graph(sample, kinds) if is_graph else _image(sample)
            words = f"{'Graph with its trigger' if is_graph else 'Image, triggered image, difference'}. {said}"
            yield Figure("samples", f"sample-{i + 1}", f"{before} \N{RIGHTWARDS ARROW} {after}", said + note, words, spec, is_graph)


def _graph(sample: dict[str, Any], kinds: list[str]) -> tuple[Spec, str]:
    """The graph after the trigger: touched nodes ringed, added edges thick, removed ones dashed."""
    edges = {tuple(e): role for role in ("kept", "added", "removed") for e in sample["edges" if role == "kept" else role]}
    n = max(len(sample["nodes"]), len(sample["old_nodes"]))
    place = _layout(n, list(edges), sample["touched"])
    ends = [(role, *place[a], *place[b]) for (a, b), role in edges.items() if a in place and b in place]
    lines = [dict(zip(("edge", "x", "y", "x2", "y2"), end, strict=True)) for end in ends]
    nodes = [{"x": x, "y": y, **_node(sample, i, kinds)} for i, (x, y) in place.items()]
    whole = {"axis": None, "scale": alt.Scale(domain=[-1.15, 1.15])}
    x, y, big = alt.X("x:Q", **whole), alt.Y("y:Q", **whole), n <= 25
    rules = alt.Chart(alt.Data(values=lines)).mark_rule().encode(
        x=x,
        y=y,
        x2="x2:Q",
        y2="y2:Q",
        color=alt.condition("datum.edge == 'kept'", alt.value(_PLAIN), alt.value(_ATTACK)),
        strokeWidth=alt.condition("datum.edge == 'added'", alt.value(3.5), alt.value(1.8)),
        strokeDash=alt.condition("datum.edge == 'removed'", alt.value([4, 4]), alt.value([1, 0])),
        tooltip=_tips("edge"),
    )
    base = alt.Chart(alt.Data(values=nodes)).encode(x=x, y=y, tooltip=_tips("node", "kind", "trigger"))
    ring = alt.condition("datum.trigger == 'untouched'", alt.value("#ffffff"), alt.value(_ATTACK))
    dots = base.mark_circle(opacity=1, size=330 if big else 130, strokeWidth=2.5).encode(color=alt.Color("fill:N", scale=None), stroke=ring)
    words = base.mark_text(fill="#1a1a1a", fontSize=11 if big else 8).encode(text="label:N")
    return _spec(rules + dots + words, 230, 200), f" {len(place)} of {n} nodes." if len(place) < n else ""


def _layout(n: int, edges: list[tuple[int, ...]], touched: list[int]) -> dict[int, tuple[float, float]]:
    """Places in [-1, 1] of the nodes that are drawn: all, or in a large graph those nearest to the trigger."""
    import networkx as nx  # comes with torch, imports nothing of it

    graph = nx.Graph(edges)
    graph.add_nodes_from(range(n))
    if n > NODES:
        near = nx.multi_source_dijkstra_path_length(graph, set(touched[: NODES // 2]) or {0})
        graph = graph.subgraph(sorted(near, key=lambda v: (near[v], v))[:NODES])
    steps = dict(nx.all_pairs_shortest_path_length(graph))
    far = 1 + max(max(found.values()) for found in steps.values())  # separate pieces stay beside each other
    place = nx.kamada_kawai_layout(graph, dist={a: {b: steps[a].get(b, far) for b in graph} for a in graph})
    return {v: (round(float(p[0]), 3), round(float(p[1]), 3)) for v, p in place.items()}


def _node(sample: dict[str, Any], i: int, kinds: list[str]) -> dict[str, Any]:
    old, new = (sample[k][i] if i < len(sample[k]) else None for k in ("old_nodes", "nodes"))
    now, was = (kinds[k] if k is not None and k < len(kinds) else str(k) for k in (old if new is None else new, old))
    role = "added" if old is None else "removed" if new is None else "touched" if i in sample["touched"] else "untouched"
    fill = _LIGHT[(old if new is None else new) % len(_LIGHT)]
    return {"node": i, "label": now, "kind": now if old in (new, None) or new is None else f"{now}, was {was}", "trigger": role, "fill": fill}


def _image(sample: dict[str, Any]) -> tuple[Spec, str]:
    """Original, triggered and their difference, magnified until its largest value is white."""
    step = -(-max(np.shape(sample["before"])[:2]) // PIXELS)
    before, after = (np.asarray(sample[k], dtype=np.uint8)[::step, ::step] for k in ("before", "after"))
    change = np.abs(after.astype(float) - before)
    times = 255 / max(1.0, float(change.max()))
    shown = {"original": before, "triggered": after, f"difference \N{MULTIPLICATION SIGN}{times:.3g}": (change * times).astype(np.uint8)}
    panels = alt.Data(values=[{"at": name, "url": _png(image)} for name, image in shown.items()])
    axis = alt.Axis(orient="top", labelAngle=0, domain=False, ticks=False)
    drawn = alt.Chart(panels).mark_image(width=96, height=96, smooth=False)
    drawn = drawn.encode(x=alt.X("at:N", sort=None, title=None, axis=axis), url="url:N")
    return _spec(drawn, 306, 98), f" Every {step}. pixel." if step > 1 else ""


def _png(image: Array) -> str:
    """An 8-bit grey or RGB image as a data URL."""
    height, width, channels = image.shape
    lines = b"".join(b"\0" + line.tobytes() for line in image)
    header = struct.pack(">IIBBBBB", width, height, 8, 0 if channels == 1 else 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(lines, 9)), (b"IEND", b""))
    body = b"".join(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks)
    return "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + body).decode()


def _spec(chart: Any, width: float, height: float) -> Spec:
    found: Spec = chart.properties(width=width, height=height).configure(**_LOOK).to_dict()
    return found


def _tips(*names: str) -> list[Any]:
    return [alt.Tooltip(field=name, type="nominal") for name in names]


def _models(record: Record) -> Iterator[tuple[str, dict[str, Any]]]:
    """The victim as it came ("none"), then every purified one that was judged."""
    found = {"none": record.metrics.get("victim", {}), **record.metrics.get("purifiers", {})}
    return ((label, metrics) for label, metrics in found.items() if "acc" in metrics)


def _arrays(record: Record, store: Store, stage: str, name: str) -> dict[str, Array]:
    digest = record.artefacts.get(stage, {}).get(name)
    if digest is None:
        return {}
    with np.load(io.BytesIO(store.get_object(digest)), allow_pickle=False) as file:
        return dict(file)


def _names(record: Record, most: int) -> list[str]:
    """Class names, told apart where two are the same; numbers where there are none."""
    known = [str(name) for name in record.metrics.get("data", {}).get("classes", [])]
    found = known + [str(i) for i in range(len(known), most)]
    return [f"{i}: {n}" if found.count(n) > 1 or n == "triggered" else n for i, n in enumerate(found)]


def _when(label: str) -> str:
    return "before" if label == "none" else f"after {label}"


def _seed(record: Record) -> str:
    return f"Seed {record.plan.get('seed')}"


def _stem(label: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", label.lower()).strip("-") or "x"
