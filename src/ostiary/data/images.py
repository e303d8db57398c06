"""Images from scikit-learn, local .npz files and, if installed, torchvision."""

from __future__ import annotations

import contextlib
import os
import zlib
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ostiary.component import NonNegative, Positive, Rate, build
from ostiary.data.cache import cache_folder, room
from ostiary.data.dataset import Dataset
from ostiary.data.source import DataSource, file_mark, find_file
from ostiary.data.torchvision_import import import_torchvision
from ostiary.errors import InvalidInput


class Digits(DataSource, name="digits"):
    """1,797 handwritten digits, 8 x 8 grey, from scikit-learn; up-sampled to `size` pixels a side (bilinear), in 8 bits."""

    modalities = frozenset({"image"})
    clean_rate: Rate = 0.05
    size: Positive = 16

    def content(self) -> str:
        return "8 bits"

    def read(self) -> tuple[Dataset, Tensor | None]:
        from sklearn.datasets import load_digits

        pixels, y = load_digits(return_X_y=True)
        images = torch.from_numpy(pixels).float().reshape(-1, 1, 8, 8) / 16
        if self.size != 8:
            images = F.interpolate(images, self.size, mode="bilinear", align_corners=False).clamp(0, 1)
        return image_data((images * 255).round() / 255, torch.from_numpy(y)), None  # as image files hold them


class Npz(DataSource, name="npz"):
    """Images from .npz files with `images` (uint8, n x h x w x c) and `labels`; `classes` (names) if present.

    `images` may be float32 from 0 to 1, too. `path` and `test` are looked up as given, then under OSTIARY_DATA/images. Without
    `test`, a part is split off. `limit` keeps the first so many training images of each class (0: all). `tracks` (integers), if
    present: images of one track and label are near copies, as frames of a video are, and stay in one part.
    """

    modalities = frozenset({"image"})
    clean_rate: Rate = 0.05
    path: str
    test: str = ""
    limit: NonNegative = 0

    def content(self) -> str:
        return file_mark(*(find_file(p, "images") for p in (self.path, self.test) if p))

    def read(self) -> tuple[Dataset, Tensor | None]:
        train = _read_npz(self.path)
        if self.limit:
            keep = first_of_each(train[1], self.limit)
            train = (train[0][keep], train[1][keep], train[2])
        if not self.test:
            return image_data(*train), None
        test = _read_npz(self.test)
        if train[0].shape[1:] != test[0].shape[1:]:
            raise InvalidInput(f"{self.path} and {self.test} hold images of different shapes; resize one of them")
        if train[2] and test[2] and train[2] != test[2]:
            raise InvalidInput(f"{self.path} and {self.test} name different classes; give both the same, in the same order")
        mask = torch.arange(len(train[0]) + len(test[0])) >= len(train[0])
        return image_data(torch.cat([train[0], test[0]]), torch.cat([train[1], test[1]]), train[2] or test[2]), mask

    def tied(self) -> Tensor | None:
        found = [_tracks(path) for path in (self.path, self.test) if path]
        if all(tracks is None for tracks, _ in found):
            return None
        parts = list[Tensor]()
        for tracks, y in found:
            own = torch.arange(len(y)) if tracks is None else tracks * (int(y.max()) + 1) + y  # of a file without, each alone
            parts.append(own + (int(parts[-1].max()) + 1 if parts else 0))
        return torch.cat([parts[0][first_of_each(found[0][1], self.limit)] if self.limit else parts[0], *parts[1:]])


def first_of_each(y: Tensor, limit: int) -> Tensor:
    """The first `limit` rows of each class, in their order."""
    return torch.cat([(y == c).nonzero().flatten()[:limit] for c in y.unique()]).sort()[0]


