"""The figures of one group of a report."""

from __future__ import annotations

import base64
import importlib
import json
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from ostiary.errors import StoreError
from ostiary.experiment.record import Record
from ostiary.experiment.store import Store
from ostiary.report.causes import ONE_TARGET
from ostiary.report.certified import certified
from ostiary.report.classes import class_bars
from ostiary.report.drawing import (
    ATTACK,
    INK,
    MANY,
    PLAIN,
    TARGET,
    Figure,
    Rows,
    Spec,
    alt,
    chart,
    legend,
    specification,
    stem,
    tips,
)
from ostiary.report.levels import curved
from ostiary.report.tables import COLUMNS, TITLES, Group

Array = np.ndarray[Any, Any]

POINTS = {"clean": 200, "triggered": 120}  # per embedding: more only makes the page heavy
PICTURED = 4  # purified models of a run whose confusion and features are drawn: all would make the page too heavy
CELLS, NODES, PIXELS = 1500, 60, 112  # most cells of a heat map, nodes of a drawn graph, pixels along an image
_ELSEWHERE = "what they are drawn from stayed in the store that computed it; merge that store, or run the plan in a fresh one"
_SHAPES = ("triangle-up", "square", "diamond", "cross")
_LIGHT = ("#eedd88", "#dddddd", "#44bb99", "#99ddff", "#bbcc33", "#aaaa00", "#77aadd", "#ffaabb", "#ee8866")


def figures(group: Group, store: Store) -> tuple[list[Figure], list[str]]:
    """Those of one group, and one sentence for each kind whose data the store no longer has.

    What belongs to one model (scores, recovered triggers, confusion, features, samples) is drawn for the seed of `first`.
    """
    made, missing = [], []
    record = first(group)
    if record is not None:
        known = "asr" in record.metrics["victim"]
        made += [*([_scatter(group)] if known else []), *certified(group)]
        for maker in (_scores, _classes, _recovered, _confusions, _embeddings, _drawings):
            try:
                made += maker(record, store)
            except StoreError as error:
                missing.append(f"{maker.__name__.strip('_')}: {_ELSEWHERE if _told(record, store) else error}")
    return made, missing


def _told(record: Record, store: Store) -> bool:
    """Whether only figures of the record's judge came here from another store."""
    row = store.told(record.stages.get("judge", ""))
    return row is not None and row.elsewhere and store.stage(row.key) is None


def first(group: Group) -> Record | None:
    """The record that stands for its group where one model is shown, in whatever order they ran: of the least seed for which
    detectors and purifiers have figures, as far as any has: a plan may leave them out where the attack fails."""
    having = (r for r in group.records if "acc" in r.metrics.get("victim", {}))
    return min(having, key=lambda r: (_bare(r), r.plan.get("seed") or 0), default=None)


def _bare(record: Record) -> int:
    return sum(not record.metrics.get(kind) for kind in ("detectors", "purifiers"))


