"""A learnable linear layer before one layer of a module: where it goes, and the victim with it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ostiary.errors import Unsupported
from ostiary.modality.graph import is_message_passing
from ostiary.models.edit import has_neurons
from ostiary.models.victim import Victim


class Polarizer(nn.Module):
    """Mixes channels, then BatchNorm: float [n, width] or [n, width, h, w] -> the same; the identity until it is trained."""

    def __init__(self, width: int, spatial: bool) -> None:
        super().__init__()
        self.mix = nn.Parameter(torch.eye(width))
        self.norm = nn.BatchNorm2d(width) if spatial else nn.BatchNorm1d(width)

    def forward(self, x: Tensor) -> Tensor:
        mixed = F.conv2d(x, self.mix[:, :, None, None]) if x.ndim == 4 else F.linear(x, self.mix)
        return self.norm(mixed)  # type: ignore[no-any-return]

    @torch.no_grad()
    def settle(self, x: Tensor) -> None:
        """Takes up mean and variance of what enters, and undoes them: the identity as before."""
        dims, norm = (0, 2, 3)[: x.ndim - 1], self.norm
        assert norm.running_mean is not None and norm.running_var is not None
        norm.running_mean.copy_(x.mean(dims))
        norm.running_var.copy_(x.var(dims, unbiased=False))
        norm.bias.copy_(norm.running_mean)
        norm.weight.copy_(self.spread)

    @property
    def spread(self) -> Tensor:
        """Standard deviation of each channel that enters: float [width]."""
        assert self.norm.running_var is not None
        return (self.norm.running_var + self.norm.eps).sqrt()


class Polarized(nn.Module):
    """A layer and the polarizer before it; what else the layer is called with passes by."""

    def __init__(self, polarizer: Polarizer, layer: nn.Module) -> None:
        super().__init__()
        self.polarizer, self.layer = polarizer, layer

    def forward(self, x: Tensor, *others: Any, **named: Any) -> Any:
        return self.layer(self.polarizer(x), *others, **named)


def before_polarizing(module: nn.Module, name: str) -> str:
    """What a parameter of the module was called before a polarizer was put in front of the layer that it belongs to."""
    for front in (n for n, m in module.named_modules() if isinstance(m, Polarized)):
        if name.startswith(f"{front}.layer."):
            return f"{front}{name.removeprefix(f'{front}.layer')}"
    return name


def place(victim: Victim) -> str:
    """Name of the layer to put a polarizer before, read from the module's structure, so that it is the same for an untrained
    one: the first k x k convolution of the block that has the last one (the last one itself where its block has all of
    them); without convolutions the last of several message-passing layers, or the head. Raises Unsupported."""
    modules: dict[str, nn.Module] = {n: m for n, m in victim.module.named_modules() if n}
    convs = [n for n, m in modules.items() if isinstance(m, nn.Conv2d) and max(m.kernel_size) > 1]
    if convs:
        block = convs[-1].rpartition(".")[0]
        first: str = next(n for n in convs if n.rpartition(".")[0] == block)
        return convs[-1] if first == convs[0] else first
    passing = [n for n, m in modules.items() if is_message_passing(m)]
    found = passing[-1] if len(passing) > 1 else victim.head
    if not found:
        raise Unsupported("the module is a single layer, with none to put a polarizer before")
    return found


def polarized(victim: Victim, name: str = "") -> Victim:
    """A copy of the victim with a polarizer before the layer called `name` (default: `place`). Raises Unsupported."""
    other = victim.clone()
    name = name or place(other)
    try:
        layer = other.module.get_submodule(name)
    except AttributeError:
        raise Unsupported(f"the module has no layer '{name}' to put a polarizer before") from None
    weighted = next((m for m in layer.modules() if has_neurons(m)), None)
    if weighted is None:
        raise Unsupported(f"the layer '{name}' has no weight that tells how many channels enter it")
    width = int(weighted.weight.shape[1]) * int(getattr(weighted, "groups", 1))  # type: ignore[index]
    both = Polarized(Polarizer(width, isinstance(weighted, nn.Conv2d)), layer).to(weighted.weight)  # type: ignore[arg-type]
    other.module.set_submodule(name, both)
    other.moved(name, f"{name}.layer")
    both.train(victim.training)
    return other


def polarizer(victim: Victim) -> Polarizer:
    """That of a victim made by `polarized`."""
    return next(m for m in victim.modules() if isinstance(m, Polarizer))


@contextmanager
def watched(module: nn.Module, by: Tensor | None = None) -> Iterator[list[Tensor]]:
    """Inside, what enters the module is noted and, if `by` is given, moved by it."""
    seen: list[Tensor] = []

    def enter(_: nn.Module, given: tuple[Any, ...]) -> Any:
        seen.append(given[0])
        return None if by is None else (given[0] + by, *given[1:])

    handle = module.register_forward_pre_hook(enter)
    try:
        yield seen
    finally:
        handle.remove()
