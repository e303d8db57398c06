"""Distributions of patches that lead images to a class."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ostiary.console import progress
from ostiary.context import Context
from ostiary.data.dataset import Dataset
from ostiary.detectors.masks import AT_ONCE
from ostiary.models.victim import Victim, evaluating, without_gradients
from ostiary.purifiers.patch_generators import Dependence, Generators
from ostiary.purifiers.patch_places import Places, pasted
from ostiary.seeds import scoped
from ostiary.training.draws import draws
from ostiary.training.hooks import TrainHook
from ostiary.training.trainer import TrainState


@dataclass(frozen=True, eq=False)
class Found:
    """Generators, their places, and each one's mean success over the last tenth of the steps: float [g]."""

    nets: Generators
    places: Places
    success: Tensor


@dataclass(frozen=True)
class PatchSearch:
    """size: pixels a side; alpha: weight of the dependence; noise: standard deviation of what is added to patches;
    learnt: places are learnt along, else random."""

    size: int
    steps: int
    lr: float
    batch_size: int
    hidden: int
    alpha: float
    noise: float
    learnt: bool

    def of(self, victim: Victim, clean: Dataset, goals: Tensor, levels: Tensor, ctx: Context) -> Found:
        """A generator per entry of `goals` (int64 [g]) and `levels` (float [g]: the success beyond which nothing is gained)."""
        rng, device, pixels = ctx.rng("patches"), victim.device, clean.inputs.shape[1] * self.size**2
        with scoped(ctx.key("weights"), "init"):
            nets, tie = Generators(len(goals), pixels, self.hidden), Dependence(len(goals), pixels, self.hidden)
        nets, tie, goals, levels = nets.to(device), tie.to(device), goals.to(device), levels.to(device)
        h, w = (side - self.size + 1 for side in clean.inputs.shape[2:])
        places = Places(torch.zeros(len(goals), h * w), self.learnt)
        optimizer = torch.optim.Adam([*nets.parameters(), *tie.parameters()], lr=self.lr, betas=(0.5, 0.999))
        seen: list[Tensor] = []
        with evaluating(victim), without_gradients(victim):
            for step, (images, y) in enumerate(draws(clean, self.batch_size, self.steps, device, rng)):
                noise, patches = nets.draw(len(images), rng)
                others = (y != goals[:, None]).float()
                at = places.draw(len(images), rng)
                shown, chances = patches.detach().requires_grad_(), list[Tensor]()
                rough = shown + self.noise * torch.randn(patches.shape, generator=rng).to(device)
                for some in torch.arange(len(goals), device=device).split(max(1, AT_ONCE // len(images))):
                    chance = self.success(victim, images, rough[some], at.to(device)[some], goals[some])
                    gained = (chance.minimum(levels[some, None]) * others[some]).sum(1) / others[some].sum(1).clamp(min=1)
                    (-gained.sum()).backward()
                    chances.append(chance.detach())
                told = torch.cat(chances)  # by images of other classes; those of the goal's own know no success
                places.learn(at, torch.where(others.cpu() > 0, told.cpu(), places.success.gather(1, at)))
                seen.append((told * others).sum(1) / others.sum(1).clamp(min=1))
                optimizer.zero_grad()
                tied = -self.alpha * tie(noise, patches).sum()
                torch.autograd.backward([patches, tied], [shown.grad, torch.ones_like(tied)])
                optimizer.step()
                progress("training patch generators", (step + 1) / self.steps)
        return Found(nets, places, torch.stack(seen[-max(1, self.steps // 10) :]).mean(0).cpu())

    def success(self, victim: Victim, images: Tensor, patches: Tensor, at: Tensor, goals: Tensor) -> Tensor:
        """The chance of its goal that the victim gives each image under each generator's patch: float [g, b]."""
        g, b = patches.shape[:2]
        square = patches.view(g * b, images.shape[1], self.size, self.size).clamp(0, 1)
        said = victim(pasted(images.repeat(g, 1, 1, 1), square, at.flatten())).float().softmax(1).view(g, b, -1)
        chances: Tensor = said.gather(2, goals[:, None, None].expand(g, b, 1))[..., 0]
        return chances


class Sampling(TrainHook):
    """Puts patches of the generators, one of them in each epoch, on a share of every batch; labels stay."""

    def __init__(self, found: Found, size: int, share: float, rng: torch.Generator) -> None:
        self.nets, self.places, self.size, self.share, self.rng = found.nets.cpu(), found.places, size, share, rng

    def on_batch(self, state: TrainState, batch: Tensor, y: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        turn, n = state.epoch % self.nets.count, len(batch)
        with torch.no_grad():  # at least two patches, since their statistics are those of the batch
            flat = self.nets.draw(max(2, n), self.rng)[1][turn][:n]
        at = self.places.draw(n, self.rng)[turn]
        marked = pasted(batch, flat.view(n, batch.shape[1], self.size, self.size), at)
        chosen = torch.rand(n, generator=self.rng) < self.share
        return torch.where(chosen[:, None, None, None], marked, batch), y
