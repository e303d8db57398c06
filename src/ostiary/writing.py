"""Paths as users write them, and files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ostiary.errors import InvalidInput, StoreError

if TYPE_CHECKING:
    from torch import Tensor


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Where to write what shall stand at `path`, whose folder is made: it appears there whole or not at all.

    A device or pipe is written as it is, a link is followed. Raises StoreError where it cannot be written.
    """
    place = Path(os.path.realpath(path))
    part = place.with_name(f".part-{secrets.token_hex(8)}")  # nobody can have put a link there, and no name is too long for it
    try:
        if path.exists() and not path.is_file():  # to rename onto /dev/stdout would put a file in its place
            yield path
            return
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield part
            os.replace(part, place)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        if isinstance(error, StoreError):
            raise
        raise StoreError(f"{path} cannot be written ({error.strerror or error}); choose another place") from error


def write_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Tensors by name as a safetensors file, through `whole`. Raises StoreError where it cannot be written."""
    from safetensors.torch import save

    content = save({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}, metadata)
    with whole(path) as part:
        part.write_bytes(content)  # its own save_file tells of no full disk, and puts a file in the place of a link to a device


def expanded(path: str | Path) -> Path:
    """The path with the home folder for `~`. Raises InvalidInput where none is known."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise InvalidInput(f"no home folder is known here for the ~ of {path}; give the whole path, or set HOME") from error
