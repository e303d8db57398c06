"""Where data comes from: a source reads, the base splits by seed."""

from __future__ import annotations

import hashlib
import os
from abc import abstractmethod
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path, PurePath, PurePosixPath
from typing import ClassVar, Literal, TypeVar, final

import torch
from torch import Tensor

from ostiary.component import Component, Rate, who
from ostiary.data.dataset import Dataset, Splits
from ostiary.devices import plain_defaults
from ostiary.errors import BrokenContract, InvalidInput
from ostiary.seeds import generator
from ostiary.writing import expanded

P = TypeVar("P", bound=PurePath)


class DataSource(Component):
    """Options of every source. Default rates: 20 % test, 3 % clean out of the test part (GCleaner, section 5.1)."""

    kind = "dataset"
    modalities: ClassVar[frozenset[str]]
    test_rate: Rate = 0.2
    clean_rate: Rate = 0.03
    clean_from: Literal["test", "train"] = "test"

    @abstractmethod
    def read(self) -> tuple[Dataset, Tensor | None]:
        """All samples and, where the data come with a split, a bool mask [n] of the test part."""

    def content(self) -> str:
        """A mark of the files read, so that results are not reused after they changed; empty for fixed sources."""
        return ""

    def tied(self) -> Tensor | None:
        """A number for every sample as read (int64 [n]); those with the same are near copies and stay in one part."""
        return None

    @final
    @plain_defaults()
    def load(self, seed: int) -> Splits:
        """Stratified train / test / clean for this seed; a split that came with the data is kept."""
        match self.read():
            case (Dataset() as data, given):
                pass
            case found:
                said = f"{who(self)} read {type(found).__name__}, expected a pair"
                raise BrokenContract(f"{said}; let `read` return (Dataset, None), or a mask of the test part in place of None")
        return self.part(split(data, given, self.test_rate, self.clean_rate, self.clean_from, seed, self.tied()))

    def part(self, splits: Splits) -> Splits:
        """The same rows, with what they may not see of each other taken away; nothing by default."""
        return splits


def split(
    data: Dataset,
    given: Tensor | None,
    test_rate: float,
    clean_rate: float,
    clean_from: str,
    seed: int,
    tied: Tensor | None = None,
) -> Splits:
    """`clean` takes `clean_rate` of *all* samples, class by class, from the test or the training part; `tied` as in
    `DataSource.tied`."""
    _check_classes(data)
    rng = generator(seed, "split")
    test = stratified(data.y, test_rate, rng, tied) if given is None else given
    pool = test if clean_from == "test" else ~test
    share = clean_rate * len(data) / max(1, int(pool.sum()))
    if share >= 1:
        raise InvalidInput(
            f"clean_rate {clean_rate} asks for {round(clean_rate * len(data))} samples but the {clean_from} part "
            f"has {int(pool.sum())}; lower clean_rate or raise test_rate"
        )
    rows = pool.nonzero().flatten()
    clean = torch.zeros(len(data), dtype=torch.bool)
    chosen = stratified(data.y[rows], share, generator(seed, "clean"), None if tied is None else tied[rows])
    clean[rows[chosen]] = True
    parts = [mask.nonzero().flatten() for mask in (~test & ~clean, test & ~clean, clean)]
    for name, part in zip(("train", "test", "clean"), parts, strict=True):
        if len(part) == 0 and not (name == "clean" and clean_rate == 0):
            raise InvalidInput(f"the {name} part would hold no sample of {len(data)}; change test_rate or clean_rate")
    return Splits(*(data.take(part) for part in parts))


def _check_classes(data: Dataset) -> None:
    """What is split to train on has samples of every class."""
    missing = (torch.bincount(data.y, minlength=data.n_classes) == 0).nonzero().flatten().tolist()
    if not missing:
        return
    if data.classes[missing[0]] != str(missing[0]):
        raise InvalidInput(
            f"no sample of class '{data.classes[missing[0]]}'; add one, or leave out a class that no model knows"
        )
    raise InvalidInput(
        f"no sample has label {missing[0]}, labels must not skip a class; add one (renumber them only where no trained model "
        "has these labels for its outputs)"
    )


def stratified(y: Tensor, rate: float, rng: torch.Generator, tied: Tensor | None = None) -> Tensor:
    """A bool mask [n] of `rate` of each class, rounded so that the total is right to one sample, or where samples are
    `tied` as near as whole groups of them allow."""
    mask = torch.zeros(len(y), dtype=torch.bool)
    owed = 0.0
    for c in y.unique().tolist():
        rows = (y == c).nonzero().flatten()
        owed += rate * len(rows)
        n = min(len(rows), round(owed))
        chosen = rows[torch.randperm(len(rows), generator=rng)[:n]] if tied is None else _groups(rows, tied[rows], n, rng)
        owed -= len(chosen)
        mask[chosen] = True
    return mask


def _groups(rows: Tensor, tied: Tensor, n: int, rng: torch.Generator) -> Tensor:
    """Whole groups of rows in random order, as many as bring their number nearest to n."""
    own, sizes = tied.unique(return_inverse=True, return_counts=True)[1:]
    order = torch.randperm(len(sizes), generator=rng)
    reached = torch.cat([torch.zeros(1, dtype=torch.int64), sizes[order].cumsum(0)])
    taken = order[: int((reached - n).abs().argmin())]
    return rows[torch.isin(own, taken)]


def data_folder() -> Path | None:
    """The offline source of data files, if the environment names one (OSTIARY_DATA)."""
    folder = os.environ.get("OSTIARY_DATA")
    return expanded(folder) if folder else None


def find_file(path: str, room: str) -> Path:
    """`path` as given, or under OSTIARY_DATA/`room`. Raises InvalidInput where neither exists."""
    offline = data_folder()
    places = [expanded(path)] + ([offline / room / path] if offline else [])
    for place in places:
        if place.exists():
            return place
    looked = " or ".join(str(p) for p in places)
    raise InvalidInput(f"there is no file {looked}; correct the path or set OSTIARY_DATA")


def file_mark(*paths: Path, read: Callable[[PurePath], bool] = lambda _: True) -> str:
    """A digest of the contents of files, of all below folders with its names too: the same on every machine, at any time.
    read: which of a folder's files count, by their paths below it."""
    digest = hashlib.blake2b(digest_size=8)
    for path in paths:
        folder = path.is_dir()
        for file in in_order(path.rglob("*")) if folder else [path]:
            name = file.relative_to(path)
            if file.is_file() and (read(name) or not folder):
                status = file.stat()
                found = _content(str(file), status.st_size, status.st_mtime_ns)
                digest.update(f"{name.as_posix()}\0{found}\n".encode())
    return digest.hexdigest()


def in_order(paths: Iterable[P]) -> list[P]:
    """Sorted by their names, in the same way on every machine: on Windows paths themselves do not tell `B` from `b`."""
    return sorted(paths, key=lambda path: path.parts)


def member_path(name: str) -> PurePosixPath:
    """The path of a member of an archive; some of Windows' archivers part folders by backslashes."""
    return PurePosixPath(name.replace("\\", "/"))


@lru_cache(maxsize=2**17)
def _content(file: str, size: int, changed: int) -> str:
    """A digest of a file, read once per process unless its size or time of change says that it is another."""
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, lambda: hashlib.blake2b(digest_size=8)).hexdigest()
