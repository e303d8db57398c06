"""Universal perturbations: targeted DeepFool, low-pass filters, cosines."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ostiary.models.victim import Victim, evaluating, without_gradients


def deepfool(victim: Victim, images: Tensor, target: int, steps: int, overshoot: float) -> tuple[Tensor, Tensor]:
    """(smallest steps [n, c, h, w] that lead each image to the target, which ones arrived: bool [n]).

    Each step crosses the linearised boundary between the target and the class now called, so that one gradient, of the
    difference of two logits, serves any number of classes (Moosavi-Dezfooli et al., CVPR 2016, arXiv:1511.04599).
    """
    images = images.to(victim.device)
    moved, there = torch.zeros_like(images), torch.zeros(len(images), dtype=torch.bool, device=images.device)
    with evaluating(victim), without_gradients(victim):
        for step in range(steps + 1):
            at = (~there).nonzero().flatten()
            x = (images[at] + moved[at]).requires_grad_()
            logits = victim(x)
            called = logits.argmax(1)
            there[at] = called == target
            if step == steps or bool(there.all()):
                break
            gap = logits.gather(1, called[:, None])[:, 0] - logits[:, target]
            (slope,) = torch.autograd.grad(gap.sum(), x)
            size = (gap.detach() / slope.flatten(1).square().sum(1).clamp(min=1e-12)).view(-1, 1, 1, 1)
            moved[at] -= (1 + overshoot) * size * slope  # 0 where the target is called already
    return moved.cpu(), there.cpu()


def low_pass(pattern: Tensor, sigma: float) -> Tensor:
    """A picture [c, h, w] smoothed by a Gaussian of `sigma` pixels, cut off at 2.5 sigma, with zeros beyond the border."""
    reach = max(1, math.ceil(2.5 * sigma))
    line = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, device=pattern.device) / sigma) ** 2)
    line = line / line.sum()
    tall = F.conv2d(pattern[:, None], line.view(1, 1, -1, 1), padding=(reach, 0))
    return F.conv2d(tall, line.view(1, 1, 1, -1), padding=(0, reach))[:, 0]


def scaled(pattern: Tensor, height: float) -> Tensor:
    """Moved and stretched to [0, height]; a constant one becomes zero."""
    low, high = pattern.amin(), pattern.amax()
    return (pattern - low) * (height / (high - low).clamp(min=1e-12))


def cosines(n: int, k: int) -> Tensor:
    """The k (or n) slowest vectors of the orthonormal cosine basis (DCT-II) of n points: float64 [min(k, n), n]."""
    place = torch.arange(n, dtype=torch.float64)
    basis = torch.cos(math.pi / n * place[: min(k, n), None] * (place + 0.5))
    return F.normalize(basis, dim=1)
