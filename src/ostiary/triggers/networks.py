"""A trigger's own network to and from its state."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from ostiary.seeds import scoped

Net = TypeVar("Net", bound=nn.Module)


def restored(make: Callable[[], Net], state: Mapping[str, Tensor], device: torch.device, prefix: str = "") -> Net:
    """What `make` builds, with the weights called `prefix`... in `state`, in evaluation mode."""
    with scoped(0, "init"):  # overwritten at once; leaves torch's global stream alone
        net = make()
    net.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
    return net.to(device).eval()


def weights(net: nn.Module, prefix: str = "") -> dict[str, Tensor]:
    """A copy of the weights for a trigger's state, on the CPU, named `prefix`..."""
    return {prefix + k: v.detach().cpu().clone() for k, v in net.state_dict().items()}
