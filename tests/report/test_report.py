"""The page as a reader and as a browser get it: complete, offline, safe against what names may hold."""

from __future__ import annotations

import base64
import contextlib
import copy
import io
import itertools
import json
import math
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import msgspec
import numpy as np
import pytest

import ostiary
from ostiary.errors import InvalidInput, MissingPackage, StoreError
from ostiary.experiment.record import Record
from ostiary.experiment.store import Store
from ostiary.metrics.intervals import difference, rate
from ostiary.report import drawing, figures, html, tables
from ostiary.report.published import beside
from ostiary.report.tables import TITLES, Group, Row, groups, reactivation_rows, rows, text

EVIL = "</script><script>alert('x')</script>&\"<b>"
VOID = {"meta", "link", "br", "img", "hr", "input", "wbr"}
CHANGES = ["trainer.epochs=2", "purifiers=[fine-tune]"]
replace = msgspec.structs.replace


class Made(NamedTuple):
    store: Path
    graphs: list[Record]
    images: list[Record]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    store = tmp_path_factory.mktemp("store")
    graphs = {"dataset": {"name": "toy-graphs", "n": 240}, "victim": "gin", "attack": {"name": "sub-ba", "rate": 0.1}}
    images = {"dataset": {"name": "toy-images", "n": 80}, "attack": {"name": "badnets", "rate": 0.1}}
    images |= {"victim": {"name": "preact-resnet", "width": 8}}
    more = {"detectors": ["spectral"], "seeds": [0, 1]}
    found = [ostiary.run(plan, changes=CHANGES, store=store) for plan in ({**graphs, **more}, images)]
    assert [[r.status for r in records] for records in found] == [["done", "done"], ["done"]]
    return Made(store, *found)


