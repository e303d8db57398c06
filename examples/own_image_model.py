"""An image model from outside, on images in an .npz file: poison it here, then purify it two ways and judge it.

    python examples/own_image_model.py

Everything a defender uses is in `defend`; the rest plays attacker and judge. Fine-tuning leaves the backdoor in; Neural
Cleanse finds the patch, and training on patched digits with their true labels takes it out. Half a minute on one core. In
a plan the same model would be `victim: {name: file, path: examples/own_image_model.py, maker: Net}`.
"""

from __future__ import annotations

import tempfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

import ostiary
from ostiary.attacks.badnets import BadNets
from ostiary.data.dataset import Splits
from ostiary.evaluate import Outputs, evaluate


class Net(torch.nn.Module):
    """A user's own network with an argument name of its own; it takes any height and width."""

    def __init__(self, channels: int, classes: int, width: int = 16) -> None:
        super().__init__()
        sizes = [channels, width, 2 * width, 4 * width]
        self.blocks = torch.nn.Sequential(*(self.block(a, b) for a, b in pairwise(sizes)))
        self.out = torch.nn.Linear(4 * width, classes)

    @staticmethod
    def block(a: int, b: int) -> torch.nn.Module:
        nn = torch.nn
        return nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU(inplace=True), nn.MaxPool2d(2))

    def forward(self, picture: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.out(self.blocks(picture - 0.5).amax((2, 3)))
        return logits


def write_images(place: Path) -> None:
    """Your own file looks like this: uint8 images [n, height, width, channels] and integer labels [n]."""
    digits = ostiary.build("dataset", "digits").read()[0]
    pixels = (digits.inputs * 255).round().byte().permute(0, 2, 3, 1)
    np.savez(place, images=pixels.numpy(), labels=digits.y.numpy())


def wrap(splits: Splits) -> ostiary.Victim:
    data = splits.train.describe()
    return ostiary.Victim(Net(int(data["channels"]), int(data["classes"])), "image")


def defend(victim: ostiary.Victim, splits: Splits) -> dict[str, ostiary.Victim]:
    evidence = ostiary.Evidence(victim=victim, clean=splits.clean)
    names = ("fine-tune", "nc-unlearn")
    return {name: ostiary.build("purifier", name).purify(evidence, ostiary.Context(seed=0)) for name in names}


def main(epochs: int = 6) -> dict[str, dict[str, float]]:
    torch.set_num_threads(1)
    torch.manual_seed(0)  # of the network's first weights
    with tempfile.TemporaryDirectory() as folder:
        write_images(Path(folder) / "mine.npz")
        splits = ostiary.build("dataset", {"name": "npz", "path": str(Path(folder) / "mine.npz")}).load(seed=0)
    poisoned = BadNets(target=3).poison(splits, ostiary.Context(seed=0))
    trainer = ostiary.Trainer(epochs=epochs)
    victim = trainer.fit(wrap(splits), poisoned.splits.train, seed=0)
    control = trainer.fit(wrap(splits), splits.train, seed=0)
    reference = Outputs.of(control, poisoned)
    found = {}
    for name, model in {"before": victim, **defend(victim, splits)}.items():
        metrics = evaluate(Outputs.of(model, poisoned), poisoned, reference)
        found[name] = {k: float(metrics[k]["value"]) for k in ("acc", "asr", "natural", "ra")}
        print(f"{name:10}", {k: round(100 * v, 1) for k, v in found[name].items()})
    return found


if __name__ == "__main__":
    main()
