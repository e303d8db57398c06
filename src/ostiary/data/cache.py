"""The user's cache of data sets that were read or fetched once, and what stands in where it cannot be written."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from torch import Tensor

from ostiary.console import warn_once
from ostiary.data.source import data_folder
from ostiary.errors import InvalidInput, StoreError
from ostiary.writing import expanded, write_tensors


def cache_folder() -> Path:
    """The user's cache folder of this program (XDG_CACHE_HOME honoured). Raises InvalidInput where no home folder is known."""
    named = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(named) if named else expanded("~/.cache")) / "ostiary"
    except InvalidInput as error:
        raise InvalidInput("no home folder is known here to keep data sets in; set XDG_CACHE_HOME to a folder") from error


@contextmanager
def room(name: str) -> Iterator[Path]:
    """The folder `name` of the cache, to write to; where that cannot be, a temporary one, with a warning. Raises InvalidInput
    where there is neither."""
    place = cache_folder() / name
    try:
        place.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=place).close()
    except OSError:
        with _temporary() as instead:
            yield Path(instead)
    else:
        yield place


def _temporary() -> tempfile.TemporaryDirectory[str]:
    try:
        found = tempfile.TemporaryDirectory(prefix="ostiary-", ignore_cleanup_errors=True)
    except OSError as error:
        raise InvalidInput(
            f"neither the cache folder {cache_folder()} nor a temporary one can be written ({error.strerror or error}); set "
            "XDG_CACHE_HOME to a folder that can"
        ) from error
    _warn()
    return found


def _warn() -> None:
    warn_once(
        f"the cache folder {cache_folder()} cannot be written, so that data sets are read anew each time; set XDG_CACHE_HOME "
        "to a folder that can"
    )


def cached(name: str, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors of the file `name` in the cache; `make` gives them where it is not there or damaged, with a warning where
    it cannot be written."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    home = cache_folder() / name
    if os.path.exists(home):  # Path.exists raises where a folder above may not be entered
        with suppress(SafetensorError, OSError):
            return load_file(home)
    found = {k: v.contiguous() for k, v in make().items()}
    try:
        write_tensors(found, home)
    except StoreError:
        _warn()
    return found


@contextmanager
def pyg_root(title: str, name: str) -> Iterator[Path]:
    """The root folder for one of PyG's readers, in it the raw files of OSTIARY_DATA/`title` (in small letters), where they are
    there. What fails inside raises InvalidInput."""
    offline = data_folder()
    home = offline / title.lower() if offline else None
    with room("pyg") as root:
        try:
            if home and (home / name / "raw").is_dir():
                shutil.copytree(home / name / "raw", root / name / "raw", dirs_exist_ok=True)
            yield root
        except Exception as error:
            shutil.rmtree(root / name, ignore_errors=True)  # half a download would fail for ever
            where = home or "OSTIARY_DATA (not set)"
            raise InvalidInput(f"the {title} set '{name}' is neither in {where} nor could it be fetched: {error}") from error
