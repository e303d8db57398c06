"""Pages of figures: what is committed is what their scripts write from the records that are kept."""

from __future__ import annotations

import importlib
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from ostiary import run
from ostiary.report.ranking import attacked

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"
GRID = ("graph-grid", "graph-grid-networks", "clean-models", "scan-grid")
IMAGES = ("images-digits", "images-cifar", "images-resnet18", "image-defences-on-graphs", "images-clean")
PAPERS = ("papers", "papers-holding-rate")


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    yield importlib.import_module
    for name in [n for n in sys.modules if n.startswith("make_")]:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("name", "sources"), [("make_grid_page", GRID), ("make_image_page", IMAGES), ("make_papers_page", PAPERS)]
)
def test_pages_are_written_from_the_records_that_are_kept(
    name: str, sources: tuple[str, ...], script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = script(name)
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    committed = module.PAGE.read_text(encoding="utf-8")
    for place in ("PAGE", "FIGURE"):
        if hasattr(module, place):
            monkeypatch.setattr(module, place, tmp_path / getattr(module, place).relative_to(ROOT))
    module.main([str(RESULTS / f"{source}.jsonl.xz") for source in sources])
    assert module.PAGE.read_text(encoding="utf-8") == committed


def test_causes_are_measured_on_the_victims_of_a_store(script: Any, tmp_path: Path) -> None:
    plan = {"dataset": "toy-graphs", "victim": {"name": "gin", "hidden": 16, "layers": 2}, "detectors": ["spectral", "xgbd"]}
    attack = {"name": "sub-ba", "rate": 0.1, "size": 4, "density": 1.0}
    (record,) = attacked(run({**plan, "attack": attack, "trainer": {"epochs": 30}}, store=tmp_path))
    module, threads = script("make_causes_page"), torch.get_num_threads()
    said, curve = module.causes(str(tmp_path), record)
    torch.set_num_threads(threads)
    assert set(said) == set(module.COLUMNS) and len(curve) > len(module.SHARES) - 1
    assert any("toy" in line for line in module.page({module.name(record): said}))
