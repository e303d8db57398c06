"""One thread, warnings are errors, offline data where they are, and a cache folder that is thrown away."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from expectations import CLIQUE, GIN, GRAPHS
from ostiary.attacks.base import Poisoned
from ostiary.component import build
from ostiary.context import Context
from ostiary.models.victim import Victim
from ostiary.training.trainer import Trainer

ROOT = Path(__file__).resolve().parents[1]

settings.register_profile("ostiary", deadline=None, max_examples=40, derandomize=True, database=None)
settings.load_profile("ostiary")


def pytest_configure(config: pytest.Config) -> None:
    torch.set_num_threads(1)  # pytest shares its cores; sums of several threads are not the same bytes
    offline = ROOT.parent / "shared" / "data"
    if offline.is_dir():
        os.environ.setdefault("OSTIARY_DATA", str(offline))
    for line in ("error", "ignore:.*torch.jit.*:DeprecationWarning"):  # PyG's own use of torch.jit
        config.addinivalue_line("filterwarnings", line)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What sources keep (read TU sets) goes to a folder of this session, never to the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def needs_data() -> Path:
    """The folder of offline data sets; the test is skipped where there is none."""
    folder = os.environ.get("OSTIARY_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("no offline data sets: set OSTIARY_DATA")
    return Path(folder)


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A picture in place of one that is not handed out, hello_kitty.png, where files are looked for first."""
    pillow = pytest.importorskip("PIL.Image")
    pillow.fromarray(torch.arange(48, dtype=torch.uint8).view(4, 4, 3).numpy()).save(tmp_path / "hello_kitty.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "hello_kitty.png"


@pytest.fixture(scope="module")
def scene() -> tuple[Context, Poisoned, Victim, Victim]:
    """(context, poisoned, backdoored victim, clean control) on toy graphs."""
    splits = build("dataset", GRAPHS).load(0)
    ctx = Context(seed=0, architecture=build("victim", GIN), trainer=Trainer(epochs=20, batch_size=32))
    poisoned = build("attack", CLIQUE).poison(splits, ctx)
    return ctx, poisoned, ctx.fit(poisoned.splits.train), ctx.fit(splits.train)
