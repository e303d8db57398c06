"""What devices lack, and torch's defaults where a user has set others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor


def exact(device: torch.device) -> torch.device:
    """Where numbers of this device can have double precision: there or, as Apple's GPUs have none, on the CPU."""
    return torch.device("cpu") if device.type == "mps" else device


def wide(x: Tensor) -> Tensor:
    """The numbers in the widest floating type of their device: float64, on Apple's GPUs float32."""
    return x.to(torch.float32 if x.device.type == "mps" else torch.float64)


@contextmanager
def plain_defaults() -> Iterator[None]:
    """Inside, or in what it decorates, new tensors are on the CPU and float32, as torch comes: where a method computes it says,
    and what it finds must not depend on what a user has set for code of their own."""
    there, dtype = torch.get_default_device(), torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with nullcontext() if there.type == "cpu" else torch.device("cpu"):  # a mode, which every operation would pass
            yield
    finally:
        torch.set_default_dtype(dtype)
