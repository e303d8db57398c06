"""Images in a folder, or in a zip archive of one."""

from __future__ import annotations

import zipfile
from io import BytesIO
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ostiary.component import NonNegative, Positive, Rate
from ostiary.data.dataset import Dataset
from ostiary.data.images import first_of_each, image_data
from ostiary.data.source import DataSource, file_mark, find_file, member_path
from ostiary.errors import InvalidInput, MissingPackage

FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "PPM")  # Pillow goes by content, and would have Ghostscript run an EPS
KINDS = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm"})
TESTS = ("test", "val", "valid", "validation")  # names of the folder that is the judge's
LARGEST = 2**26  # bytes of one image in an archive
ASIDE = frozenset({"__MACOSX", "__pycache__"})  # what systems put beside data, as they do names that begin with a dot


class ImageFolder(DataSource, name="image-folder"):
    """A folder with one sub-folder of images per class (`path`), resized to `size` pixels a side, RGB. Needs Pillow.

    `path` may be a .zip archive of such a folder, and is looked up as given, then under OSTIARY_DATA/images. A folder that
    holds `train` and `test` (or `val`) instead keeps that split. Hidden files, and files that are no images, do not count.
    `limit` keeps the first so many training images of each class
    (0: all).
    """

    modalities = frozenset({"image"})
    clean_rate: Rate = 0.05
    path: str
    size: Positive = 32
    limit: NonNegative = 0

    def content(self) -> str:
        return file_mark(find_file(self.path, "images"), read=_is_image)  # a look at a folder leaves other files in it

    def read(self) -> tuple[Dataset, Tensor | None]:
        pillow, root = _pillow(), find_file(self.path, "images")
        files, folders = _files(root)
        parts = {name.parts[0].lower() for name in files if len(name.parts) > 2}
        test = next((t for t in TESTS if {"train", t} == parts), "")
        at = 1 if test else 0  # where the class stands
        held = [name for name in files if len(name.parts) > at + 1]
        classes = sorted({name.parts[at] for name in held})
        if not classes:
            raise InvalidInput(f"{root} holds no sub-folder with images; expected one sub-folder per class")
        if empty := sorted({f.parts[at] for f in folders if len(f.parts) == at + 1} - {*classes}):
            raise InvalidInput(f"{root}: no image of class '{empty[0]}'; fill its folder, or delete it where no model knows it")
        y = torch.tensor([classes.index(name.parts[at]) for name in held])
        judged = torch.tensor([bool(test) and name.parts[0].lower() == test for name in held])
        if self.limit:
            kept = judged.clone()
            train = (~judged).nonzero().flatten()
            kept[train[first_of_each(y[train], self.limit)]] = True
            held, y, judged = [n for n, k in zip(held, kept.tolist(), strict=True) if k], y[kept], judged[kept]
        images = torch.empty(len(held), 3, self.size, self.size, dtype=torch.float32)
        with _Reader(pillow, root, (self.size, self.size)) as reader:
            for i, name in enumerate(held):
                images[i] = reader.pixels(files[name])
        return image_data(images, y, tuple(classes)), judged if test else None


def _files(root: Path) -> tuple[dict[PurePosixPath, str], list[PurePosixPath]]:
    """(of every image its path below the folder of the classes: its path in the file system or archive; folders there)."""
    if root.is_dir():
        every = [(PurePosixPath(f.relative_to(root).as_posix()), str(f), f.is_dir()) for f in root.rglob("*")]
    else:
        try:
            with zipfile.ZipFile(root) as archive:
                names = [i.filename for i in archive.infolist()]
                every = [(member_path(name), name, name.endswith(("/", "\\"))) for name in names]
        except (zipfile.BadZipFile, OSError) as error:
            raise InvalidInput(f"{root} is neither a folder nor a .zip of one ({error}); correct path") from error
    images = [(name, place) for name, place, folder in every if _is_image(name) and not folder]
    outer = {name.parts[0] for name, _ in images}
    shift = 1 if len(outer) == 1 and all(len(name.parts) > 2 for name, _ in images) else 0  # one folder around all
    folders = [name for name, _, folder in every if folder and not _aside(name)]
    below = [PurePosixPath(*n.parts[shift:]) for n in folders if len(n.parts) > shift and (not shift or n.parts[0] in outer)]
    return dict(sorted((PurePosixPath(*name.parts[shift:]), place) for name, place in images)), below


def _is_image(name: PurePath) -> bool:
    """Whether the file of this path, below the folder of the data set, is one of its images."""
    return name.suffix.lower() in KINDS and not _aside(name)


def _aside(name: PurePath) -> bool:
    return any(part.startswith(".") or part in ASIDE for part in name.parts)


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingPackage("Pillow", "vision", error, "PIL") from error
    return Image


def read_picture(path: str, channels: int, height: int, width: int) -> Tensor:
    """The picture in a file, looked up as given, then under OSTIARY_DATA/images: float [channels, height, width] in [0, 1].

    Grey, by luma, for one channel. Raises InvalidInput where there is no such file or it is no image.
    """
    pillow, file = _pillow(), find_file(path, "images")
    return _Reader(pillow, file.parent, (width, height), "L" if channels == 1 else "RGB").pixels(str(file))


class _Reader:
    """Opens images of a folder or an archive at one size (width, height) and in one mode of Pillow's."""

    def __init__(self, pillow: Any, root: Path, size: tuple[int, int], mode: str = "RGB") -> None:
        self.pillow, self.size, self.mode, self.unknown = pillow, size, mode, pillow.UnidentifiedImageError
        self.archive = None if root.is_dir() else zipfile.ZipFile(root)

    def __enter__(self) -> _Reader:
        return self

    def __exit__(self, *_: object) -> None:
        if self.archive is not None:
            self.archive.close()

    def pixels(self, place: str) -> Tensor:
        """float [channels, height, width] in [0, 1]."""
        try:
            with self.pillow.open(self._opened(place), formats=FORMATS) as picture:
                rows = np.asarray(picture.convert(self.mode).resize(self.size, self.pillow.Resampling.BILINEAR))
        except Exception as error:  # a damaged or encrypted file can end zipfile and Pillow in any way
            reason = "none of " + ", ".join(FORMATS) if isinstance(error, self.unknown) else error
            raise InvalidInput(f"{place} cannot be read as an image ({reason}); remove or replace it") from error
        pixels = torch.from_numpy(rows.copy()).float() / 255
        return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)

    def _opened(self, place: str) -> str | BytesIO:
        if self.archive is None:
            return place
        if self.archive.getinfo(place).file_size > LARGEST:
            raise InvalidInput(f"{place} is larger than {LARGEST >> 20} MiB, which is no image to train on; remove it")
        return BytesIO(self.archive.read(place))