class Torchvision(DataSource, name="torchvision"):
    """A data set of torchvision by its class name in `set` (CIFAR10, SVHN, ...), kept in the user's cache folder."""

    modalities = frozenset({"image"})
    clean_rate: Rate = 0.05
    set: str = "CIFAR10"

    def read(self) -> tuple[Dataset, Tensor | None]:
        datasets = import_torchvision().datasets
        if not hasattr(datasets, self.set):
            raise InvalidInput(f"torchvision has no data set '{self.set}'")
        cls, home = getattr(datasets, self.set), cache_folder() / "torchvision"
        # what is there already can be read where nothing can be written
        with contextlib.nullcontext(home) if os.path.isdir(home) else room("torchvision") as root:
            try:  # the two ways torchvision's classes name their halves
                halves = [cls(str(root), train=flag, download=True) for flag in (True, False)]
            except TypeError:
                halves = [cls(str(root), split=flag, download=True) for flag in ("train", "test")]
            pixels = [torch.from_numpy(np.stack([np.asarray(x) for x, _ in half])) for half in halves]
            labels = [torch.tensor([y for _, y in half]) for half in halves]
        pixels = [p.unsqueeze(-1) if p.ndim == 3 else p for p in pixels]
        images = torch.cat(pixels).permute(0, 3, 1, 2).float() / 255
        mask = torch.arange(len(images)) >= len(pixels[0])
        return image_data(images, torch.cat(labels), tuple(getattr(halves[0], "classes", ()) or ())), mask


def image_data(images: Tensor, y: Tensor, classes: tuple[str, ...] = ()) -> Dataset:
    return Dataset.of(images, y, build("modality", "image"), classes or None)


def _read_npz(path: str) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    place, held = _arrays(path, "classes")
    images, labels = held["images"], held["labels"]
    names = held.get("classes", np.empty(0, "U1"))
    if names.ndim != 1:
        raise InvalidInput(f"{place}: 'classes' must be a list of names, got {names.shape}")
    classes = tuple(map(str, names))
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.dtype not in (np.uint8, np.float32):
        wanted = "uint8, or float32 from 0 to 1, [n, h, w, c]"
        raise InvalidInput(f"{place}: 'images' must be {wanted}, got {images.dtype} {images.shape}")
    if images.shape[3] not in (1, 3):
        remedy = "move the channels last" if images.shape[1] in (1, 3) else "make them grey or RGB"
        raise InvalidInput(f"{place}: 'images' must be [n, height, width, 1 or 3], got {images.shape}; {remedy}")
    if labels.dtype.kind not in "iu":
        raise InvalidInput(f"{place}: 'labels' must be integers 0, 1, ..., got {labels.dtype}")
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
    return pixels.float() / (255 if images.dtype == np.uint8 else 1), torch.from_numpy(labels.astype(np.int64)), classes


def _arrays(path: str, extra: str, needed: tuple[str, ...] = ("images", "labels")) -> tuple[Path, dict[str, Any]]:
    """The file, and the arrays that it needs and, if present, `extra`."""
    place = find_file(path, "images")
    try:
        with place.open("rb") as file, np.load(file, allow_pickle=False) as z:
            return place, {name: z[name] for name in (*needed, extra) if name in needed or name in z.files}
    except (ValueError, KeyError, OSError, EOFError, TypeError, BadZipFile, zlib.error):  # TypeError: an .npy is no archive
        wanted = ".npz with arrays 'images' and 'labels', free of Python objects"
        raise InvalidInput(f"{place} is no {wanted}; write it with numpy.savez") from None  # NumPy's own advice is unsafe


def _tracks(path: str) -> tuple[Tensor | None, Tensor]:
    """(tracks, labels) of a file that `_read_npz` has read."""
    held = _arrays(path, "tracks", ("labels",))[1]
    labels, tracks = torch.from_numpy(held["labels"].astype(np.int64)), held.get("tracks")
    if tracks is not None and (tracks.dtype.kind not in "iu" or tracks.shape != labels.shape):
        raise InvalidInput(f"{path}: 'tracks' must be one integer per image, got {tracks.dtype} {tracks.shape}")
    return None if tracks is None else torch.from_numpy(tracks.astype(np.int64)), labels
