"""What README and docs promise is true of the code."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch_geometric.data import Data
from torch_geometric.nn.models import GCN

import ostiary
from ostiary.component import build
from ostiary.testing import toys

ROOT = Path(__file__).parent.parent


def test_generated_pages_are_up_to_date() -> None:
    done = subprocess.run([sys.executable, ROOT / "scripts" / "make_docs.py", "--check"], check=False)
    assert done.returncode == 0, "README.md or docs/methods.md is out of date: run `make docs`"


def run(code: str, scope: dict[str, Any]) -> dict[str, Any]:
    exec(compile(code, "page", "exec", dont_inherit=True), scope)
    return scope


def blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.S)


class OwnNet(torch.nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        from torch_geometric.nn import GCNConv

        self.conv, self.head = GCNConv(width, 16), torch.nn.Linear(16, 2)

    def forward(self, *, nodes: torch.Tensor, links: torch.Tensor, member: torch.Tensor) -> torch.Tensor:
        h = self.conv(nodes, links).relu()
        return self.head(torch.zeros(int(member.max()) + 1, 16).index_add(0, member, h))


def test_readme_own_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    splits = build("dataset", "toy-graphs").load(0)
    net = OwnNet(splits.train.inputs.x.shape[1])
    monkeypatch.chdir(tmp_path)
    ostiary.save_weights(net, "suspect.safetensors")
    graphs = splits.clean.inputs.to_pyg()
    for graph, label in zip(graphs, splits.clean.y, strict=True):
        graph.y = label
    scope: dict[str, Any] = {"clean_graphs": graphs, "net": net}
    run(next(b for b in blocks("README.md") if "clean_graphs" in b), scope)
    assert (tmp_path / "cleaned.safetensors").exists()
    assert set(scope["cleaned"].notes["accuracy on its clean samples"]) == {"before", "after"}
    assert scope["findings"].scores.shape == (2,)


def test_readme_own_attack_is_complete(tmp_path: Path) -> None:
    from ostiary.testing.contracts import check_attack

    scope = run(next(b for b in blocks("README.md") if "class Frame" in b), {"__name__": __name__})
    check_attack(scope["Frame"](rate=0.1))
    assert build("attack", {"name": "frame", "width": 2}).width == 2


def test_docs_own_purifier_is_complete() -> None:
    from ostiary.testing.contracts import check_purifier

    scope = run(next(b for b in blocks("docs/add-a-method.md") if "class WeightNoise" in b), {"__name__": __name__})
    check_purifier(scope["WeightNoise"]())


def test_quickstart_data_from_outside(capsys: pytest.CaptureFixture[str]) -> None:
    data = build("dataset", "toy-graphs").load(0).train
    graphs = data.inputs.to_pyg()
    for graph, label in zip(graphs, data.y, strict=True):
        graph.y = label
    code = next(b for b in blocks("docs/quickstart.md") if "list_of_pyg_data" in b)
    code = code.replace("context.fit(", "context.__class__(architecture=context.architecture, trainer=quick).fit(")
    run(code, {"list_of_pyg_data": graphs, "quick": ostiary.Trainer(epochs=2)})
    assert "tensor" in capsys.readouterr().out


def test_quickstart_node_classifier_of_ones_own(capsys: pytest.CaptureFixture[str]) -> None:
    splits = toys.splits("node")
    inputs, y = splits.test.inputs, torch.full((len(splits.test.inputs.x),), -1)
    data = Data(x=inputs.x, edge_index=inputs.edge_index, y=y)
    data.y[splits.test.inputs.roots] = splits.test.y
    known = (data.y >= 0).nonzero().flatten()
    data.val_mask, data.train_mask = (torch.zeros(len(y), dtype=torch.bool).index_fill(0, at, True) for at in known.chunk(2))
    net = GCN(data.x.shape[1], 16, 2, splits.test.n_classes)
    scope = run(next(b for b in blocks("docs/quickstart.md") if "val_mask" in b), {"data": data, "net": net})
    assert len(scope["clean"]) + len(scope["train"]) == len(known) and "tensor" in capsys.readouterr().out
    logits = scope["cleaned"].predict(scope["clean"].inputs)
    assert len(logits) == len(scope["clean"]) and bool(logits.isfinite().all())


def test_quickstart_taking_data_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    plan = {"dataset": "toy-graphs", "victim": {"name": "gin", "hidden": 8, "layers": 2}, "trainer": {"epochs": 1}}
    (record,) = ostiary.run({**plan, "attack": "sub-ba"}, store="s")
    ostiary.write_data(record, "s", "train.safetensors")
    made = run(next(b for b in blocks("docs/quickstart.md") if "held = load_file" in b), {})["graphs"]
    assert len(made) == record.metrics["data"]["parts"]["train"]["n"]
    assert sum(int(g.poisoned) for g in made) == record.metrics["attack"]["poisoned"]
    again, held = ostiary.graphs(made), load_file("train.safetensors")
    assert torch.equal(again.inputs.edge_index, held["edge_index"]) and torch.equal(again.inputs.x, held["x"])


def test_quickstart_poisoned_data_from_python() -> None:
    scope = run(next(b for b in blocks("docs/quickstart.md") if "attack.poison(splits" in b), {})
    poisoned, train = scope["poisoned"], scope["train"]
    assert len(poisoned.index) == round(0.05 * len(train)) and bool((train.y[poisoned.index] == 3).all())
    assert bool((scope["true"] != 3).all()) and bool((scope["triggered"].y == 3).all())


@pytest.mark.parametrize("plan", sorted((ROOT / "plans").rglob("*.yaml")), ids=lambda p: p.stem)
def test_plans_can_be_read(plan: Path, request: pytest.FixtureRequest) -> None:
    if "npz" in plan.read_text():  # a plan's key holds a mark of the files it reads
        request.getfixturevalue("needs_data")
    if "hello_kitty.png" in plan.read_text():
        request.getfixturevalue("stand_in")
    from ostiary.experiment.plan import read_plan

    settings, _ = read_plan(plan)
    assert settings.cells()


@pytest.mark.parametrize("file", sorted((ROOT / "results").glob("*.jsonl.xz")), ids=lambda p: p.name)
def test_kept_results_can_be_read_and_belong_to_a_plan(file: Path) -> None:
    from ostiary.experiment.exchange import read_records
    from ostiary.experiment.plan_file import read_file

    titles = {read_file(plan).get("title") for plan in (ROOT / "plans").rglob("*.yaml")}
    records = read_records(file)
    assert records and {r.title for r in records} <= titles
    assert len({r.key for r in records}) == len(records)
