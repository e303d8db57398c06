"""The victim `file`: a model from a user's own Python file."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest
import torch

import ostiary
from ostiary import cli
from ostiary.component import build
from ostiary.context import Context
from ostiary.data.source import file_mark
from ostiary.errors import BadSpec, InvalidInput, UnknownName
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
    logits, features = victim.embed(GRAPHS.inputs)
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
    assert float((victim.predict(data.inputs).argmax(1) == data.y).double().mean()) > 0.5


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
    right = (own.predict(splits.test.inputs).argmax(1) == splits.test.y).double().mean()
    assert record.metrics["victim"]["acc"]["value"] == pytest.approx(float(right)) != 0
    assert any(d.startswith("0 epochs: the victim came as it is") for d in record.doubts)
    assert "acc" in record.metrics["purifiers"]["fine-tune"]


def test_a_given_model_is_held_against_a_clean_one_made_here(tmp_path: Path) -> None:
    attack, toy = {"name": "sub-ba", "rate": 0.3, "size": 6, "density": 1.0}, {"dataset": "toy-graphs", "victim": "gin"}
    (made,) = ostiary.run({**toy, "attack": attack, "trainer": {"epochs": 30}}, store=tmp_path / "made")
    assert made.metrics["victim"]["asr_lift"]["value"] > 0.3
    assert cli.main(["weights", made.key, str(tmp_path / "w.safetensors"), "--store", str(tmp_path / "made")]) == 0
    net = "def make(): return build('victim', 'gin').make(build('dataset', 'toy-graphs').load(0).train, 0).module\n"
    given = {"name": "file", "path": write(tmp_path, f"from ostiary.component import build\n{net}")}
    given["weights"] = str(tmp_path / "w.safetensors")
    plan = {**toy, "victim": given, "attack": attack, "trainer": {"epochs": 0}, "purifiers": ["fine-tune"]}
    (record,) = ostiary.run({**plan, "least_lift": 0.3}, store=tmp_path / "given")
    assert record.metrics["victim"]["asr"] == made.metrics["victim"]["asr"]
    assert record.metrics["victim"]["asr_lift"]["value"] > 0.3, "it is not held against itself"
    assert any(d.startswith("0 epochs: the victim came as it is") for d in record.doubts)
    assert "acc" in record.metrics["purifiers"]["fine-tune"]
    page = ostiary.write_report([record], tmp_path / "given", tmp_path / "page.html").read_text(encoding="utf-8")
    assert "a model trained on clean data sends" in page


def test_content_marks_the_files(tmp_path: Path) -> None:
    """So that finished stages are not reused after the user edits the file."""
    path = write(tmp_path, "def make(width, classes): return nn.Linear(width, classes)\n")
    arch = build("victim", {"name": "file", "path": path})
    before = arch.content()
    assert before == arch.content() != ""
    write(tmp_path, "def make(width, classes): return nn.Linear(width, classes, bias=False)\n")
    assert arch.content() != before


NET = "class Net(nn.Linear):\n    def __init__(self, width, classes): super().__init__(width, classes, bias={})\n"


def helper(folder: Path, name: str, code: str) -> None:
    (folder / f"{name}.py").write_text(f"from torch import nn\n{code}", encoding="utf-8")


def test_content_marks_what_the_file_imports_from_its_own_folder(tmp_path: Path) -> None:
    path = write(tmp_path, "def make(width, classes): return nn.Linear(width, classes)\n")
    arch = build("victim", {"name": "file", "path": path})
    alone = arch.content()
    for name in ("nets", "parts", "other"):
        helper(tmp_path, name, "")
    assert arch.content() == alone == file_mark(Path(path)), "it imports none of them: kept results keep their keys"
    write(tmp_path, "import nets.deep as deep\nfrom . import other\n")
    helper(tmp_path, "nets", "import model\ndef make():\n    from parts import Net\n")
    marks = [arch.content()]
    for name in ("nets", "parts"):
        with (tmp_path / f"{name}.py").open("a") as file:
            file.write("x = 1\n")
        marks.append(arch.content())
    assert len({alone, *marks}) == 4
    helper(tmp_path, "other", "x = 1\n")
    assert arch.content() == marks[-1]


def test_a_folder_beside_the_model_is_its_own_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    path, folder = write(tmp_path, "from nets.wide import Net as make\n"), tmp_path / "nets"
    folder.mkdir()
    (folder / "__init__.py").write_text("from .parts import BIAS\n", encoding="utf-8")
    helper(folder, "wide", "from nets import BIAS\n" + NET.format("BIAS"))
    marks, seen = [], []
    for bias in (True, False):
        helper(folder, "parts", f"BIAS = {bias}\n")
        arch = build("victim", {"name": "file", "path": path})
        marks.append(arch.content())
        seen.append(arch.module({"width": 3, "classes": 2}).bias is not None)
    assert marks[0] != marks[1] and seen == [True, False] and "nets" not in sys.modules


def test_files_beside_the_models_are_its_own_and_read_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # a file changed twice in a second looks the same to its cache
    before, path = list(sys.path), write(tmp_path, "from helper import Net as make\n")
    (tmp_path / "second").mkdir()
    second = write(tmp_path / "second", "from helper import Net as make\n")
    for folder, bias in ((tmp_path, True), (tmp_path / "second", False)):
        helper(folder, "helper", NET.format(bias))
    monkeypatch.setitem(sys.modules, "helper", other := types.ModuleType("helper"))

    def biased(path: str) -> bool:
        return build("victim", {"name": "file", "path": path}).module({"width": 3, "classes": 2}).bias is not None

    assert (biased(path), biased(second)) == (True, False)
    helper(tmp_path, "helper", NET.format(False))
    assert not biased(path)
    assert sys.modules["helper"] is other and sys.path == before
    helper(tmp_path, "helper", "raise ValueError('no')\n")
    with pytest.raises(InvalidInput, match="cannot be imported: ValueError: no"):
        biased(path)
    assert sys.modules["helper"] is other and sys.path == before


@pytest.mark.parametrize(
    ("code", "options", "words"),
    [
        ("def other(): pass\n", {}, "has no function or class 'make'; name it as maker="),
        ("def make(depth): return nn.Linear(1, 1)\n", {}, "make of .* cannot be called: .*depth.*; give the rest in options"),
        ("def make(depth=1): return nn.Linear(1, 1)\n", {"deep": 3}, "make of .* takes no 'deep'; take it out of options"),
        ("def make(): return nn.Linear(1, 1)\n", {"deep": 3}, "make of .* takes no .deep.; take it out of options"),
        ("def make(): return 3\n", {}, "returned int, expected an nn.Module"),
        ("def make(): return {}['a\\nb']\n", {}, r"make of .*model\.py made no model but ended in KeyError: .*; correct"),
        ("def make(): return nn.Linear(1)\n", {}, r"make of .*model\.py made no model but ended in TypeError: .*out_features"),
        ("def make(): raise ValueError('one\\ntwo')\n", {}, "ended in ValueError: one two; correct the file"),
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


def test_a_file_that_is_no_python(tmp_path: Path) -> None:
    (tmp_path / "m6.txt").write_text("import helper")
    with pytest.raises(InvalidInput, match=r"m6\.txt is no Python file; give one that ends in \.py"):
        build("victim", {"name": "file", "path": str(tmp_path / "m6.txt")}).make(GRAPHS, 0)


def test_missing_file_and_missing_path() -> None:
    with pytest.raises(BadSpec, match="victim 'file' needs the option 'path'"):
        build("victim", "file")
    with pytest.raises(InvalidInput, match=r"there is no file nowhere\.py; correct the path"):
        build("victim", {"name": "file", "path": "nowhere.py"}).make(GRAPHS, 0)
    with pytest.raises(UnknownName, match="has no option 'pth'; did you mean 'path'"):
        build("victim", {"name": "file", "pth": "nowhere.py"})


def test_models_that_others_train_do_not_start_from_the_given_weights(tmp_path: Path) -> None:
    splits, plain = build("dataset", "toy-graphs").load(0), build("victim", {"name": "file", "path": str(MODEL)})
    save_weights(plain.make(splits.train, 5).module, tmp_path / "w.safetensors")  # knows nothing
    given = plain.replace(weights=str(tmp_path / "w.safetensors"))
    ctx = Context(seed=3, architecture=given)
    weights = [v.module.out.weight for v in (ctx.fresh(splits.train), ctx.fresh(splits.train, given=True))]
    assert torch.equal(weights[0], plain.make(splits.train, 3).module.out.weight)
    assert torch.equal(weights[1], given.make(splits.train, 0).module.out.weight)
    plan = {"dataset": "toy-graphs", "victim": given, "trainer": {"epochs": 0}, "attack": {"name": "sub-ba", "rate": 0}}
    record = ostiary.run({**plan, "purifiers": ["retrain-without"]}, store=tmp_path / "store")[0]
    assert record.metrics["victim"]["acc"]["value"] < 0.7 < record.metrics["purifiers"]["retrain-without"]["acc"]["value"]
