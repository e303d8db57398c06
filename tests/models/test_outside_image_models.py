"""Image models of torchvision and timm, and modules shaped like them: all that the library does with a Victim works."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import ostiary
from ostiary.component import build
from ostiary.context import Context
from ostiary.data.dataset import Splits
from ostiary.errors import MissingPackage
from ostiary.evaluate import Outputs, evaluate
from ostiary.evidence import Evidence
from ostiary.models.victim import Victim
from ostiary.seeds import scoped
from ostiary.training.trainer import Trainer

SPLITS: Splits = build("dataset", {"name": "toy-images", "n": 160, "size": 32, "test_rate": 0.4}).load(0)


class Residual(nn.Module):
    """torchvision's BasicBlock: the same in-place ReLU twice, `out += identity`."""

    def __init__(self, d_in: int, d_out: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(d_in, d_out, 3, stride, 1, bias=False), nn.BatchNorm2d(d_out)
        self.relu = nn.ReLU(inplace=True)
        self.conv2, self.bn2 = nn.Conv2d(d_out, d_out, 3, 1, 1, bias=False), nn.BatchNorm2d(d_out)
        self.downsample = nn.Sequential(nn.Conv2d(d_in, d_out, 1, stride, bias=False), nn.BatchNorm2d(d_out))

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out += self.downsample(x)
        return self.relu(out)


class LikeTorchvision(nn.Module):
    """A ResNet in torchvision's words."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv1, self.bn1, self.relu = nn.Conv2d(3, 8, 7, 2, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1, self.layer2 = nn.Sequential(Residual(8, 8, 1)), nn.Sequential(Residual(8, 16, 2))
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(16, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        return self.fc(torch.flatten(self.avgpool(self.layer2(self.layer1(x))), 1))


class LayerNorm2d(nn.LayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x.permute(0, 2, 3, 1), self.normalized_shape, self.weight, self.bias).permute(0, 3, 1, 2)


class Scaled(nn.Module):
    """timm's ConvNeXt block: channels last inside, a learnt scale."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.conv_dw, self.norm = nn.Conv2d(d, d, 7, 1, 3, groups=d), nn.LayerNorm(d)
        self.mlp = nn.Sequential(nn.Linear(d, 2 * d), nn.GELU(), nn.Linear(2 * d, d))
        self.gamma = nn.Parameter(torch.full((d,), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        return x + (self.gamma * self.mlp(self.norm(self.conv_dw(x).permute(0, 2, 3, 1)))).permute(0, 3, 1, 2)


class LikeTimm(nn.Module):
    """A ConvNeXt in timm's words: forward_features, then a head that pools, normalises, drops and classifies."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 12, 2, 2), LayerNorm2d(12))
        down = nn.Sequential(LayerNorm2d(12), nn.Conv2d(12, 24, 2, 2))
        self.stages = nn.Sequential(Scaled(12), nn.Sequential(down, Scaled(24)))  # not a tuple of names
        self.head = nn.Sequential()
        self.head.add_module("norm", LayerNorm2d(24))
        self.head.add_module("flatten", nn.Flatten(1))
        self.head.add_module("drop", nn.Dropout(0.1))
        self.head.add_module("fc", nn.Linear(24, num_classes))

    def forward_features(self, x: Tensor) -> Tensor:
        return self.stages(self.stem(x))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        return self.head(x.mean((2, 3), keepdim=True))

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


def torchvision_resnet(num_classes: int) -> nn.Module:
    pytest.importorskip("PIL")
    try:
        return ostiary.import_torchvision().models.resnet18(num_classes=num_classes)
    except MissingPackage:
        pytest.skip("torchvision is not installed")


def timm_convnext(num_classes: int) -> nn.Module:
    torchvision_resnet(2)  # timm needs torchvision
    timm = pytest.importorskip("timm")
    return timm.create_model("convnext_atto", pretrained=False, num_classes=num_classes)


@pytest.mark.parametrize(
    ("make", "head", "epochs"),
    [
        (LikeTorchvision, "fc", 12),
        (LikeTimm, "head.fc", 25),
        pytest.param(torchvision_resnet, "fc", 2, marks=pytest.mark.slow),
        pytest.param(timm_convnext, "head.fc", 1, marks=pytest.mark.slow),
    ],
)
def test_train_stamp_judge_and_fine_tune(make: Any, head: str, epochs: int) -> None:
    with scoped(0, "init"):
        victim = Victim(make(SPLITS.train.n_classes), "image")
    poisoned = build("attack", {"name": "badnets", "rate": 0.1}).poison(SPLITS, Context(seed=0))
    Trainer(epochs=epochs, lr=0.005, batch_size=32).fit(victim, poisoned.splits.train, 0)
    assert victim.head == head
    few = SPLITS.clean.inputs[:4]
    logits, features = victim.embed(few)
    assert features.shape == (4, victim.module.get_submodule(head).in_features)
    assert torch.allclose(victim.module.get_submodule(head)(features), logits, atol=1e-5)
    sides = [layer.shape[-1] for layer in victim.layers(few)[1]]
    assert len(sides) >= 2
    assert sides == sorted(set(sides), reverse=True)
    after = build("purifier", {"name": "fine-tune", "epochs": 2}).purify(Evidence(victim, clean=SPLITS.clean), Context(seed=0))
    figures = [evaluate(Outputs.of(v, poisoned), poisoned, Outputs.of(victim, poisoned)) for v in (victim, after)]
    if epochs > 2:  # the full-size ones only have to go through
        assert figures[0]["acc"]["value"] > 0.85
    assert all(0 <= f["asr"]["value"] <= 1 for f in figures)


def test_a_head_that_is_a_convolution_is_found() -> None:
    """torchvision's SqueezeNet."""
    tail = nn.Sequential(nn.Conv2d(8, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), tail)
    for head in (None, "2.0"):
        found = Victim(net, "image", head=head).embed(SPLITS.clean.inputs)
        assert [x.shape[1] for x in found if x is not None] == [4, 8]


PACKAGE = """
import torch

@torch.library.register_fake("torchvision::nms")
def nms(dets, scores, iou_threshold): return dets

@torch.library.register_fake("torchvision::qnms")
def qnms(dets, scores, iou_threshold): return dets

__version__ = "fake"
"""


def run(code: str, folder: Path) -> str:
    whole = f"import sys; sys.path.insert(0, {str(folder)!r})\n" + textwrap.dedent(code)
    done = subprocess.run([sys.executable, "-c", whole], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()


def test_torchvision_is_imported_beside_a_torch_it_was_not_built_for(tmp_path: Path) -> None:
    """A package that fails as torchvision's does; in a process of its own, for operators cannot be taken back."""
    (tmp_path / "torchvision.py").write_text(PACKAGE, encoding="utf-8")
    (tmp_path / "model.py").write_text("import torch, torchvision\ndef make(classes): return torch.nn.Linear(2, classes)\n")
    code = f"""
    import ostiary
    try:
        import torchvision
    except RuntimeError as error:
        print(str(error).splitlines()[0])
    print(ostiary.build("victim", {{"name": "file", "path": {str(tmp_path / "model.py")!r}}}).module({{"classes": 3}}))
    print(ostiary.import_torchvision().__version__, ostiary.import_torchvision() is ostiary.import_torchvision())
    """
    first, second, third = run(code, tmp_path).splitlines()
    assert "torchvision::nms does not exist" in first
    assert "out_features=3" in second
    assert third == "fake True"


def test_other_failures_of_its_import_are_shown(tmp_path: Path) -> None:
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('broken in another way')", encoding="utf-8")
    code = """
    import ostiary
    try:
        ostiary.import_torchvision()
    except RuntimeError as error:
        print(error)
    """
    assert run(code, tmp_path) == "broken in another way"
