"""One training epoch of a PreAct-ResNet on images, and its batches alone, against the usual loop; PGD against one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from common import cpu_seconds, inside, one_thread, report, wall_seconds
from ostiary.component import build
from ostiary.data.dataset import Dataset
from ostiary.data.user import images
from ostiary.models.residual_nets import PreActNet
from ostiary.models.victim import Victim, evaluating, without_gradients
from ostiary.seeds import generator, scoped
from ostiary.training.augment import augment
from ostiary.training.trainer import Trainer, has_bf16
from ostiary.triggers.base import Trigger

N, SIZE, BATCH, RATE, SEED, PAD = 2000, 32, 128, 0.05, 0, 4
NET = {"name": "preact-resnet", "width": 16}
REPEATS, ATTACKED, STEPS = 5, 100, 10

warm_seconds = partial(cpu_seconds, repeats=REPEATS, warm=1)


class Listed(TorchDataset[tuple[Tensor, int]]):
    """CIFAR-10 as torchvision's class holds it: uint8 [h, w, c], a Pillow image and its transforms for each item."""

    def __init__(self, pixels: np.ndarray, y: list[int], mean: Tensor, std: Tensor) -> None:
        self.pixels, self.y, self.mean, self.std = pixels, y, mean, std

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        """RandomCrop(32, padding=4), RandomHorizontalFlip, ToTensor, Normalize."""
        picture = ImageOps.expand(Image.fromarray(self.pixels[i]), border=PAD, fill=0)
        top, left = (int(torch.randint(0, 2 * PAD + 1, (1,))) for _ in range(2))
        picture = picture.crop((left, top, left + SIZE, top + SIZE))
        if torch.rand(1) < 0.5:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        x = torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous().float().div(255)
        return x.sub_(self.mean).div_(self.std), self.y[i]


class NCHW(nn.Module):
    """The same network in the memory layout that PyTorch starts with; `normalise`: as its own first layer."""

    def __init__(self, inner: PreActNet, normalise: bool) -> None:
        super().__init__()
        self.inner = nn.utils.convert_conv2d_weight_memory_format(inner, torch.contiguous_format)
        self.normalise = normalise

    def forward(self, images: Tensor) -> Tensor:
        x = self.inner.stem(self.inner.normalise(images) if self.normalise else images)
        for layer in self.inner.layers:
            x = layer(x)
        logits: Tensor = self.inner.classifier(self.inner.tail(x).mean((2, 3)))
        return logits


class UsualTraining:
    """The usual loop: DataLoader with transforms per image, NCHW, zero_grad, loss.item() at every step."""

    def __init__(self, victim: Victim, data: Dataset) -> None:
        net = inside(victim.clone(), PreActNet)
        self.module = NCHW(net, normalise=False)
        pixels = (data.inputs * 255).round().byte().permute(0, 2, 3, 1).contiguous().numpy()
        listed = Listed(pixels, data.y.tolist(), net.normalise.mean, net.normalise.std)
        self.loader = DataLoader(listed, BATCH, shuffle=True)
        self.optimizer = torch.optim.SGD(self.module.parameters(), RATE, 0.9, weight_decay=5e-4, nesterov=True)

    def epoch(self) -> None:
        self.module.train()
        with scoped(SEED, "usual"):
            for x, y in self.loader:
                self.optimizer.zero_grad()
                loss = F.cross_entropy(self.module(x), y)
                loss.backward()
                self.optimizer.step()
                loss.item()

    def fetch(self) -> None:
        with scoped(SEED, "usual"):
            for _ in self.loader:
                pass


class OurTraining:
    """The same through the trainer."""

    def __init__(self, victim: Victim, data: Dataset, bf16: bool = False) -> None:
        self.trainer = Trainer(optimizer="sgd", lr=RATE, batch_size=BATCH, augment="crop-flip", weight_decay=5e-4, bf16=bf16)
        self.state = self.trainer.start(victim, data, SEED)

    def epoch(self) -> None:
        self.trainer.run_epoch(self.state)

    def fetch(self) -> None:
        data, rng = self.state.data, generator(SEED, "fetch")
        for rows in torch.randperm(len(data), generator=rng).split(BATCH):
            augment(data.modality.take(data.inputs, rows), "crop-flip", rng)


def pgd(victim: Victim, x: Tensor, target: Tensor, eps: float = 8 / 255) -> Tensor:
    """Targeted PGD from the image itself; the one function that both sides call, on a batch or on one image."""
    start, step = x, 2.5 * eps / STEPS
    with evaluating(victim), without_gradients(victim):
        for _ in range(STEPS):
            x = x.detach().requires_grad_()
            (slope,) = torch.autograd.grad(F.cross_entropy(victim(x), target, reduction="sum"), x)
            x = (x - step * slope.sign()).clamp(start - eps, start + eps).clamp(0, 1)
    return x.detach()


def one_by_one(victim: Victim, x: Tensor, target: Tensor) -> Tensor:
    return torch.cat([pgd(victim, a, t) for a, t in zip(x.split(1), target.split(1), strict=True)])


