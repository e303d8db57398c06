"""Distributions of patches that lead images to a class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ostiary.console import progress
from ostiary.context import Context
from ostiary.data.dataset import Dataset
from ostiary.detectors.masks import AT_ONCE
from ostiary.detectors.patch_generators import Dependence, Generators
from ostiary.detectors.patch_places import Footprint, Places
from ostiary.models.victim import Victim, evaluating, without_gradients
from ostiary.seeds import scoped
from ostiary.training.draws import draws


@dataclass(frozen=True, eq=False)
class Found:
    """Generators, the pixels that their patches cover, their places, and each one's mean success over the last tenth of the
    steps: float [g]."""

    nets: Generators
    footprint: Footprint
    places: Places
    success: Tensor

    @torch.no_grad()
    def stamp(self, images: Tensor, which: int, rng: torch.Generator) -> Tensor:
        """The images (float [n, c, h, w]), each with a patch of generator `which`; in parts: all generators draw along."""
        stamped = [images[:0]]
        for some in images.split(AT_ONCE) if len(images) else ():
            flat = self.nets.draw(max(2, len(some)), rng)[1][which][: len(some)]  # their statistics are those of the batch
            at = self.places.draw(len(some), rng)[which].to(some.device)
            stamped.append(self.footprint.paste(some, flat.view(len(some), some.shape[1], -1).to(some.device), at))
        return torch.cat(stamped)


@dataclass(frozen=True)
class PatchSearch:
    """alpha: weight of the dependence; noise: standard deviation added to patches; learnt: else they are random or `fixed`."""

    footprint: Footprint
    steps: int
    lr: float
    batch_size: int
    hidden: int
    alpha: float
    noise: float
    learnt: bool
    fixed: int | None = None

    def by_class(self, victim: Victim, clean: Dataset, levels: Sequence[float], ctx: Context) -> Found:
        """A generator per class and level: those of a class stand side by side."""
        goals = torch.arange(clean.n_classes).repeat_interleave(len(levels))
        return self.of(victim, clean, goals, torch.tensor(levels).repeat(clean.n_classes), ctx)

    def of(self, victim: Victim, clean: Dataset, goals: Tensor, levels: Tensor, ctx: Context) -> Found:
        """A generator per entry of `goals` (int64 [g]) and `levels` (float [g]: the success beyond which nothing is gained)."""
        rng, device, pixels = ctx.rng("patches"), victim.device, clean.inputs.shape[1] * self.footprint.pixels
        with scoped(ctx.key("weights"), "init"):
            nets, tie = Generators(len(goals), pixels, self.hidden), Dependence(len(goals), pixels, self.hidden)
        nets, tie, goals, levels = nets.to(device), tie.to(device), goals.to(device), levels.to(device)
        down, across = self.footprint.room(clean.inputs)
        places = Places(torch.zeros(len(goals), down * across), self.learnt, self.fixed)
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
        return Found(nets, self.footprint, places, torch.stack(seen[-max(1, self.steps // 10) :]).mean(0).cpu())

    def success(self, victim: Victim, images: Tensor, patches: Tensor, at: Tensor, goals: Tensor) -> Tensor:
        """The chance of its goal that the victim gives each image under each generator's patch: float [g, b]."""
        g, b = patches.shape[:2]
        flat = patches.view(g * b, images.shape[1], -1).clamp(0, 1)
        said = victim(self.footprint.paste(images.repeat(g, 1, 1, 1), flat, at.flatten())).float().softmax(1).view(g, b, -1)
        chances: Tensor = said.gather(2, goals[:, None, None].expand(g, b, 1))[..., 0]
        return chances
