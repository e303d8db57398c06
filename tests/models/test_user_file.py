"""The victim `file`: a model from a user's own Python file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import ostiary
from ostiary.component import build
from ostiary.errors import InvalidInput, UnknownName
from ostiary.models.weights import save_weights
from ostiary.testing import toys
from ostiary.training.trainer import Trainer

MODEL = Path(__file__).parents[1] / "user_model.py"
GRAPHS = toys.splits("graph").train


def write(folder: Path, code: str) -> str:
    file = folder / "model.py"
    file.write_text(f"import torch\nfrom torch import nn\n{code}", encoding="utf-8")
    return str(file)


def test_module_and_forward_come_from_the_file() -> None:
    victim = build("victim", {"name": "file", "path": str(MODEL), "options": {"hidden": 12}}).make(GRAPHS, 0)
    assert type(victim.module).__name__ == "Net"
    assert victim.module.out.in_features == 12
    logits, features = victim.predict(GRAPHS.inputs, features=True)
    assert (logits.shape[1], features.shape[1]) == (GRAPHS.n_classes, 12)


def test_classes_serve_as_makers_and_are_told_the_width(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "class Tiny(nn.Module):\n"
        "    def __init__(self, channels, height, classes):\n"
        "        super().__init__()\n"
        "        self.lin = nn.Linear(channels * height * height, classes)\n"
        "    def forward(self, pictures):\n"
        "        return self.lin(pictures.flatten(1))\n",
    )
    data = toys.splits("image").train
    victim = build("victim", {"name": "file", "path": path, "maker": "Tiny", "head": "lin"}).make(data, 0)
    assert victim.head == "lin"
    Trainer(epochs=3, lr=0.01).fit(victim, data, 0)
    assert float((victim.predict(data.inputs)[0].argmax(1) == data.y).double().mean()) > 0.5


def test_weights_are_loaded_before_anything_else(tmp_path: Path) -> None:
    arch = build("victim", {"name": "file", "path": str(MODEL)})
    first = arch.make(GRAPHS, 5)
    save_weights(first.module, tmp_path / "w.safetensors")
    again = arch.replace(weights=str(tmp_path / "w.safetensors")).make(GRAPHS, 6)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(arch.make(GRAPHS, 6).module.out.weight, again.module.out.weight)


def test_a_given_model_goes_through_a_plan_as_it_is(tmp_path: Path) -> None:
    splits = build("dataset", "toy-graphs").load(0)
    own = build("victim", {"name": "file", "path": str(MODEL)}).make(splits.train, 5)
    Trainer(epochs=20).fit(own, splits.train, 0)
    save_weights(own.module, tmp_path / "w.safetensors")
    given = {"name": "file", "path": str(MODEL), "weights": str(tmp_path / "w.safetensors")}
    plan = {"dataset": "toy-graphs", "victim": given, "trainer": {"epochs": 0}, "attack": {"name": "sub-ba", "rate": 0}}
    (record,) = ostiary.run({**plan, "purifiers": ["fine-tune"]}, store=tmp_path / "store")
    right = (own.predict(splits.test.inputs)[0].argmax(1) == splits.test.y).double().mean()
    assert record.metrics["victim"]["acc"]["value"] == pytest.approx(float(right)) != 0
    assert any(d.startswith("0 epochs: the clean control is the same model untrained") for d in record.doubts)
    assert not any("a clean model already sends" in d for d in record.doubts)
    assert "acc" in record.metrics["purifiers"]["fine-tune"]
    page = ostiary.write_report([record], tmp_path / "store", tmp_path / "page.html").read_text(encoding="utf-8")
    assert "It was taken as it is" in page and "a model trained on clean data sends" not in page


def test_content_marks_the_files(tmp_path: Path) -> None:
    """So that finished stages are not reused after the user edits the file."""
    path = write(tmp_path, "def make(width, classes): return nn.Linear(width, classes)\n")
    arch = build("victim", {"name": "file", "path": path})
    before = arch.content()
    assert before == arch.content() != ""
    write(tmp_path, "def make(width, classes): return nn.Linear(width, classes, bias=False)\n")
    assert arch.content() != before


@pytest.mark.parametrize(
    ("code", "options", "words"),
    [
        ("def other(): pass\n", {}, "has no function or class 'make'; name it as maker="),
        ("def make(depth): return nn.Linear(1, 1)\n", {}, "make of .* cannot be called: .*depth.*; give the rest in options"),
        ("def make(): return nn.Linear(1, 1)\n", {"deep": 3}, "make of .* cannot be called: .*deep"),
        ("def make(): return 3\n", {}, "returned int, expected an nn.Module"),
        ("raise RuntimeError('no licence')\n", {}, "cannot be imported: RuntimeError: no licence"),
        ("def make(:\n", {}, "cannot be imported: SyntaxError"),
    ],
)
def test_what_is_wrong_with_the_file_is_said_in_one_sentence(
    code: str, options: dict[str, int], words: str, tmp_path: Path
) -> None:
    arch = build("victim", {"name": "file", "path": write(tmp_path, code), "options": options})
    with pytest.raises(InvalidInput, match=words) as caught:
        arch.make(GRAPHS, 0)
    assert "\n" not in str(caught.value)


def test_missing_file_and_missing_path() -> None:
    with pytest.raises(InvalidInput, match=r"there is no file nowhere\.py to take a model from"):
        build("victim", {"name": "file", "path": "nowhere.py"}).make(GRAPHS, 0)
    with pytest.raises(UnknownName, match="has no option 'pth'; did you mean 'path'"):
        build("victim", {"name": "file", "pth": "nowhere.py"})