def pgd_ratio(victim: Victim, data: Dataset) -> float:
    """How many times as long PGD takes on one image after the other."""
    some = data.take(torch.arange(ATTACKED))
    goal = (some.y + 1) % 10
    given = victim, some.inputs, goal
    loop, batch = warm_seconds(partial(one_by_one, *given), partial(pgd, *given), repeats=3)
    print(f"\nPGD, {STEPS} steps on {ATTACKED} pictures: one by one {loop * 1e3:.0f}, in one go {batch * 1e3:.0f} milliseconds")
    return loop / batch


def stamp(trigger: Trigger, data: Dataset, target: Tensor, rows: Tensor) -> Tensor:
    stamped: Tensor = trigger.apply(data.inputs[rows], data.ids[rows], seed=SEED, target=target[rows])
    return stamped


def each(do: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
    return torch.cat([do(row) for row in rows.split(1)])


def stamps(data: Dataset) -> Iterator[tuple[str, Callable[[], Tensor], Callable[[], Tensor]]]:
    """(trigger, image by image, in one go)."""
    every, target = torch.arange(len(data)), torch.zeros(len(data), dtype=torch.int64)
    for name in ("patch", "blend"):
        do = partial(stamp, build("trigger", name), data, target)
        single, whole = partial(each, do, every), partial(do, every)
        assert torch.equal(single(), whole())
        yield name, single, whole


def learnt(bf16: bool = False) -> float:
    """Test accuracy on the digits after the recipe's training."""
    splits, arch = build("dataset", "digits").load(10), build("victim", NET)
    trainer = build("trainer", {**arch.recipe, "name": "trainer", "epochs": 6, "bf16": bf16})
    victim = trainer.fit(arch.make(splits.train, SEED), splits.train, SEED)
    return float((victim.predict(splits.test.inputs).argmax(1) == splits.test.y).double().mean())


def synthetic() -> Dataset:
    """Smooth random pictures, 8-bit rounded, as many and as large as asked; what is in them does not matter for speed."""
    rng = generator(SEED, "pictures")
    coarse = torch.rand(N, 3, 8, 8, generator=rng)
    pixels = F.interpolate(coarse, SIZE, mode="bilinear").mul(255).round().div(255)
    return images(pixels, torch.arange(N) % 10)


def main() -> None:
    cores = torch.get_num_threads()
    one_thread()
    data = synthetic()
    victim = build("victim", NET).make(data, SEED)
    plain = victim.clone()
    plain.module = NCHW(inside(plain, PreActNet), normalise=True)
    usual, nchw, ours = UsualTraining(victim, data), OurTraining(plain, data), OurTraining(victim.clone(), data)
    sides: dict[str, UsualTraining | OurTraining] = {"usual loop": usual, "Ostiary, NCHW": nchw, "Ostiary": ours}
    bf16 = has_bf16(torch.device("cpu"))
    if bf16:
        sides["Ostiary, bf16"] = OurTraining(victim.clone(), data, bf16=True)
    epochs = dict(zip(sides, warm_seconds(*(s.epoch for s in sides.values())), strict=True))
    fetches = warm_seconds(usual.fetch, ours.fetch)
    print(f"{N} pictures {SIZE} x {SIZE} x 3, {NET}, batches of {BATCH}, crop and flip")
    print(f"CPU milliseconds per epoch on one thread, median of {REPEATS}, and how many times Ostiary's\n")
    for name, seconds in epochs.items():
        print(f"{name:24} {seconds * 1e3:8.0f} ({seconds / epochs['Ostiary']:.2f})")
    layout, loading = epochs["Ostiary, NCHW"] - epochs["Ostiary"], fetches[0] - fetches[1]
    print(f"of the difference, memory layout gives {layout * 1e3:.0f}, loading {loading * 1e3:.0f}\n")
    print(f"{'batches alone, usual':24} {fetches[0] * 1e3:8.0f} ({fetches[0] / fetches[1]:.1f})")
    print(f"{'batches alone, Ostiary':24} {fetches[1] * 1e3:8.0f}\n")
    torch.set_num_threads(cores)
    usual_wall, our_wall = wall_seconds(usual.epoch, ours.epoch, repeats=REPEATS, warm=1)
    one_thread()
    print(f"by the clock on {cores} cores: usual loop {usual_wall * 1e3:.0f}, Ostiary {our_wall * 1e3:.0f} milliseconds\n")
    exact = learnt()
    print(f"digits, 6 epochs: accuracy {100 * exact:.1f} in fp32")
    if bf16:
        print(f"bf16 {100 * learnt(bf16=True):.1f}")
    else:
        print("this CPU has no bf16 instructions: `bf16` is left out by the trainer, and not measured")
    slower = pgd_ratio(victim, data)
    for name, single, whole in stamps(data):
        slow, fast = warm_seconds(single, whole)
        print(f"{name} on {N} pictures: one by one {slow * 1e3:.0f}, in one go {fast * 1e3:.1f} milliseconds")
        report(name, slow / fast, 3)
    report("pgd", slower, 1.5)
    report("batches", fetches[0] / fetches[1], 5)
    report("epoch", epochs["usual loop"] / epochs["Ostiary"], 2)
    report("epoch-all-cores", usual_wall / our_wall, 2)
    if bf16:
        report("epoch-bf16", epochs["usual loop"] / epochs["Ostiary, bf16"], 2)


if __name__ == "__main__":
    main()
