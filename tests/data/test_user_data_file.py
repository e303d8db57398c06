"""The data set `file`: a user's own Python file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import ostiary
from ostiary.component import build
from ostiary.errors import InvalidInput

GRAPHS = """
import torch, ostiary
from torch_geometric.data import Data

def read(n=60):
    ring = torch.arange(6)
    both = torch.stack([torch.cat([ring, ring.roll(1)]), torch.cat([ring.roll(1), ring])])
    made = [Data(x=torch.eye(3)[(ring + i) % (2 + i % 2)], edge_index=both, y=i % 2) for i in range(n)]
    return ostiary.graphs(made)
"""
NODES = """
import torch, ostiary
from torch_geometric.data import Data

def read():
    ring = torch.arange(40)
    both = torch.stack([torch.cat([ring, ring.roll(1)]), torch.cat([ring.roll(1), ring])])
    return ostiary.nodes(Data(x=torch.rand(40, 3), edge_index=both, y=ring % 2)), ring >= 30
"""


def write(folder: Path, code: str) -> str:
    (folder / "data.py").write_text(code, encoding="utf-8")
    return str(folder / "data.py")


def test_ones_own_graphs_are_judged_from_a_plan(tmp_path: Path) -> None:
    data = {"name": "file", "path": write(tmp_path, GRAPHS), "options": {"n": 80}, "test_rate": 0.5, "clean_rate": 0.1}
    plan: dict[str, Any] = {
        "dataset": data,
        "victim": "gin",
        "attack": None,
        "trainer": {"epochs": 3},
        "purifiers": ["fine-tune"],
    }
    (record,) = ostiary.run(plan, store=tmp_path / "store")
    assert record.status == "done" and record.metrics["purifiers"]["fine-tune"]["acc"]["n"] == 32
    assert record.metrics["victim"]["acc"]["low"] <= record.metrics["victim"]["acc"]["value"]


def test_a_test_part_of_ones_own_and_nodes_are_split_inductively(tmp_path: Path) -> None:
    splits = build("dataset", {"name": "file", "path": write(tmp_path, NODES), "clean_rate": 0.05}).load(0)
    assert (splits.test.ids >= 30).all() and len(splits.train) == 30
    assert len(splits.train.inputs.x) == 30, "no test node beside those of the training part"


def test_results_follow_the_files_that_are_read(tmp_path: Path) -> None:
    (tmp_path / "raw.txt").write_text("1", encoding="utf-8")
    source = build("dataset", {"name": "file", "path": write(tmp_path, GRAPHS), "reads": [str(tmp_path / "raw.txt")]})
    before = source.content()
    (tmp_path / "raw.txt").write_text("2", encoding="utf-8")
    after = source.content()
    write(tmp_path, GRAPHS + "# other")
    assert len({before, after, source.content()}) == 3


@pytest.mark.parametrize(
    ("code", "options", "words"),
    [
        ("def read(): return 3", {}, r"read of .* returned int, expected what ostiary\.graphs, .* gives"),
        (NODES.replace("ring >= 30", "[30]"), {}, r"the test part that read of .* names is no bool mask \[40\]"),
        ("def read(): raise OSError('gone')", {}, "made no data but ended in OSError: gone; correct the file"),
        (GRAPHS, {"maker": "load"}, "has no function or class 'load'; name it as maker="),
        (GRAPHS, {"options": {"m": 3}}, "takes no 'm'; take it out of options"),
    ],
)
def test_files_that_give_no_data_are_refused_in_one_sentence(tmp_path: Path, code: str, options: Any, words: str) -> None:
    with pytest.raises(InvalidInput, match=words) as caught:
        build("dataset", {"name": "file", "path": write(tmp_path, code), **options}).load(0)
    assert "\n" not in str(caught.value)
