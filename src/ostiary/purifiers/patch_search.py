"""Distributions of patches that lead images to a class."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ostiary.console import progress
from ostiary.context import Context
from ostiary.data.dataset import Dataset
from ostiary.models.victim import Victim, evaluating, without_gradients
from ostiary.purifiers.patch_generators import Dependence, Generators
from ostiary.seeds import scoped
from ostiary.training.draws import draws


def pasted(images: Tensor, patches: Tensor, rng: torch.Generator) -> Tensor:
    """Each patch (float [n, c, s, s]) at a random place of its image; passes gradients to the patches."""
    n, c, s, _ = patches.shape
    h, w = images.shape[2:]
    top = torch.randint(h - s + 1, (n,), generator=rng).to(images.device)[:, None, None, None]
    left = torch.randint(w - s + 1, (n,), generator=rng).to(images.device)[:, None, None, None]
    cell, row = torch.arange(s, device=images.device), torch.arange(n, device=images.device)[:, None, None, None]
    channel = torch.arange(c, device=images.device)[None, :, None, None]
    return images.index_put((row, channel, top + cell[:, None], left + cell), patches)


@dataclass(frozen=True)
class PatchSearch:
    """size: pixels a side; alpha: weight of the dependence; noise: standard deviation of what is added to patches."""

    size: int
    steps: int
    lr: float
    batch_size: int
    hidden: int
    alpha: float
    noise: float

    def of(self, victim: Victim, clean: Dataset, goals: Tensor, levels: Tensor, ctx: Context) -> tuple[Generators, Tensor]:
        """A generator per entry of `goals` (int64 [g]) and `levels` (float [g]: the success beyond which nothing is gained),
        and each one's mean success over the last tenth of the steps: float [g]."""
        rng, device, pixels = ctx.rng("patches"), victim.device, clean.inputs.shape[1] * self.size**2
        with scoped(ctx.key("weights"), "init"):
            nets, tie = Generators(len(goals), pixels, self.hidden), Dependence(len(goals), pixels, self.hidden)
        nets, tie, goals, levels = nets.to(device), tie.to(device), goals.to(device), levels.to(device)
        optimizer = torch.optim.Adam([*nets.parameters(), *tie.parameters()], lr=self.lr, betas=(0.5, 0.999))
        seen: list[Tensor] = []
        with evaluating(victim), without_gradients(victim):
            for step, (images, y) in enumerate(draws(clean, self.batch_size, self.steps, device, rng)):
                noise, patches = nets.draw(len(images), rng)
                others = (y != goals[:, None]).float()
                chance = self.success(victim, images, patches, goals, rng)
                gained = (chance.minimum(levels[:, None]) * others).sum(1) / others.sum(1).clamp(min=1)
                seen.append((chance.detach() * others).sum(1) / others.sum(1).clamp(min=1))
                optimizer.zero_grad()
                (-(gained + self.alpha * tie(noise, patches)).sum()).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                progress("training patch generators", (step + 1) / self.steps)
        return nets, torch.stack(seen[-max(1, self.steps // 10) :]).mean(0).cpu()

    def success(self, victim: Victim, images: Tensor, patches: Tensor, goals: Tensor, rng: torch.Generator) -> Tensor:
        """The chance of its goal that the victim gives each image under each generator's patch: float [g, b]."""
        g, b = patches.shape[:2]
        rough = patches + self.noise * torch.randn(patches.shape, generator=rng).to(patches.device)
        square = rough.view(g * b, images.shape[1], self.size, self.size).clamp(0, 1)
        said = victim(pasted(images.repeat(g, 1, 1, 1), square, rng)).float().softmax(1).view(g, b, -1)
        chances: Tensor = said.gather(2, goals[:, None, None].expand(g, b, 1))[..., 0]
        return chances