def _scatter(group: Group) -> Figure:
    rows = [row for record in group.records for row in _results(record)]
    labels = list(dict.fromkeys(r["defence"] for r in rows))
    palette = [PLAIN, *(MANY[i % len(MANY)] for i in range(len(labels) - 1))]
    shapes = ["circle", *(_SHAPES[i // len(MANY) % len(_SHAPES)] for i in range(len(labels) - 1))]  # once colours are used up
    below = legend(labels, 580)
    ticks = alt.Axis(values=[0, 20, 40, 60, 80, 100])
    base = chart(rows).encode(
        x=alt.X("ASR %:Q", title="ASR %", axis=ticks, scale=alt.Scale(domain=[-3, 103], nice=False)),
        y=alt.Y("ACC %:Q", title="ACC %", scale=alt.Scale(zero=False, padding=12)),
        color=alt.Color("defence:N", scale=alt.Scale(domain=labels, range=palette), legend=below),
    )
    moves = base.mark_rule(opacity=0.45, strokeWidth=1.5).encode(x2="was ASR:Q", y2="was ACC:Q")
    marks = base.mark_point(filled=True, size=110, opacity=0.9).encode(
        shape=alt.Shape("defence:N", scale=alt.Scale(domain=labels, range=shapes), legend=below),
        tooltip=tips("defence", "seed", *(TITLES[c] for c in COLUMNS)),
    )
    natural = [r["natural %"] for r in rows if r["when"] == "before" and r["natural %"] is not None]
    floor = chart([{"natural %": float(np.mean(natural))}] if natural else [])
    line = floor.mark_rule(strokeDash=[4, 4], stroke=INK, opacity=0.6).encode(x=alt.X("natural %:Q", title="ASR %"))
    words = "; ".join(f"{r['defence']} seed {r['seed']}: ACC {r['ACC %']} %, ASR {r['ASR %']} %" for r in rows[:12])
    said = "Lines lead from a victim (circle) to what a purifier made of it; best is top left. Dashed: clean model."
    if any(map(curved, group.records)):
        said += " Purifiers at several levels of one option have a figure of their own."
    return Figure("scatter", "scatter", "", said, words, specification(line + moves + marks, 390, 260))


def _results(record: Record) -> Iterator[dict[str, Any]]:
    for label, found in _models(record):
        row = {"defence": label, "seed": record.plan.get("seed"), "when": "before" if label == "none" else "after"}
        was = {f"was {c.upper()}": _value(record.metrics["victim"], c) for c in ("acc", "asr")}
        yield row | was | {TITLES[c]: _value(found, c) for c in COLUMNS}


def _value(metrics: dict[str, Any], name: str) -> float | None:
    value = metrics.get(name, {}).get("value")
    return None if value is None or not np.isfinite(value) else round(value, 3) if name == "der" else round(100 * value, 2)


def _scores(record: Record, store: Store) -> Iterator[Figure]:
    for label, found in record.metrics.get("detectors", {}).items():
        arrays = _arrays(record, store, f"detector {label}", "scores")
        if not arrays or len(arrays["scores"]) != len(arrays["poisoned"]) or not np.isfinite(arrays["scores"]).any():
            continue  # scores of classes, not of inputs, are neither poisoned nor clean
        held = np.isfinite(arrays["scores"])
        scores, poisoned = arrays["scores"][held].astype(float), arrays["poisoned"][held].astype(bool)
        edges = np.histogram_bin_edges(scores, bins=30)
        bad, what = _SUSPECTS[found.get("about", "")]
        good = "clean" if record.plan.get("attack") else "all"  # without an attack nobody knows which are
        rows = _bins(good, scores[~poisoned], edges) + _bins(bad, scores[poisoned], edges)
        bars = chart(rows).mark_bar(opacity=0.6)
        drawn = bars.encode(
            x=alt.X("from:Q", bin="binned", title=found.get("measure", "score"), scale=alt.Scale(zero=False)),
            x2="to:Q",
            y=alt.Y("% of its kind:Q", stack=None),
            color=alt.Color("kind:N", scale=alt.Scale(domain=[good, bad], range=[TARGET, ATTACK])),
            tooltip=tips("kind", "number", "% of its kind", "from", "to"),
        )
        kinds = f"clean and of {bad} {what}" if good == "clean" else what
        said = f"Share of {kinds} per score; higher is more suspicious. {_seed(record)}."
        border = _border(scores, arrays["flagged"][held].astype(bool)) if "flagged" in arrays else None
        if border is not None:
            drawn += chart([{"from": border}]).mark_rule(strokeDash=[4, 4], stroke=INK, opacity=0.7).encode(x="from:Q")
            said += " Dashed: from there on it is flagged."
        words = f"Scores of {label}: {int(poisoned.sum())} {bad} and {int((~poisoned).sum())} other {what}"
        yield Figure("scores", f"scores-{stem(label)}", f"Scores of {label}", said, words, specification(drawn, 290, 160))


def _classes(record: Record, store: Store) -> Iterator[Figure]:
    attack = record.plan.get("attack") or {}
    single = attack.get("labels", {}).get("name", "all-to-one") in ONE_TARGET
    target = attack.get("target") if single else None
    for label, found in record.metrics.get("detectors", {}).items():
        lines = found.get("info", {}).get("classes", {})
        yield from class_bars(label, found, _names(record, len(lines)), target, _seed(record))


_SUSPECTS = {  # what a detector scores: how the bad ones are called, and all
    "": ("poisoned", "inputs"),
    "train": ("poisoned", "training samples"),
    "incoming": ("triggered", "test inputs"),
}


def _border(scores: Array, flagged: Array) -> float | None:
    """The score from which on inputs were flagged, if one score parts them."""
    if flagged.all() or not flagged.any():
        return None
    least, most = float(scores[flagged].min()), float(scores[~flagged].max())
    return (least + most) / 2 if least > most else None


def _bins(kind: str, scores: Array, edges: Array) -> Rows:
    ends, counts = [float(f"{e:.9g}") for e in edges], np.histogram(scores, edges)[0].tolist()
    filled = [(a, b, n) for a, b, n in zip(ends[:-1], ends[1:], counts, strict=True) if n]
    part = 100 / max(1, len(scores))
    return [{"kind": kind, "number": n, "% of its kind": round(part * n, 2), "from": a, "to": b} for a, b, n in filled]


def _recovered(record: Record, store: Store) -> Iterator[Figure]:
    """The trigger that a scan of the model recovered for each class."""
    kinds = [str(k) for k in record.metrics.get("data", {}).get("node_kinds") or []]
    for label, found in record.metrics.get("detectors", {}).items():
        digest = record.artefacts.get(f"detector {label}", {}).get("drawn")
        for i, drawn in enumerate(json.loads(store.get_object(digest)) if digest else []):
            name = _names(record, 1 + drawn["class"])[drawn["class"]]
            flagged = drawn["class"] in found["classes"]
            graph = drawn["sample"]["kind"] != "image"
            spec, note = _graph(drawn["sample"], kinds) if graph else _image(drawn["sample"], None)
            what = "graphs" if graph else "images"
            said = f"Leads {drawn['rate']:.0%} of clean {what} of other classes to {name}; score {drawn['score']:.2f}, "
            said += f"{'flagged' if flagged else 'not flagged'} by {label}. {_seed(record)}.{note}"
            title = f"to {name}" + (" \N{EM DASH} flagged" if flagged else "")
            words = f"{'Graph' if graph else 'Image'} with the trigger recovered for class {name}. {said}"
            yield Figure("recovered", f"recovered-{stem(label)}-{i + 1}", title, said, words, spec, hover=graph)


def _confusions(record: Record, store: Store) -> Iterator[Figure]:
    for label, metrics in _pictured(record):
        counts, gone = metrics["confusion"], metrics.get("triggered_as", [])
        names = _names(record, max(len(gone), *map(len, counts)))
        lines = [*zip(names, counts, strict=False), *([("triggered", gone)] if gone else [])]
        cells = [
            {"true": true, "said": said, "inputs": n, "% of its row": round(100 * n / sum(line), 1)}
            for true, line in lines
            for said, n in zip(names, line, strict=False)
            if n
        ]
        cells = sorted(cells, key=lambda c: -c["% of its row"])[:CELLS]
        drawn = _heatmap(cells, names, [true for true, _ in lines])
        said = f"Row: true class{', last one: triggered inputs' if gone else ''}. Column: what the model says. {_seed(record)}."
        words = f"Confusion of the model {_when(label)}"
        words += f"; most triggered inputs go to {names[int(np.argmax(gone))]}" if gone else ""
        yield Figure("confusion", f"confusion-{stem(label)}", _when(label), said, words, drawn)


def _heatmap(cells: Rows, names: list[str], lines: list[str]) -> Spec:
    side = min(44.0, max(3.0, 260 / len(names)))
    flat = max(map(len, names)) * 7 < side
    look = {"labelOverlap": len(names) > 12, "labelLimit": 84, "domain": False, "ticks": False}
    base = chart(cells).encode(
        x=alt.X("said:N", scale=alt.Scale(domain=names), axis=alt.Axis(labelAngle=0 if flat else -45, **look)),
        y=alt.Y("true:N", scale=alt.Scale(domain=lines), axis=alt.Axis(**look)),
        tooltip=tips("true", "said", "inputs", "% of its row"),
    )
    boxes = base.mark_rect().encode(
        color=_either("datum.true == 'triggered'", ATTACK, TARGET),
        opacity=alt.Opacity("% of its row:Q", scale=alt.Scale(domain=[0, 100], range=[0.05, 1]), legend=None),
    )
    shade = _either("datum['% of its row'] > 85", "#ffffff", INK)
    numbers = base.mark_text(fontSize=11 if side > 24 else 9).encode(text="inputs:Q", color=shade)
    return specification(boxes + numbers if side > 18 else boxes, side * len(names), side * len(lines))


def _embeddings(record: Record, store: Store) -> Iterator[Figure]:
    for label, _ in _pictured(record):
        arrays = _arrays(record, store, "judge" if label == "none" else f"verdict {label}", "embedding")
        if not arrays:
            continue
        place, kept = _plane(np.concatenate([arrays[kind][:most] for kind, most in POINTS.items()]))
        names = _names(record, 1 + max(int(a.max(initial=0)) for key, a in arrays.items() if key.endswith(("_y", "_said"))))
        target = int(arrays["wanted"][0]) if len(set(arrays["wanted"].tolist())) == 1 else None
        few = len(names) <= len(MANY) + 1  # classes beyond the palette share one colour
        shown = [f"{n} (target)" if i == target else n if few else "other classes" for i, n in enumerate(names)]
        rows: Rows = []
        for kind, most in POINTS.items():
            for true, said in zip(arrays[f"{kind}_y"][:most], arrays[f"{kind}_said"][:most], strict=True):
                at = dict(zip(("x", "y"), place[len(rows)].tolist(), strict=True))
                what = "triggered" if kind == "triggered" else shown[true]
                rows.append({"input": what, "true": names[true], "said": names[said], **at})
        note = f"Last features along two principal axes ({kept:.0%} of their variance). {_seed(record)}."
        words = f"Features of the model {_when(label)}: clean inputs by class, and triggered inputs"
        drawn = _cloud(rows, list(dict.fromkeys(shown)), None if target is None else shown[target])
        yield Figure("embedding", f"embedding-{stem(label)}", _when(label), note, words, drawn)


def _plane(features: Array) -> tuple[Array, float]:
    """The two principal components, and the share of the variance they keep."""
    flat = np.nan_to_num(features.reshape(len(features), -1).astype(float), posinf=0.0, neginf=0.0)
    left, size, _ = np.linalg.svd(np.pad(flat - flat.mean(0), ((0, 2), (0, 2))), full_matrices=False)
    place = (left * size)[: len(flat), :2]  # padded with zeros: there are always two axes
    kept = (size[:2] ** 2).sum() / (size**2).sum() if size[0] > 0 else 1.0
    return (place / (np.abs(place).max() or 1.0)).round(4), float(kept)


def _cloud(rows: Rows, clean: list[str], target: str | None) -> Spec:
    """Triggered inputs and the target class differ from the rest in shape, not only in colour."""
    plain = [n for n in clean if n != target]
    looks = {n: (MANY[i % len(MANY)] if len(plain) > 1 else PLAIN, "circle") for i, n in enumerate(plain)}
    looks |= ({target: (TARGET, "diamond")} if target else {}) | {"triggered": (ATTACK, "triangle-up")}
    colours, shapes = (alt.Scale(domain=list(looks), range=list(column)) for column in zip(*looks.values(), strict=True))
    place = {"axis": None, "scale": alt.Scale(zero=False, padding=6)}
    drawn = chart(rows).mark_point(filled=True, size=42, opacity=0.75)
    drawn = drawn.encode(x=alt.X("x:Q", **place), y=alt.Y("y:Q", **place), tooltip=tips("input", "true", "said"))
    return specification(
        drawn.encode(color=alt.Color("input:N", scale=colours), shape=alt.Shape("input:N", scale=shapes)), 320, 270
    )


def _drawings(record: Record, store: Store) -> Iterator[Figure]:
    digest = record.artefacts.get("judge", {}).get("drawn")
    drawn = json.loads(store.get_object(digest)) if digest else {"samples": []}
    kinds = [str(k) for k in record.metrics.get("data", {}).get("node_kinds") or []]
    for i, sample in enumerate(drawn["samples"]):
        true, before, after = (_names(record, 1 + drawn[k][i])[drawn[k][i]] for k in ("true", "said_before", "said"))
        said = f"True class {true}; said {before} before and {after} with the trigger."
        if sample["kind"] in ("graph", "node", "image"):
            graph = sample["kind"] != "image"
            heat = drawn["heat"][i] if drawn.get("heat") else None
            spec, note = _graph(sample, kinds) if graph else _image(sample, heat)
            words = f"{_SHOWS[sample['kind']]}. {said}"
            title = f"{before} \N{RIGHTWARDS ARROW} {after}"
            yield Figure("samples", f"sample-{i + 1}", title, said + note, words, spec, hover=graph)


_SHOWS = {
    "graph": "Graph with its trigger",
    "node": "Neighbourhood of a node with its trigger",
    "image": "Image, triggered image, difference",
}


def _graph(sample: dict[str, Any], kinds: list[str]) -> tuple[Spec, str]:
    """The graph after the trigger: touched nodes ringed, added edges thick, removed ones dashed."""
    edges = {tuple(e): role for role in ("kept", "added", "removed") for e in sample["edges" if role == "kept" else role]}
    n = max(len(sample["nodes"]), len(sample["old_nodes"]))
    within = [e for e, role in edges.items() if role == "added" and max(e) < len(sample["old_nodes"])]
    place = _layout(n, list(edges), within, sample["touched"])
    ends = [(role, *place[a], *place[b]) for (a, b), role in edges.items() if a in place and b in place]
    lines = [dict(zip(("edge", "x", "y", "x2", "y2"), end, strict=True)) for end in ends]
    nodes = [{"x": x, "y": y, **_node(sample, i, kinds)} for i, (x, y) in place.items()]
    whole = {"axis": None, "scale": alt.Scale(domain=[-1.15, 1.15])}
    x, y = alt.X("x:Q", **whole), alt.Y("y:Q", **whole)
    size, letter = (330, 11) if len(place) <= 14 else (190, 10) if len(place) <= 32 else (90, 7)
    rules = chart(lines).mark_rule()
    rules = rules.encode(
        x=x,
        y=y,
        x2="x2:Q",
        y2="y2:Q",
        color=_either("datum.edge == 'kept'", PLAIN, ATTACK),
        strokeWidth=_either("datum.edge == 'added'", 3.5, 1.8),
        strokeDash=_either("datum.edge == 'removed'", [4, 4], [1, 0]),
        tooltip=tips("edge"),
    )
    base = chart(nodes).encode(x=x, y=y, tooltip=tips("node", "kind", "trigger"))
    look = {"color": alt.Color("fill:N", scale=None), "stroke": _either("datum.trigger == 'untouched'", "#ffffff", ATTACK)}
    dots = base.mark_circle(opacity=1, size=size, strokeWidth=2.5).encode(**look)
    words = base.mark_text(fill="#1a1a1a", fontSize=letter).encode(text="label:N")
    return specification(rules + dots + words, 260, 220), f" {len(place)} of {n} nodes." if len(place) < n else ""


def _layout(n: int, edges: list[Any], added: list[Any], touched: list[int]) -> dict[int, tuple[float, float]]:
    """Places in [-1, 1] of the nodes that are drawn: all, or in a large graph those nearest to the trigger.

    Distances are midway between those without and with the `added` edges: the graph looks like itself, yet is bent enough
    that no added edge hides behind others.
    """
    nx: Any = importlib.import_module("networkx")  # comes with torch, imports nothing of it
    whole = nx.Graph(edges)
    whole.add_nodes_from(range(n))
    if n > NODES:
        near = nx.multi_source_dijkstra_path_length(whole, set(touched[: NODES // 2]) or {0})
        whole = whole.subgraph(sorted(near, key=lambda v: (near[v], v))[:NODES])
    kept = nx.Graph(whole)
    kept.remove_edges_from(added)
    steps = [dict(nx.all_pairs_shortest_path_length(g)) for g in (whole, kept)]
    far = 1 + max(max(found.values()) for found in steps[0].values())  # separate pieces stay beside each other
    wanted = {a: {b: sum(s[a].get(b, far) for s in steps) for b in whole if b != a} for a in whole}
    place = nx.kamada_kawai_layout(whole, dist=wanted)
    wide = np.maximum(np.abs(np.array(list(place.values()))).max(0), 0.4)  # a chain may use the whole picture
    return {v: (round(float(x), 3), round(float(y), 3)) for v, (x, y) in ((v, p / wide) for v, p in place.items())}


def _node(sample: dict[str, Any], i: int, kinds: list[str]) -> dict[str, Any]:
    old, new = (sample[k][i] if i < len(sample[k]) else None for k in ("old_nodes", "nodes"))
    role = "added" if old is None else "removed" if new is None else "touched" if i in sample["touched"] else "untouched"
    now: Any = old if new is None else new
    label, was = (kinds[k] if k is not None and k < len(kinds) else str(k) for k in (now, old))
    kind = label if old in (now, None) else f"{label}, was {was}"
    return {"node": i, "label": label, "kind": kind, "trigger": role, "fill": _LIGHT[now % len(_LIGHT)]}


def _image(sample: dict[str, Any], heat: list[Any] | None) -> tuple[Spec, str]:
    """Original, triggered and their difference, magnified until its largest value is white; below, where the model looks."""
    step = -(-max(np.shape(sample["before"])[:2]) // PIXELS)
    before, after = (np.asarray(sample[k], dtype=np.uint8)[::step, ::step] for k in ("before", "after"))
    change = np.abs(after.astype(float) - before)
    times = 255 / max(1.0, float(change.max()))
    difference = f"difference \N{MULTIPLICATION SIGN}{times:.3g}"
    panels = _panels({"original": before, "triggered": after, difference: (change * times).astype(np.uint8)})
    note = f" One pixel in {step}." if step > 1 else ""
    if heat is None:
        return specification(panels), note
    maps = (np.asarray(h, dtype=float)[::step, ::step, None] / 255 for h in heat)
    lit = [_lit(image, h) for image, h in zip((before, after), maps, strict=True)]
    below = _panels({"Grad-CAM before": lit[0], "Grad-CAM after": lit[1]})
    return specification(alt.vconcat(panels, below)), f"{note} Below: where the model looks for what it says."


def _panels(shown: dict[str, Array]) -> Any:
    panels = chart([{"at": name, "url": _png(image)} for name, image in shown.items()])
    axis = alt.Axis(orient="top", labelAngle=0, domain=False, ticks=False, labelLimit=102)
    at = alt.X("at:N", sort=None, title=None, axis=axis)
    drawn = panels.mark_image(width=96, height=96, smooth=False).encode(x=at, y=alt.value(49), url="url:N")
    return drawn.properties(width=102 * len(shown), height=98)


def _lit(image: Array, heat: Array) -> Array:
    """The image, dimmed, with the warm colour of attacks where the map is high."""
    warm = np.array([int(ATTACK[i : i + 2], 16) for i in (1, 3, 5)], dtype=float)
    lit: Array = ((1 - heat) * 0.6 * image + heat * warm).astype(np.uint8)
    return lit


def _png(image: Array) -> str:
    """An 8-bit grey or RGB image as a data URL."""
    height, width, channels = image.shape
    lines = b"".join(b"\0" + line.tobytes() for line in image)
    file = b"\x89PNG\r\n\x1a\n"
    header = struct.pack(">IIBBBBB", width, height, 8, 0 if channels == 1 else 2, 0, 0, 0)
    for kind, data in ((b"IHDR", header), (b"IDAT", zlib.compress(lines, 9)), (b"IEND", b"")):
        file += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return "data:image/png;base64," + base64.b64encode(file).decode()


def _either(test: str, yes: Any, no: Any) -> Any:
    return alt.condition(test, alt.value(yes), alt.value(no))


def _models(record: Record) -> Iterator[tuple[str, dict[str, Any]]]:
    """The victim as it came ("none"), then every purified one that was judged, but for points of a curve."""
    apart, purified = curved(record), record.metrics.get("purifiers", {})
    found = {"none": record.metrics.get("victim", {}), **{k: m for k, m in purified.items() if k not in apart}}
    return ((label, metrics) for label, metrics in found.items() if "acc" in metrics)


def _pictured(record: Record) -> list[tuple[str, dict[str, Any]]]:
    """Those of `_models` that get figures of their own: the victim, and of many purified ones those with the least ASR, or
    where no attack is known the least accuracy lost."""
    (first, *rest) = list(_models(record)) or [("none", {})]
    by = [(m.get("asr", m.get("drop", {})).get("value"), i) for i, (_, m) in enumerate(rest)]
    best = sorted((value, i) for value, i in by if value is not None)[:PICTURED]
    return [first, *(rest[i] for _, i in sorted(best, key=lambda pair: pair[1]))] if first[1] else []


def _arrays(record: Record, store: Store, stage: str, name: str) -> dict[str, Array]:
    digest = record.artefacts.get(stage, {}).get(name)
    return {} if digest is None else store.arrays(digest)


def _names(record: Record, most: int) -> list[str]:
    """Class names, told apart where two are the same; numbers where there are none."""
    known = [str(name) for name in record.metrics.get("data", {}).get("classes", [])]
    found = known + [f"output {i}" if known else str(i) for i in range(len(known), most)]
    return [f"{i}: {n}" if found.count(n) > 1 or n == "triggered" else n for i, n in enumerate(found)]


def _when(label: str) -> str:
    return "before" if label == "none" else f"after {label}"


def _seed(record: Record) -> str:
    return f"Seed {record.plan.get('seed')}"
