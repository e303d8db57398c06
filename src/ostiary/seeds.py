"""One root seed -> named, independent streams.

Two kinds of randomness. A *stream* (`generator`) is consumed in order, for shuffling or weight init.
A *keyed* draw (`uniform`) is a pure function of (seed, sample id, draw number): a sample gets the same
numbers whatever else is in its batch, so triggers can stamp whole batches, in any order or chunking.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from ostiary.devices import exact


def derive(seed: int, *names: object) -> int:
    """A 63-bit seed for the stream called `names` under `seed`."""
    text = "\x1f".join(map(str, (seed, *names)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def generator(seed: int, *names: object) -> torch.Generator:
    return torch.Generator().manual_seed(derive(seed, *names))


@contextmanager
def scoped(seed: int, *names: object) -> Iterator[None]:
    """Run code that only knows torch's global generator (module init), then restore it, on every device."""
    cards = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()  # `manual_seed` is for all of them, too
    with torch.random.fork_rng(devices=cards):
        torch.manual_seed(derive(seed, *names))
        yield


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64 (torch's is arithmetic)."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    """splitmix64's finaliser (Steele, Lea & Flood, OOPSLA 2014); int64 products wrap as needed."""
    x = (x ^ _shift(x, 30)) * -0x40A7B892E31B1A47
    x = (x ^ _shift(x, 27)) * -0x6B2FB644ECCEEE15
    return x ^ _shift(x, 31)


def uniform(seed: int, ids: Tensor, draw: Tensor | int = 0) -> Tensor:
    """Uniform numbers in [0, 1), float64, one per entry of `ids` (int64), for draw number `draw`.

    `ids` and `draw` broadcast against each other. On a device without float64: the first 24 bits of the same, float32.
    """
    if (near := exact(ids.device)) != ids.device:
        found = uniform(seed, ids.to(near), draw.to(near) if isinstance(draw, Tensor) else draw)
        return ((found * 2**24).floor() / 2**24).float().to(ids.device)
    golden = -0x61C8864680B583EB
    x = _mix(ids.to(torch.int64) * golden + seed)
    x = _mix(x + (torch.as_tensor(draw, dtype=torch.int64, device=ids.device) + 1) * golden)
    return _shift(x, 11).to(torch.float64) * 2.0**-53
