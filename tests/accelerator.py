"""A stand-in for an accelerator on a machine without one: tensors that say they are elsewhere and refuse to meet others.

Everything is computed on the CPU. Inside `pretended()` the device "cuda" exists; an operation that a real one would refuse
raises `WrongDevice`: operands on two devices, NumPy of a far tensor, a near generator for far numbers.
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

FAR = torch.device("cuda", 0)


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
            return FAR if isinstance(args[0], Far) else func(*args)
        if func == torch.Tensor.is_cuda.__get__:  # type: ignore[attr-defined]
            return isinstance(args[0], Far)
        given = [x for x in tree_iter((args, kwargs)) if isinstance(x, Tensor)]
        here = any(isinstance(x, Far) for x in given)
        wanted, args, kwargs = _destination(name, args, kwargs)
        wanted = "cpu" if name == "cpu" else wanted
        if name == "cuda":
            return far(args[0])
        if here and name in HOST:
            raise WrongDevice(f"{name}() of a tensor on {FAR}")
        if here and name not in FREE:
            strangers = [x for x in given if not isinstance(x, Far) and x.ndim > 0]
            if strangers:
                raise WrongDevice(f"{name}() of tensors on {FAR} and cpu: {[tuple(x.shape) for x in given]}")
        if name in ("__getitem__", "__setitem__"):
            _check_index(name, args)
        near_rng = any(isinstance(x, torch.Generator) for x in tree_iter((args, kwargs)))
        if near_rng and (wanted == "cuda" or (here and name != "seed")):
            raise WrongDevice(f"{name}() on {FAR} with a generator of the CPU")
        result = func(*args, **kwargs)
        if wanted is not None:
            return tree_map_only(Tensor, far if wanted == "cuda" else near, result)
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
        if isinstance(value, torch.device) or (isinstance(value, str) and value.split(":")[0] in ("cpu", "cuda")):
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
def pretended() -> Iterator[torch.device]:
    """Inside, the device "cuda" can be used; where there is a real one, that is what is used."""
    if torch.cuda.is_available():
        yield FAR
        return
    was = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    parse = torch._C._nn._parse_to

    def parsed(*args: Any, **kwargs: Any) -> Any:  # of Module.to(tensor), which looks past what a tensor says
        found = parse(*args, **kwargs)
        return (FAR, *found[1:]) if args and isinstance(args[0], Far) else found

    try:
        with patch.object(torch._C._nn, "_parse_to", parsed), _Mode():
            yield FAR
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(was)