class Page(HTMLParser):
    """Elements with their attributes, the words between them, and whether every element is closed where it should."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.raw = path.read_text(encoding="utf-8")
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.scripts: list[str] = []
        self.words = ""
        self.feed(self.raw)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)
        elif not self.open or self.open[-1] != "style":
            self.words += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.elements if name == tag]


def write(records: list[Record], store: Path, folder: Path) -> Page:
    path = folder / "page.html"
    assert ostiary.write_report(records, store, path) == path
    assert [p.name for p in folder.iterdir()] == ["page.html"]
    return Page(path)


@pytest.fixture(scope="module")
def page(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Page:
    return write([*made.graphs, *made.images], made.store, tmp_path_factory.mktemp("page"))


def changed(record: Record, **metrics: Any) -> Record:
    return replace(record, metrics={**copy.deepcopy(record.metrics), **metrics})


def test_everything_is_on_the_page(page: Page, made: Made) -> None:
    for group in groups([*made.graphs, *made.images]):
        assert group.name in page.words
        for row in rows(group):
            for name, figure in row.figures.items():
                assert name not in TITLES or text(name, figure) in page.words
        for row in reactivation_rows(group):
            assert all(text(name, figure) in page.words for name, figure in row.figures.items())
    assert len([row for group in groups(made.graphs) for row in reactivation_rows(group)]) >= 2, "a clean model and a purified"
    for record in (*made.graphs, *made.images):
        for said in (*record.doubts, *record.versions.values(), record.key[:12], record.git):
            assert said in page.words
    heads = ("What happened", "Accuracy and attack success", "How fast the backdoor comes back", "Detectors")
    order = [page.words.index(head) for head in heads]
    assert order == sorted(order)
    assert "Settings and runs" in page.words
    assert all(setting in page.words for setting in ("purifiers[0].epochs", "trainer.epochs", "verdict fine-tune", "AUROC"))
    # scatter and two each of confusion and features per group, one histogram, six drawn samples of either kind
    assert len(page.all("figure")) == len(page.all("svg")) == 2 * 5 + 1 + 2 * 6
    assert page.raw.count("Grad-CAM after</text>") == 6  # images only


def test_page_is_whole_and_accessible(page: Page) -> None:
    ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs and not str(attrs["id"]).startswith(("clip", "gradient"))]
    assert len(ids) == len(set(ids))
    links = [str(a["href"]) for a in page.all("a")]
    assert links
    assert {link.removeprefix("#") for link in links} <= set(ids)
    charts = [attrs for _, attrs in page.elements if attrs.get("class") == "chart"]
    assert all(chart["role"] == "img" and chart["aria-label"] for chart in charts)
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels))


def test_page_fetches_nothing(page: Page) -> None:
    for tag, attrs in page.elements:
        for name in ("src", "href", "xlink:href", "srcset", "data", "action", "poster"):
            assert str(attrs.get(name, "#")).startswith(("#", "data:")), (tag, attrs)
    style = page.raw[page.raw.index("<style>") : page.raw.index("</style>")]
    assert "@import" not in style
    assert "url(" not in style
    kinds = [attrs.get("type") for attrs in page.all("script")]
    assert kinds.count(None) == 2  # the library once, and what starts it
    assert kinds.count("application/json") == len(page.all("figure")) - 6  # pictures have nothing to tell under the pointer
    assert len(page.raw) < 2_000_000
    for script, attrs in zip(page.scripts, page.all("script"), strict=True):
        if attrs.get("type") == "application/json":
            assert json.loads(script)["$schema"]


def test_names_cannot_break_out(made: Made, tmp_path: Path) -> None:
    record = changed(made.graphs[0], data={**made.graphs[0].metrics["data"], "classes": [EVIL, EVIL]})
    moved = {EVIL: record.metrics["purifiers"].pop("fine-tune")}
    record.metrics["purifiers"] |= moved
    record.metrics["detectors"][EVIL] = record.metrics["detectors"].pop("spectral")
    artefacts = {k.replace("fine-tune", EVIL).replace("spectral", EVIL): v for k, v in record.artefacts.items()}
    notes = {"title": EVIL, "doubts": [EVIL], "errors": {EVIL: EVIL}, "published": {EVIL: EVIL}, "versions": {EVIL: EVIL}}
    page = write([replace(record, artefacts=artefacts, passed={EVIL: EVIL}, git=EVIL, **notes)], made.store, tmp_path)
    assert "<script>alert" not in page.raw
    assert "<b>" in page.words
    assert EVIL in page.words
    assert not any("alert" in script for script, a in zip(page.scripts, page.all("script"), strict=True) if not a)
    with contextlib.closing(Store(made.store)) as book:
        drawn = figures.figures(groups([replace(record, artefacts=artefacts)])[0], book)[0]
    assert not any(set("/<> ") & set(figure.name) for figure in drawn)
    for figure in drawn[:3]:
        assert "script" not in {e.tag.rpartition("}")[2] for e in ElementTree.fromstring(figure.svg()).iter()}


def test_failures_doubts_and_published_figures(made: Made, tmp_path: Path) -> None:
    record = made.graphs[0]
    stages = {**record.stages, "purifier nad": "", "verdict nad": ""}
    published = {"asr": 99.1, "fine-tune": {"acc": 50}, "nowhere": {"acc": 1}, "source": "table 3"}
    half = replace(record, errors={"purifier nad": "the loss diverged"}, stages=stages, published=published)
    half = replace(half, doubts=["nothing was learnt"])
    other = {**record.plan, "attack": {**record.plan["attack"], "size": 9}}
    failed = replace(record, plan=other, status="failed", metrics={}, seconds={}, artefacts={}, errors={"data": "no such file"})
    page = write([half, made.graphs[1], failed], made.store, tmp_path)
    assert "nothing was learnt (seed 0)" in page.words
    assert "purifier nad: the loss diverged" in page.words
    assert [(row.defence, bool(row.figures)) for row in rows(groups([half])[0])][-1] == ("nad", False)
    assert "Published figures of no run here, and left out: nowhere" in page.words
    assert "not run: verdict nad" in page.words
    assert "data: no such file" in page.words
    assert "no result" in page.words
    assert "99.1" in page.words
    assert "50.0" in page.words
    assert "source: table 3" in page.words
    assert page.words.index("nothing was learnt") < page.words.index("Settings and runs")


def test_published_figures_stand_beside_ours(made: Made) -> None:
    plan = {**made.graphs[0].plan, "attack": {"name": "sub-ba"}}
    paper = {"sub-ba": {"none": {"asr": 95.8}, "nad": {"asr": 0.6, "der": 0.97}}, "gta": {"none": {"asr": 1}}, "source": "[1]"}
    lines = [Row("", "none", {"asr": {"value": 0.9}}), Row("", "nad(p=1)", {"asr": {"value": 0.1}}), Row("", "nad(p=2)", {})]
    found = beside(replace(made.graphs[0], plan=plan, published=paper), lines)
    shown = [
        ("none: ASR %", "95.8", "90.0", "-5.8"),
        ("nad: ASR %", "0.6", "10.0", "+9.4"),
        ("nad: DER", "0.970", "-", ""),
    ]
    assert found == [("source", "[1]", "", ""), *shown]
    flat = beside(replace(made.graphs[0], plan=plan, published={"acc": 0.5, "gin": "no"}), lines)
    assert flat == [("gin", "no", "", ""), ("none: ACC %", "50.0", "-", "")]


def test_published_figures_are_found_under_options_too(made: Made) -> None:
    plan = {**made.graphs[0].plan, "attack": {"name": "trap", "surrogate": {"name": "gin"}}}
    cells = {"trap": {"surrogate=gin": {"asr": 70}, "surrogate=none": {"asr": 60}}, "sub-ba": {"surrogate=gin": {"asr": 1}}}
    lines = [Row("", "none", {"asr": {"value": 0.9}})]
    nested = {"victims": {"y": 1}, made.graphs[0].plan["victim"]["name"]: cells, "set=AIDS": {"none": {"asr": 5}}}
    found = beside(replace(made.graphs[0], plan=plan, published=nested), lines)
    assert found == [("none: ASR %", "70.0", "90.0", "+20.0")]


def test_published_figures_have_one_unit_and_may_stand_in_two_places(made: Made) -> None:
    plan = {**made.graphs[0].plan, "attack": {"name": "sub-ba"}}
    lines = [Row("", "none", {"asr": {"value": 0.0}}), Row("", "nad", {"asr": {"value": 0.1}, "acc": {"value": 0.9}})]
    paper = {"sub-ba": {"none": {"asr": 0.01}, "nad": {"asr": 5.0}}, "nad": {"acc": 90.0}, "gta": {"none": {"asr": 97.0}}}
    found = {b.what: b.theirs for b in beside(replace(made.graphs[0], plan=plan, published=paper), lines)}
    assert found == {"none: ASR %": "0.0", "nad: ASR %": "5.0", "nad: ACC %": "90.0"}
    swapped = dict(reversed(paper.items()))
    assert {b.what: b.theirs for b in beside(replace(made.graphs[0], plan=plan, published=swapped), lines)} == found


def test_a_mean_of_survivors_says_of_how_many_seeds(made: Made) -> None:
    plan, paper = {**made.graphs[0].plan, "attack": {"name": "sub-ba"}}, {"nad": {"asr": 5.0}}
    lines = [Row("", "nad", {"asr": {"value": 0.1, "n": 1}})]
    record = replace(made.graphs[0], plan=plan, published=paper)
    assert beside(record, lines, 3) == [("nad: ASR %", "5.0", "10.0 (1 of 3 seeds)", "+5.0")]
    assert beside(record, lines) == [("nad: ASR %", "5.0", "10.0", "+5.0")]


def test_nothing_is_less_than_zero_by_nothing() -> None:
    assert [text("drop", {"value": v}) for v in (-0.0004, 0.0004, -0.0006)] == ["0.0", "0.0", "-0.1"]


def test_no_record_has_a_result(made: Made, tmp_path: Path) -> None:
    page = write([replace(made.images[0], metrics={}, seconds={}, status="failed")], made.store, tmp_path)
    assert page.all("figure") == page.all("script") == []


def test_missing_values_are_dashes(made: Made, tmp_path: Path) -> None:
    victim = copy.deepcopy(made.images[0].metrics["victim"])
    victim["natural"] = {"value": None, "low": None, "high": None, "n": 0}
    victim["ra"] = {"value": float("nan"), "n": 0}
    page = write([changed(made.images[0], victim=victim)], made.store, tmp_path)
    assert "nan" not in re.sub(r"\s", "", page.words.lower()).split("settingsandruns")[0]


def test_figures_whose_data_are_gone(made: Made, tmp_path: Path) -> None:
    gone = {stage: dict.fromkeys(held, "0" * 40) for stage, held in made.images[0].artefacts.items()}
    page = write([replace(made.images[0], artefacts=gone)], made.store, tmp_path)
    assert "Figures left out" in page.words
    assert "embeddings: " in page.words
    assert len(page.all("figure")) == 3  # what the record itself holds


def test_only_the_first_groups_are_drawn(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(html, "DRAWN", 1)
    page = write([*made.images, *made.graphs], made.store, tmp_path)
    assert "Figures are drawn for the first 1 groups" in page.words
    assert len(page.all("figure")) == 11


def test_figures_are_saved_as_svg(made: Made, tmp_path: Path) -> None:
    with contextlib.closing(Store(made.store)) as book:
        saved = html.save_figures([*made.graphs, *made.images], book, tmp_path / "a" / "b")
        assert book.records()  # a store that was given open stays open
    names = {path.name for path in saved}
    assert len(names) == len(saved) == 23
    told = {re.sub("-[0-9a-f]{8}-", " ", name) for name in names}
    graphs, images = "toy-graphs-gin-sub-ba", "toy-images-preact-resnet-badnets"
    assert {f"{graphs} {figure}.svg" for figure in ("scatter", "scores-spectral", "embedding-none")} <= told
    assert {f"{images} scatter.svg", f"{images} confusion-fine-tune.svg"} <= told
    for path in saved:
        assert ElementTree.parse(path).getroot().tag == "{http://www.w3.org/2000/svg}svg"
        assert "currentColor" not in path.read_text(encoding="utf-8")


def test_files_of_figures_keep_name_and_model_in_whatever_order_a_plan_ran(made: Made, tmp_path: Path) -> None:
    once, again = (tmp_path / name for name in ("once", "again"))
    html.save_figures(made.graphs, made.store, once)
    html.save_figures([*made.images, *made.graphs[::-1]], made.store, again)
    names = {path.name for path in once.iterdir()}
    assert names < {path.name for path in again.iterdir()}
    for name in names:
        assert "scatter" in name or (once / name).read_text() == (again / name).read_text()
    other = replace(made.graphs[0], plan={**made.graphs[0].plan, "trainer": {"epochs": 7}})
    html.save_figures([other], made.store, tmp_path / "other")
    assert not names & {path.name for path in (tmp_path / "other").iterdir()}, "another cell has other names"


def test_long_labels_that_begin_alike_have_files_of_their_own() -> None:
    assert drawing.stem("nad(p=1.0, teacher=x)") == "nad-p=1.0-teacher=x"
    long = [drawing.stem(f"{'a' * 100}/{end}") for end in "xy"]
    assert long[0] != long[1] and {len(name) for name in long} == {80}


def test_an_entry_of_the_contents_stays_in_one_column(page: Page) -> None:
    assert "nav li { break-inside: avoid }" in page.raw


def test_clear_errors(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidInput, match="no record"):
        ostiary.write_report([], made.store, tmp_path / "page.html")
    with pytest.raises(StoreError, match="no store"):
        ostiary.write_report(made.images, tmp_path / "nowhere", tmp_path / "page.html")
    (tmp_path / "file").write_text("")
    failed = [replace(made.images[0], metrics={}, seconds={})]
    for place in (tmp_path / "file" / "page.html", tmp_path):
        with pytest.raises(StoreError, match="cannot be written"):
            ostiary.write_report(failed, made.store, place)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    monkeypatch.setitem(sys.modules, "altair", None)
    monkeypatch.delitem(sys.modules, "ostiary.report.drawing")
    monkeypatch.delattr("ostiary.report.drawing")
    with pytest.raises(MissingPackage, match=r"altair: pip install 'ostiary\[report\]'"):
        ostiary.write_report(made.images, made.store, tmp_path / "page.html")


def test_report_needs_no_torch(made: Made, tmp_path: Path) -> None:
    code = """if True:
        import sys, ostiary
        from ostiary.experiment.store import Store
        from ostiary.report import drawing
        store = Store(sys.argv[1], create=False)
        drawing.bundle = str  # not what this is about, and slow
        ostiary.write_report(store.records()[:1], store, sys.argv[2])
        assert "networkx" in sys.modules
        print({"torch", "torch_geometric"} & set(sys.modules))"""
    command = [sys.executable, "-c", code, made.store, tmp_path / "page.html"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_histograms_say_what_is_scored(made: Made) -> None:
    def drawn(record: Record) -> figures.Figure:
        with contextlib.closing(Store(made.store)) as book:
            (found,) = figures._scores(record, book)
        return found

    record = made.graphs[0]
    spec = drawn(record).spec
    axis = spec.get("layer", [spec])[0]["encoding"]
    assert (axis["x"]["title"], axis["color"]["scale"]["domain"]) == ("squared projection / class mean", ["clean", "poisoned"])
    assert "poisoned training samples" in drawn(record).caption
    spectral = {**record.metrics["detectors"]["spectral"], "about": "incoming"}
    assert "triggered test inputs" in drawn(changed(record, detectors={"spectral": spectral})).caption
    old = {k: v for k, v in spectral.items() if k not in ("about", "measure")}  # as records were before
    assert "poisoned inputs" in drawn(changed(record, detectors={"spectral": old})).caption


def test_the_score_from_which_on_inputs_are_flagged() -> None:
    scores = np.array([0.1, 0.9, 0.5, 0.2])
    assert figures._border(scores, scores > 0.3) == pytest.approx(0.35)
    for flagged in (scores < 0.3, scores > 1, scores >= 0, np.array([True, False, False, True])):
        assert figures._border(scores, flagged) is None


def test_large_graphs_are_drawn_around_the_trigger(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "NODES", 20)
    chain = [[i, i + 1] for i in range(300)]
    sample = {"nodes": [0] * 302, "old_nodes": [0] * 300 + [1], "touched": [2, 7, 9, 301]}
    sample |= {"edges": [*chain, [7, 301]], "added": [[7, 301]], "removed": [[2, 9]]}
    spec, note = figures._graph(sample, ["C"])
    data = [layer["data"]["values"] for layer in spec["layer"]]
    nodes = next(rows for rows in data if "label" in rows[0])
    assert note == " 20 of 302 nodes."
    assert {2, 7, 9, 301} <= {node["node"] for node in nodes}
    assert {n["node"]: (n["label"], n["trigger"]) for n in nodes}[301] == ("C", "added")
    assert {line["edge"] for line in next(rows for rows in data if "edge" in rows[0])} == {"kept", "added", "removed"}
    assert all(abs(n["x"]) <= 1 and abs(n["y"]) <= 1 for n in nodes)


def test_separate_pieces_and_single_nodes_have_a_place() -> None:
    assert len(figures._layout(4, [(0, 1), (2, 3)], [], [])) == 4
    assert len(figures._layout(1, [], [], [])) == 1


def test_added_edges_do_not_hide_behind_a_chain() -> None:
    chain = [(0, 1), (1, 2), (2, 3)]
    place = np.array([figures._layout(4, [*chain, (0, 3)], [(0, 3)], [0, 3])[i] for i in range(4)])
    assert np.linalg.matrix_rank(place - place.mean(0), tol=0.1) == 2


@pytest.mark.parametrize("channels", [1, 3])
def test_images_keep_their_pixels(channels: int) -> None:
    image = pytest.importorskip("PIL.Image")
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, channels), dtype=np.uint8)
    data = figures._png(pixels).removeprefix("data:image/png;base64,")
    assert (np.asarray(image.open(io.BytesIO(base64.b64decode(data)))).reshape(pixels.shape) == pixels).all()


def test_difference_is_magnified() -> None:
    flat = np.full((4, 4, 1), 100).tolist()
    brighter = np.full((4, 4, 1), 105).tolist()
    spec, _ = figures._image({"before": flat, "after": brighter}, None)
    assert [row["at"] for row in spec["data"]["values"]] == ["original", "triggered", "difference \N{MULTIPLICATION SIGN}51"]


def test_principal_axes() -> None:
    line = np.outer(np.arange(5.0), [3.0, 4.0, 0.0])
    place, kept = figures._plane(line)
    assert kept == pytest.approx(1)
    assert np.abs(place[:, 0]).tolist() == pytest.approx([1, 0.5, 0, 0.5, 1])
    for odd in (np.zeros((1, 1)), np.full((3, 2), np.nan), np.ones((4, 1, 2))):
        assert figures._plane(odd)[0].tolist() == [[0, 0]] * len(odd)


def test_class_names_are_told_apart(made: Made) -> None:
    record = changed(made.graphs[0], data={"classes": ["a", "a", "triggered"]})
    assert figures._names(record, 4) == ["0: a", "1: a", "2: triggered", "output 3"]


def test_of_many_defences_the_best_are_told() -> None:
    def row(defence: str, asr: float, drop: float = 0.0) -> Row:
        values = (("acc", 0.9), ("asr", asr), ("drop", drop), ("natural", 0.0))
        return Row("group", defence, {k: {"value": v, "n": 1} for k, v in values})

    many = [row("none", 0.9), *(row(f"d{i}", 0.8 - i / 10) for i in range(8))]
    many += [row("costly", 0.0, 0.9), Row("group", "failed", {})]
    nothing = Group("group", {}, ())
    told = html._headline(nothing, many)
    assert [line.defence for line, _, _ in told["after"]] == ["d7", "d6", "d5", "d4", "d3", "d2"]
    assert told["more"] == 4
    few = html._headline(nothing, many[:4])
    assert ([line.defence for line, _, _ in few["after"]], few["more"]) == (["d0", "d1", "d2"], 0)
    lost = html._headline(nothing, [many[0], many[-1], many[1]])
    assert [line.defence for line, _, _ in lost["after"]] == ["d0"], "what failed everywhere has no result to tell"


def test_a_defence_is_held_against_the_victims_it_was_judged_on(made: Made) -> None:
    one, label = made.graphs[0], next(iter(made.graphs[0].metrics["purifiers"]))

    def seen(seed: int, before: float, after: float | None) -> Record:
        was = {**one.metrics["victim"], "asr": {"value": before, "n": 50}, "natural": {"value": 0.0, "n": 50}}
        held = {} if after is None else {label: {**one.metrics["purifiers"][label], "asr": {"value": after, "n": 50}}}
        return replace(one, plan={**one.plan, "seed": seed}, metrics={**one.metrics, "victim": was, "purifiers": held})

    group = groups([seen(0, 1.0, None), seen(1, 0.4, 0.4)])[0]
    ((line, words, own),) = html._headline(group, rows(group))["after"]
    assert (line.defence, own["asr"]["value"]) == (label, 0.4)
    assert words.startswith("still there") and words.endswith("(1 of 2 seeds)")


def test_a_verdict_says_which_seeds_its_mean_hides(made: Made) -> None:
    one, label = made.graphs[0], next(iter(made.graphs[0].metrics["purifiers"]))

    def seen(seed: int, left: float, confusion: list[list[int]]) -> Record:
        rates = {"asr": left, "natural": 0.0, "asr_lift": left, "drop": 0.0}
        after = {
            **one.metrics["purifiers"][label],
            **{k: {"value": v, "n": 50} for k, v in rates.items()},
            "confusion": confusion,
        }
        was = {**one.metrics["victim"], "asr": {"value": 0.9, "n": 50}, "natural": {"value": 0.0, "n": 50}}
        return replace(one, plan={**one.plan, "seed": seed}, metrics={"victim": was, "purifiers": {label: after}})

    right, single = [[9, 1], [1, 9]], [[10, 0], [10, 0]]

    def said(*records: Record) -> str:
        group = groups(records)[0]
        return str(html._headline(group, rows(group))["after"][0][1])

    assert said(seen(0, 0.0, right), seen(1, 0.05, right)) == "down to the clean model's rate"
    assert said(seen(0, 0.0, right), seen(1, 0.09, right)).endswith("rate, but the trigger still works with 1 of 2 seeds")
    assert said(seen(0, 0.0, single)).endswith("rate, but the model says one class only")
    assert said(seen(0, 0.9, right)) == "still there"


def test_a_page_bears_a_title_that_all_records_share(made: Made, tmp_path: Path) -> None:
    one, other = replace(made.graphs[0], title="Table 3"), replace(made.images[0], title="Table 4")
    for folder in ("shared", "own"):
        (tmp_path / folder).mkdir()
    shared = write([one, replace(other, title="Table 3")], made.store, tmp_path / "shared")
    assert "<h1>Table 3</h1>" in shared.raw and shared.words.count("Table 3") == 2, "title and heading only"
    own = write([one, other], made.store, tmp_path / "own")
    assert "<h1>Backdoor report</h1>" in own.raw
    sections = [own.raw.index(f'<section id="group-{i}"') for i in (1, 2)]
    assert sections[0] < own.raw.index("Table 3") < sections[1] < own.raw.index("Table 4")


def test_a_page_with_charts_over_cells_and_a_ranking(made: Made, tmp_path: Path) -> None:
    """Three rates make a sweep; two purifiers a ranking, one of them tried in one run less; of seven the best six are told."""
    record, (label, metrics) = made.graphs[0], next(iter(made.graphs[0].metrics["purifiers"].items()))
    victim = {**record.metrics["victim"], "asr": rate(80, 80), "natural": rate(4, 80), "asr_lift": {"value": 0.95, "n": 80}}
    scan = {"score": 4.0, "alarm": 1.0, "classes": [0], "about": "model", "found_target": 1.0}

    def at(share: float, number: int) -> Record:
        purifiers = {f"{label} {i}": {**metrics, "asr_lift": {"value": 0.0}} for i in range(number)}
        own = changed(record, victim=victim, purifiers=purifiers, detectors={"scan": scan})
        stages = {**{k: v for k, v in record.stages.items() if "purifier" not in k}, "judge": str(share)}
        plan = {**record.plan, "attack": {**record.plan["attack"], "rate": share}, "purifiers": []}
        return replace(own, plan=plan, stages={**stages, **{f"purifier {p}": "" for p in purifiers}})

    page = write([at(0.1, 7), at(0.2, 6), at(0.3, 6)], made.store, tmp_path)
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert "How the figures move" in page.words and all(b - a <= 1 for a, b in itertools.pairwise(levels))
    assert "1 more defence did worse" in page.words and "1 more defences" not in page.words
    assert "tried in 1 to 3 runs, not all in the same" in page.words and "Each over those runs" in page.words
    assert "ACC drop of clean models" not in page.words, "no clean model was defended"
    assert "alarm: some class was flagged" in page.words and "AUPRC" not in page.words and "TPR" not in page.words


def test_one_model_is_shown_of_the_least_seed_that_was_defended(made: Made) -> None:
    one, other = made.graphs
    spared = changed(one, detectors={}, purifiers={})  # `least_lift`, where the attack fails
    shown = figures.first(groups([spared, other])[0])
    assert shown is other
    assert figures.first(groups([other, one])[0]) is one
    assert figures.first(groups([spared, changed(other, detectors={}, purifiers={})])[0]) is spared


def test_differences_of_rates_have_ends_whatever_a_record_kept() -> None:
    def record(seed: int) -> Record:
        before = {"acc": rate(90, 100), "asr": rate(80, 80), "natural": rate(4, 80), "control_acc": rate(92, 100)}
        after = {"acc": rate(88, 100), "asr": rate(8, 80), "natural": rate(4, 80), "control_acc": rate(92, 100)}
        bare = {"asr_lift": 0.05, "drop": 0.02, "cad": 0.04, "der": 0.94}
        before["asr_lift"] = {"value": 0.95, "n": 80}
        after |= {k: {"value": v, "n": 100} for k, v in bare.items()}
        better = {**after, "acc": rate(95, 100), "drop": {"value": -0.05, "low": -0.1, "high": 0.0, "n": 100}}
        parts = {kind: {"name": kind} for kind in ("dataset", "victim", "attack")}
        metrics = {"victim": before, "purifiers": {"nad": after, "anp": better}}
        return Record(str(seed), {**parts, "seed": seed}, metrics, {}, [], "done")

    none, nad, anp = rows(groups([record(0)])[0])
    lift = difference(rate(80, 80), rate(4, 80))
    assert [none.figures["asr_lift"][k] for k in ("value", "low", "high")] == [0.95, lift["low"], lift["high"]]
    drop, fell = difference(rate(90, 100), rate(88, 100)), difference(rate(80, 80), rate(8, 80))
    assert (nad.figures["drop"]["low"], nad.figures["drop"]["high"]) == (drop["low"], drop["high"])
    below = math.hypot(fell["value"] - fell["low"], drop["high"] - drop["value"]) / 2
    above = math.hypot(fell["high"] - fell["value"], drop["value"]) / 2  # accuracy gained counts for nothing
    assert (nad.figures["der"]["low"], nad.figures["der"]["high"]) == pytest.approx((0.94 - below, 0.94 + above))
    assert anp.figures["drop"] == {"value": -0.05, "low": -0.1, "high": 0.0, "n": 1}, "pairs that were counted stay"
    for row in rows(groups([record(0), record(1)])[0]):
        assert all(f["high"] - f["low"] > 0.01 for f in row.figures.values() if not math.isnan(f["value"]))


def test_of_more_defences_than_colours_none_look_alike(made: Made) -> None:
    record = made.graphs[0]
    (metrics,) = record.metrics["purifiers"].values()
    drawn = figures._scatter(groups([changed(record, purifiers={f"purifier {i}": metrics for i in range(30)})])[0])
    layer = next(part["encoding"] for part in drawn.spec["layer"] if "shape" in part.get("encoding", {}))
    looks = list(zip(layer["color"]["scale"]["range"], layer["shape"]["scale"]["range"], strict=True))
    assert len(set(looks)) == 31


def test_of_many_purified_models_those_with_the_least_success_are_drawn(made: Made) -> None:
    record = made.graphs[0]
    (label, metrics) = next(iter(record.metrics["purifiers"].items()))
    asr = [0.5, 0.1, 0.4, 0.0, 0.3, 0.2, None]
    many = {f"{label} {i}": {**metrics, "asr": {"value": v, "n": 9}} for i, v in enumerate(asr)}
    drawn = figures._pictured(changed(record, purifiers=many))
    assert [name for name, _ in drawn] == ["none", *(f"{label} {i}" for i in (1, 3, 4, 5))]
    assert figures._pictured(changed(record, victim={}, purifiers={})) == []


def test_groups_are_told_apart_by_options_of_their_parts(made: Made) -> None:
    record = made.graphs[0]

    def named(key: str, *values: Any) -> list[str]:
        plans = [{**record.plan, key: {**record.plan[key], "labels": v} if key == "attack" else v} for v in values]
        return [group.name.rpartition(" / ")[2] for group in groups([replace(record, plan=p) for p in plans])]

    rules = ({"name": "all-to-one"}, {"name": "all-to-one", "from_target": True})
    assert [n.partition("labels=")[2] for n in named("attack", *rules)] == ["all-to-one)", "all-to-one(from_target=True))"]


def listing(record: Record, *labels: str, **plan: Any) -> Record:
    """A record whose plan lists purifiers of these labels."""
    parts = [{"name": label.partition("(")[0], "options": label, "more": list(range(99))} for label in labels]
    stages = {f"purifier {label}": "" for label in labels}
    return replace(record, plan={**record.plan, "purifiers": parts, **plan}, stages=stages)


def test_cells_go_by_the_labels_of_their_rows_that_not_all_have(made: Made) -> None:
    lists = (("tsbd",), ("tsbd", "nad"), ("nad(epochs=2)", "tsbd", "nad"), ())
    found = [group.name.rpartition(" / ")[2] for group in groups([listing(made.graphs[0], *labels) for labels in lists])]
    assert found == ["purifiers tsbd", "purifiers nad, tsbd", "purifiers nad(epochs=2), nad, tsbd", "purifiers none"]
    found = [group.name.rpartition(" / ")[2] for group in groups([listing(made.graphs[0], *own) for own in lists[:3]])]
    assert found == ["purifiers none of its own", "purifiers nad", "purifiers nad(epochs=2), nad"]


def test_names_of_cells_stay_short_and_apart(made: Made) -> None:
    many = [[f"gcleaner(preset=paper, nodes={i}, retain={r})" for i in range(20)] for r in (0.0, 0.5)]
    long = [[f"auxiliary(purifier=gcleaner(preset=paper, {'x' * i}))"] for i in (80, 90)]
    (one, two), _ = many, long
    records = [listing(made.graphs[0], *own) for own in (one, two, [*one, *two], [*one, *reversed(two)], *long)]
    found = [group.name for group in groups(records)]
    assert len(set(found)) == 6 and max(map(len, found)) < 200
    assert found[0].endswith("purifiers gcleaner(preset=paper, nodes=0, retain=0.0) and 19 more")
    assert found[3].endswith("purifiers gcleaner(preset=paper, nodes=0, retain=0.0) and 39 more (no. 2)")
    assert found[4].endswith("purifiers auxiliary(...) (no. 1)")


def test_plans_that_differ_in_the_seed_alone_have_one_name() -> None:
    plan = {"dataset": {"name": "d"}, "victim": {"name": "v"}, "attack": None}
    assert tables.names([plan, plan]) == ["d / v", "d / v"]


def test_a_name_tells_no_option_that_goes_with_another() -> None:
    sets = ("AIDS", 0.1, False), ("AIDS", 0.2, False), ("MUTAG", 0.3, True)
    parts = [{"name": "tu", "clean_rate": c, "set": s, "degrees": d} for s, c, d in sets]
    found = tables.names([{"dataset": part, "victim": {"name": "v"}, "attack": None} for part in parts])
    assert found == ["tu(set=AIDS, clean_rate=0.1) / v", "tu(set=AIDS, clean_rate=0.2) / v", "tu(set=MUTAG) / v"]


def test_long_names_in_the_scatter_are_told_whole(made: Made) -> None:
    record = made.graphs[0]
    (metrics,) = record.metrics["purifiers"].values()
    names = [f"method-{i}(option=value, another-option=another-value)" for i in range(4)]
    drawn = figures._scatter(groups([changed(record, purifiers=dict.fromkeys(names, metrics))])[0]).svg()
    assert "\N{HORIZONTAL ELLIPSIS}" not in drawn and all(name in drawn.replace("</tspan>", "") for name in names)
