"""Reading and writing weights. Nothing here unpickles: safetensors, or state dicts under `weights_only=True`."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ostiary.errors import InvalidInput, UnsafeFile
from ostiary.writing import expanded, write_tensors


def save_weights(module: nn.Module, path: str | Path) -> None:
    """All parameters and buffers as safetensors; the file appears whole or not at all. Raises InvalidInput for another ending,
    StoreError where it cannot be written."""
    write_tensors(module.state_dict(), named_safetensors(path))


def named_safetensors(path: str | Path) -> Path:
    """The path of a file to write. Raises InvalidInput for a name that promises something else."""
    place = expanded(path)
    if place.suffix != ".safetensors":
        raise InvalidInput(f"weights are written as .safetensors, not as '{place.name}'; give the file that ending")
    return place


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Tensors by name from a .safetensors file or a state dict.

    Raises UnsafeFile for a file that would run code or hold more than tensors, InvalidInput for a broken one.
    """
    place = expanded(path)
    if not place.is_file():
        raise InvalidInput(f"there is no file {place} to read weights from; correct the path")
    if place.stat().st_size == 0:
        raise InvalidInput(f"{place} is no readable weights file: it is empty; save or copy it again")
    found = _state(_loaded(place), place)
    hollow = next((k for k, v in found.items() if not _stored(v)), None)
    if hollow is not None:
        raise InvalidInput(
            f"{place} does not hold all numbers of '{hollow}' as a plain tensor; save a state_dict() of a dense model"
        )
    broken = next((k for k, v in found.items() if not _finite(v)), None)
    if broken is not None:
        raise InvalidInput(f"{place} holds NaN or infinite values in '{broken}'; give the weights of a model that works")
    return found


def _stored(value: Tensor) -> bool:
    """Whether a file holds every number of the tensor; a shape of its own choice would fill the memory."""
    if value.is_meta or value.is_quantized or value.layout is not torch.strided:
        return False
    return value.numel() * value.element_size() <= value.untyped_storage().nbytes()


def _finite(value: Tensor) -> bool:
    if value.is_complex():
        return bool(value.isfinite().all())
    return not value.is_floating_point() or bool(value.double().isfinite().all())


def _loaded(place: Path) -> Any:
    try:
        if place.suffix == ".safetensors" or _looks_safe(place):
            return load_file(place)
        with warnings.catch_warnings(action="ignore"):  # torch's remarks on the pickle protocol of what it then refuses
            return torch.load(place, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UnsafeFile(_refusal(place)) from None
    except Exception as error:  # a damaged file can end torch's reader in any way
        if "TorchScript" in str(error):  # torch advises to read it unsafely
            raise InvalidInput(f"{place} is a TorchScript archive, expected a state dict; save its state_dict()") from None
        reason = (str(error) or "it is cut short").splitlines()[0]
        if place.suffix != ".safetensors" and not zipfile.is_zipfile(place):  # else the reason tells of an unpickler's stack
            reason = "it is neither safetensors nor what torch.save writes, or was cut short"
        raise InvalidInput(f"{place} is no readable weights file: {reason}") from error


def _looks_safe(place: Path) -> bool:
    """Whether the file begins as safetensors do, whatever its name: the length of a header, and JSON."""
    with place.open("rb") as file:
        return file.read(9)[8:] == b"{"


def _state(found: Any, place: Path) -> dict[str, Tensor]:
    """The state dict that was read, or the one in a checkpoint; where it holds several, that called `state_dict`."""
    if _is_state(found):
        return dict(found)
    held = {str(k): v for k, v in found.items() if _is_state(v) and v} if isinstance(found, dict) else {}
    if len(held) == 1 or "state_dict" in held:
        return dict(held.get("state_dict") or next(iter(held.values())))
    if held:
        names = ", ".join(f"'{name}'" for name in held)
        how = f"save the one you mean alone, like torch.save(checkpoint['{next(iter(held))}'], 'weights.pt')"
        raise InvalidInput(f"{place} holds several state dicts ({names}), expected one; {how}")
    raise InvalidInput(f"{place} holds {type(found).__name__}, expected a state dict (tensors by name); save a state_dict()")


def _is_state(found: Any) -> bool:
    return isinstance(found, dict) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in found.items())


def load_weights(module: nn.Module, path: str | Path) -> None:
    """Put the weights of a file into a module. Raises InvalidInput where names or shapes differ."""
    try:
        module.load_state_dict(_unwrapped(read_weights(path), module.state_dict()))
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()]
        first = lines[1:2] or lines
        raise InvalidInput(f"the weights in {path} do not fit the module: {' '.join(first)}") from error


def _unwrapped(found: dict[str, Tensor], names: Iterable[str]) -> dict[str, Tensor]:
    """Without what DataParallel (`module.`) or torch.compile (`_orig_mod.`) put before every name, if then all names fit."""
    bare, wanted = found, set(names)
    while bare and bare.keys() != wanted:
        prefix = next(iter(bare)).partition(".")[0] + "."
        if not all(name.startswith(prefix) for name in bare):
            return found
        bare = {name.removeprefix(prefix): value for name, value in bare.items()}
    return bare


def _refusal(place: Path) -> str:
    names: list[str] = []
    try:
        names = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(place))
    except Exception:  # noqa: BLE001 - a raw pickle is no zip archive; the file stays refused either way
        names = []
    wants = f" (it asks for {', '.join(names[:3])})" if names else ""
    return f"{place} was refused: it is a pickle that could run code{wants}; ask for safetensors or a plain state dict"
