"""Images from scikit-learn, local .npz files, image folders and, if installed, torchvision."""

from __future__ import annotations

from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ostiary.component import NonNegative, Positive, Rate, build
from ostiary.data.dataset import Dataset
from ostiary.data.source import DataSource, cache_folder, file_mark, find_file
from ostiary.data.torchvision_import import import_torchvision
from ostiary.errors import InvalidInput, MissingPackage


class Digits(DataSource, name="digits"):
    """1,797 handwritten digits, 8 x 8 grey, from scikit-learn; up-sampled to `size` pixels a side (bilinear)."""

    modalities = frozenset({"image"})
    clean_rate: Rate = 0.05
    size: Positive = 16

    def read(self) -> tuple[Dataset, Tensor | None]:
        from sklearn.datasets import load_digits

        pixels, y = load_digits(return_X_y=True)
        images = torch.from_numpy(pixels).float().reshape(-1, 1, 8, 8) / 16
        if self.size != 8:
            images = F.interpolate(images, self.size, mode="bilinear", align_corners=False).clamp(0, 1)
        return _images(images, torch.from_numpy(y)), None


class Npz(DataSource, name="npz"):
    """Images from .npz files with `images` (uint8, n x h x w x c) and `labels`; `classes` (names) if present.

    `path` and `test` are looked up as given, then under OSTIARY_DATA/images. Without `test`, a part is split off.
    `limit` keeps the first so many training images of each class (0: all).
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
            keep = torch.cat([(train[1] == c).nonzero().flatten()[: self.limit] for c in train[1].unique()]).sort()[0]
            train = (train[0][keep], train[1][keep], train[2])
        if not self.test:
            return _images(*train), None
        test = _read_npz(self.test)
        if train[0].shape[1:] != test[0].shape[1:]:
            raise InvalidInput(f"{self.path} and {self.test} hold images of different shapes; resize one of them")
        mask = torch.arange(len(train[0]) + len(test[0])) >= len(train[0])
        return _images(torch.cat([train[0], test[0]]), torch.cat([train[1], test[1]]), train[2]), mask


class ImageFolder(DataSource, name="image-folder"):
    """A folder with one sub-folder of images per class (`path`), resized to `size` pixels a side, RGB. Needs Pillow."""

    modalities = frozenset({"image"})
    clean_rate: Rate = 0.05
    path: str
    size: Positive = 32

    def content(self) -> str:
        return file_mark(find_file(self.path, "images"))

    def read(self) -> tuple[Dataset, Tensor | None]:
        try:
            from PIL import Image, UnidentifiedImageError
        except ImportError as error:
            raise MissingPackage("Pillow", "vision") from error
        root = find_file(self.path, "images")
        folders = sorted(p for p in root.iterdir() if p.is_dir()) if root.is_dir() else []
        kinds = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm"}
        files = [(c, f) for c, p in enumerate(folders) for f in sorted(p.rglob("*")) if f.suffix.lower() in kinds]
        if not files:
            raise InvalidInput(f"{root} holds no sub-folder with images; expected one sub-folder per class")
        images = torch.empty(len(files), 3, self.size, self.size)
        for i, (_, file) in enumerate(files):
            try:
                with Image.open(file) as picture:
                    pixels = np.asarray(picture.convert("RGB").resize((self.size, self.size), Image.Resampling.BILINEAR))
            except (UnidentifiedImageError, OSError) as error:
                raise InvalidInput(f"{file} cannot be read as an image ({error}); remove or replace it") from error
            images[i] = torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 255
        return _images(images, torch.tensor([c for c, _ in files]), tuple(p.name for p in folders)), None


class Torchvision(DataSource, name="torchvision"):
    """A data set of torchvision by its class name in `set` (CIFAR10, SVHN, ...), kept in the user's cache folder."""

    modalities = frozenset({"image"})
    clean_rate: Rate = 0.05
    set: str = "CIFAR10"

    def read(self) -> tuple[Dataset, Tensor | None]:
        datasets = import_torchvision().datasets
        if not hasattr(datasets, self.set):
            raise InvalidInput(f"torchvision has no data set '{self.set}'")
        cls, root = getattr(datasets, self.set), str(cache_folder() / "torchvision")
        try:  # the two ways torchvision's classes name their halves
            halves = [cls(root, train=flag, download=True) for flag in (True, False)]
        except TypeError:
            halves = [cls(root, split=flag, download=True) for flag in ("train", "test")]
        pixels = [torch.from_numpy(np.stack([np.asarray(x) for x, _ in half])) for half in halves]
        pixels = [p.unsqueeze(-1) if p.ndim == 3 else p for p in pixels]
        labels = [torch.tensor([y for _, y in half]) for half in halves]
        images = torch.cat(pixels).permute(0, 3, 1, 2).float() / 255
        mask = torch.arange(len(images)) >= len(pixels[0])
        return _images(images, torch.cat(labels), tuple(getattr(halves[0], "classes", ()) or ())), mask


def _images(images: Tensor, y: Tensor, classes: tuple[str, ...] = ()) -> Dataset:
    return Dataset.of(images, y, build("modality", "image"), classes or None)


def _read_npz(path: str) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    place: Path = find_file(path, "images")
    try:
        with place.open("rb") as file, np.load(file, allow_pickle=False) as z:
            images, labels = z["images"], z["labels"]
            classes = tuple(map(str, z["classes"])) if "classes" in z.files else ()
    except (ValueError, KeyError, OSError, EOFError, BadZipFile) as error:
        raise InvalidInput(f"{place} is no .npz with arrays 'images' and 'labels': {error}") from error
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.dtype != np.uint8:
        raise InvalidInput(f"{place}: 'images' must be uint8 [n, h, w, c], got {images.dtype} {images.shape}")
    if labels.dtype.kind not in "iu":
        raise InvalidInput(f"{place}: 'labels' must be integers 0, 1, ..., got {labels.dtype}")
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255, torch.from_numpy(labels.astype(np.int64)), classes
