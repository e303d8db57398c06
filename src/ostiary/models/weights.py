"""Reading and writing weights. Nothing here unpickles: safetensors, or state dicts under `weights_only=True`."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ostiary.errors import InvalidInput, UnsafeFile


def save_weights(module: nn.Module, path: str | Path) -> None:
    """All parameters and buffers as safetensors."""
    save_file({k: v.detach().cpu().contiguous().clone() for k, v in module.state_dict().items()}, path)


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Tensors by name from a .safetensors file or a state dict.

    Raises UnsafeFile for a file that would run code or hold more than tensors, InvalidInput for a broken one.
    """
    place = Path(path).expanduser()
    if not place.is_file():
        raise InvalidInput(f"there is no file {place} to read weights from; correct the path")
    try:
        if place.suffix == ".safetensors":
            return load_file(place)
        with warnings.catch_warnings(action="ignore"):  # torch's remarks on the pickle protocol of what it then refuses
            found = torch.load(place, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UnsafeFile(_refusal(place)) from None
    except Exception as error:  # a damaged file can end torch's reader in any way
        reason = (str(error) or "it is cut short").splitlines()[0]
        raise InvalidInput(f"{place} is no readable weights file: {reason}") from error
    if isinstance(found, dict) and isinstance(found.get("state_dict"), dict):
        found = found["state_dict"]
    if not isinstance(found, dict) or not all(isinstance(v, Tensor) for v in found.values()):
        raise InvalidInput(f"{place} holds {type(found).__name__}, expected a state dict (tensors by name)")
    return found


def load_weights(module: nn.Module, path: str | Path) -> None:
    """Put the weights of a file into a module. Raises InvalidInput where names or shapes differ."""
    try:
        module.load_state_dict(read_weights(path))
    except RuntimeError as error:
        first = [line.strip() for line in str(error).splitlines()][1:2]
        raise InvalidInput(f"the weights in {path} do not fit the module: {' '.join(first)}") from error


def _refusal(place: Path) -> str:
    names: list[str] = []
    try:
        names = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(place))
    except Exception:  # noqa: BLE001 - a raw pickle is no zip archive; the file stays refused either way
        names = []
    wants = f" (it asks for {', '.join(names[:3])})" if names else ""
    return f"{place} was refused: it is a pickle that could run code{wants}; ask for safetensors or a plain state dict"
