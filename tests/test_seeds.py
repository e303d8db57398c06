"""Named streams and keyed draws."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from scipy import stats

from accelerator import pretended
from ostiary.seeds import _mix, derive, generator, scoped, uniform


def test_derived_seeds_are_fixed_for_all_time() -> None:
    """Stored results depend on these; a change here is a change of every record."""
    assert derive(0, "split") == 3692668185207323792
    assert uniform(0, torch.arange(3)).tolist() == [0.8833108082136426, 0.6524484863740322, 0.27623358227789463]


def test_the_mixer_gives_the_published_outputs_of_splitmix64() -> None:
    """State 1234567, advanced by the golden gamma before each output."""
    gamma = 0x9E3779B97F4A7C15 - 2**64
    states = 1234567 + gamma * torch.arange(1, 4)
    assert [int(v) % 2**64 for v in _mix(states)] == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_streams_differ_by_seed_and_name_and_repeat() -> None:
    draws = [torch.rand(4, generator=generator(*key)) for key in ((0, "a"), (0, "a"), (1, "a"), (0, "b"), (0, "a", "b"))]
    assert torch.equal(draws[0], draws[1])
    assert all(not torch.equal(draws[0], d) for d in draws[2:])
    assert derive(1, "1") != derive(11, "")
    assert 0 <= derive(2**62, "x") < 2**63


def test_scoped_restores_the_global_generator_even_on_error() -> None:
    before = torch.get_rng_state()
    drawn = []

    def fail() -> None:
        with scoped(0, "init"):
            drawn.append(torch.rand(3))
            raise RuntimeError

    for _ in range(2):
        with pytest.raises(RuntimeError):
            fail()
        assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(*drawn)


def test_keyed_draws_depend_on_seed_id_and_draw_alone() -> None:
    ids = torch.randperm(1000, generator=generator(0, "ids"))
    whole = uniform(7, ids)
    assert torch.equal(uniform(7, ids.flip(0)), whole.flip(0))
    assert torch.equal(uniform(7, ids[500:501]), whole[500:501])
    assert torch.equal(uniform(7, ids[:, None], torch.arange(3))[:, 1], uniform(7, ids, 1))
    assert not torch.equal(uniform(8, ids), whole)
    assert not torch.equal(uniform(7, ids, 1), whole)


@pytest.mark.parametrize("seed", [0, 1, derive(3, "x"), 2**63 - 1])
def test_keyed_draws_are_uniform_and_independent(seed: int) -> None:
    """Kolmogorov-Smirnov over ids and over draws, and no correlation between neighbours."""
    by_id, by_draw = uniform(seed, torch.arange(20000)), uniform(seed, torch.tensor([5]), torch.arange(20000))
    for values in (by_id, by_draw):
        assert 0 <= float(values.min()) <= float(values.max()) < 1
        assert stats.kstest(values.numpy(), "uniform").pvalue > 1e-3
        assert abs(float(torch.corrcoef(torch.stack([values[1:], values[:-1]]))[0, 1])) < 0.03
    assert abs(float(torch.corrcoef(torch.stack([by_id, by_draw]))[0, 1])) < 0.03
    assert len(by_id.unique()) == 20000


def test_scoped_seeds_put_every_device_back(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[list[int]] = []
    fork = torch.random.fork_rng

    def noted(devices: Any) -> Any:
        kept.append(list(devices))
        return fork(devices=[])

    monkeypatch.setattr(torch.random, "fork_rng", noted)
    with scoped(0, "a"):
        pass
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: None)
    with scoped(0, "a"):
        pass
    assert kept == [[], [0, 1]]


def test_devices_without_double_precision_get_the_first_bits_of_the_same_numbers() -> None:
    ids, draw = torch.arange(2000), torch.tensor([0, 3])[:, None]
    exact = uniform(5, ids, draw)
    with pretended("mps") as there:
        found = uniform(5, ids.to(there), draw.to(there))
        assert (found.device, found.dtype) == (there, torch.float32)
        least = uniform(5, ids.to(there)).cpu()
    assert exact.dtype == torch.float64 and torch.equal(found.cpu().double(), (exact * 2**24).floor() / 2**24)
    assert torch.equal(least, found.cpu()[0]) and float(found.cpu().max()) < 1
