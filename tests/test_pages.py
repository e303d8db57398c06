"""Pages of figures: what is committed is what their scripts write from the records that are kept."""

from __future__ import annotations

import importlib
import shutil
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from ostiary import run
from ostiary.report.ranking import attacked

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"
GRID = ("graph-grid", "graph-grid-networks", "clean-models", "scan-grid")
CAUSES = ("causes/graph-grid", "graph-grid", "graph-grid-networks")
IMAGES = ("images-digits", "images-cifar", "images-resnet18", "image-defences-on-graphs", "images-clean")
PAPERS = ("papers", "papers-holding-rate")


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    yield importlib.import_module
    for name in [n for n in sys.modules if n.startswith(("make_", "measure_"))]:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("name", "sources"),
    [("make_grid_page", GRID), ("make_causes_page", CAUSES), ("make_image_page", IMAGES), ("make_papers_page", PAPERS)],
)
def test_pages_are_written_from_the_records_that_are_kept(
    name: str, sources: tuple[str, ...], script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = script(name)
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    committed = module.PAGE.read_text(encoding="utf-8")
    for place in ("PAGE", "FIGURE", "FIGURES"):
        if hasattr(module, place):
            monkeypatch.setattr(module, place, tmp_path / getattr(module, place).relative_to(ROOT))
    module.main([str(RESULTS / f"{source}.jsonl.xz") for source in sources])
    assert module.PAGE.read_text(encoding="utf-8") == committed


def test_causes_are_measured_on_the_victims_of_a_store_and_kept(
    script: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = {"dataset": "toy-graphs", "victim": {"name": "gin", "hidden": 16, "layers": 2}, "trainer": {"epochs": 30}}
    attack = {"name": "sub-ba", "rate": 0.1, "size": 4, "density": 1.0}
    tuned = [{"name": "fine-tune", "epochs": 2}, {"name": "prune"}, {"name": "sau", "steps": 1}]
    (record,) = attacked(run({**plan, "attack": attack, "purifiers": tuned}, store=tmp_path / "store"))
    earlier = script("make_grid_page").earlier
    assert not earlier([record])
    old = msgspec.structs.replace(record, stages={**record.stages, "purifier sau(steps=1)": "of its first form"})
    assert earlier([old]) == " Measured by an earlier form of the method: sau(steps=1) in 1 of 1 runs."

    measure, page, threads = script("measure_causes"), script("make_causes_page"), torch.get_num_threads()
    told = measure.causes(str(tmp_path / "store"), record)
    torch.set_num_threads(threads)
    figures = told["figures"]
    assert {f for names in page.COLUMNS.values() for f in names} == set(figures)
    assert figures["poison"] == pytest.approx(0.1, abs=0.01)
    assert figures["edges only"] > 0.9  # a clique of four: its nodes' features are others' of the graph
    assert all(0 <= value <= 1 for name, value in figures.items() if name not in page.PLAIN)
    assert {len(values) for values in told["pruning"].values()} == {len(measure.SHARES)}

    kept, other = tmp_path / "causes.jsonl.xz", {**told, "run": "another"}
    measure.keep(kept, {told["run"]: told, "another": other})
    assert list(measure.lines(kept)) == sorted((told, other), key=lambda line: line["run"])
    for name in ("PAGE", "FIGURES"):
        monkeypatch.setattr(page, name, tmp_path / name)
    (tmp_path / "FIGURES").mkdir()
    page.main([str(kept), str(tmp_path / "store")])
    written = page.PAGE.read_text(encoding="utf-8")
    assert "1 of the 1 runs" in written and "| prune | trigger's edges cut | 1 |" in written
    assert not capsys.readouterr().err

    measure.keep(kept, {told["run"]: {**told, "victim": {**told["victim"], "acc": 0.5}}})
    with pytest.raises(SystemExit, match="no run of these records"):
        page.main([str(kept), str(tmp_path / "store")])
    assert "the victim that was measured is another one, left out" in capsys.readouterr().err
