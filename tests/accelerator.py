"""A stand-in for an accelerator on a machine without one: tensors that say they are elsewhere and refuse to meet others.

Everything is computed on the CPU. Inside `pretended()` the device "cuda" exists, inside `pretended("mps")` that of Apple; what
a real one would refuse raises `WrongDevice`: operands on two devices, NumPy of a far tensor, a near generator for far numbers.
That of Apple refuses numbers of double precision, by a TypeError, as in torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_iter, tree_map_only

CUDA, APPLE = torch.device("cuda", 0), torch.device("mps", 0)
DOUBLE = (torch.float64, torch.complex128)
_now = CUDA  # which of them there is


class WrongDevice(RuntimeError):
    """What a machine with an accelerator would refuse."""


class Far(Tensor):
    """A tensor that claims to be on the accelerator."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        if id(self) not in memo:
            other = far(near(self.detach()).clone())
            memo[id(self)] = Parameter(other, self.requires_grad) if isinstance(self, Parameter) else other
        return memo[id(self)]  # type: ignore[no-any-return]


def far(value: Tensor) -> Tensor:
    if isinstance(value, Far):
        return value
    if _now == APPLE and value.dtype in DOUBLE:
        raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64.")
    if value.is_leaf and value.requires_grad:  # as_subclass would make it a result of the other
        return value.detach().as_subclass(Far).requires_grad_()
    return value.as_subclass(Far)


def near(value: Tensor) -> Tensor:
    return value.as_subclass(Tensor) if isinstance(value, Far) else value


# a generator on the CPU may not fill a tensor elsewhere; these may mix devices or look at a tensor without computing
FREE = {"copy_", "to", "cpu", "cuda", "type_as", "set_", "__setitem__", "__getitem__", "as_subclass", "set_data", "__set__"}
FREE |= {
    "_has_compatible_shallow_copy_type",
    "is_pinned",
    "save",
    "__deepcopy__",
    "__reduce_ex__",
    "data_ptr",
    "has_torch_function",
    "__format__",
    "__repr__",
}
HOST = {"numpy", "__array__", "from_numpy"}


class _Mode(TorchFunctionMode):
    def __torch_function__(  # noqa: PLR0911 - one operation, one line
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", str(func))
        if func == torch.Tensor.device.__get__:  # type: ignore[attr-defined]
            return _now if isinstance(args[0], Far) else func(*args)
        if func == torch.Tensor.is_cuda.__get__:  # type: ignore[attr-defined]
            return isinstance(args[0], Far) and _now == CUDA
        given = [x for x in tree_iter((args, kwargs)) if isinstance(x, Tensor)]
        here = any(isinstance(x, Far) for x in given)
        wanted, args, kwargs = _destination(name, args, kwargs)
        wanted = "cpu" if name == "cpu" else wanted
        if name == _now.type:
            return far(args[0])
        if here and name in HOST:
            raise WrongDevice(f"{name}() of a tensor on {_now}")
        if here and name not in FREE:
            strangers = [x for x in given if not isinstance(x, Far) and x.ndim > 0]
            if strangers:
                raise WrongDevice(f"{name}() of tensors on {_now} and cpu: {[tuple(x.shape) for x in given]}")
        if name in ("__getitem__", "__setitem__"):
            _check_index(name, args)
        near_rng = any(isinstance(x, torch.Generator) for x in tree_iter((args, kwargs)))
        if near_rng and (wanted == _now.type or (here and name != "seed")):
            raise WrongDevice(f"{name}() on {_now} with a generator of the CPU")
        result = func(*args, **kwargs)
        if wanted is not None:
            return tree_map_only(Tensor, far if wanted == _now.type else near, result)
        if name in ("copy_", "__setitem__", "set_"):
            return result
        if name in ("to", "type_as") and len(given) > 1:
            return (far if isinstance(given[1], Far) else near)(result)
        return tree_map_only(Tensor, far, result) if here else result


def _destination(
    name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[str | None, tuple[Any, ...], dict[str, Any]]:
    """The device an operation asks for, and its arguments with the CPU in that place."""
    wanted = None

    def here(value: Any) -> Any:
        nonlocal wanted
        if isinstance(value, torch.device) or (isinstance(value, str) and value.split(":")[0] in ("cpu", _now.type)):
            wanted = torch.device(value).type
            return torch.device("cpu")
        return value

    if "device" in kwargs and kwargs["device"] is not None:
        kwargs["device"] = here(kwargs["device"])
    if name == "to":
        args = (args[0], *map(here, args[1:]))
    return wanted, args, kwargs


def _check_index(name: str, args: tuple[Any, ...]) -> None:
    held, index = args[0], args[1]
    if not isinstance(held, Far):
        if any(isinstance(x, Far) and x.ndim > 0 for x in tree_iter(index) if isinstance(x, Tensor)):
            raise WrongDevice("a tensor on the CPU indexed by one elsewhere")
        return
    advanced = any(isinstance(x, Tensor) for x in tree_iter(index))
    value = args[2] if name == "__setitem__" else None
    if advanced and isinstance(value, Tensor) and not isinstance(value, Far) and value.ndim > 0:
        raise WrongDevice("values on the CPU put at places of a tensor elsewhere")


@contextmanager
def pretended(kind: str = "cuda") -> Iterator[torch.device]:
    """Inside, this device ("cuda" or "mps") can be used; where there is a real one, that is what is used."""
    global _now  # noqa: PLW0603 - a tensor knows no more than that it is elsewhere
    device = {"cuda": CUDA, "mps": APPLE}[kind]
    if (torch.cuda if kind == "cuda" else torch.mps).is_available():
        yield device
        return
    was = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    parse = torch._C._nn._parse_to

    def parsed(*args: Any, **kwargs: Any) -> Any:  # of Module.to(tensor), which looks past what a tensor says
        found = parse(*args, **kwargs)
        return (device, *found[1:]) if args and isinstance(args[0], Far) else found

    before, _now = _now, device
    try:
        with patch.object(torch._C._nn, "_parse_to", parsed), _Mode():
            yield device
    finally:
        _now = before
        torch.__future__.set_overwrite_module_params_on_conversion(was)
