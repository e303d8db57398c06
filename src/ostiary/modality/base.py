"""The contract of a kind of input. A batch is a small data set: both are the same type, sliced by index."""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Callable, Mapping
from functools import lru_cache
from types import MethodType
from typing import TYPE_CHECKING, Any, ClassVar, cast

from torch import Generator, Tensor, device, nn

from ostiary.component import Component, Json
from ostiary.errors import Unsupported

if TYPE_CHECKING:
    from ostiary.data.dataset import Splits
    from ostiary.triggers.base import Trigger

Inputs = Any  # Graphs, an image tensor [n, c, h, w], ...


class Modality(Component):
    """How one kind of input is sliced, joined, checked, shown to a module and compared."""

    kind = "modality"
    chunk: ClassVar[int] = 512  # inputs per forward pass when no gradient is kept

    @abstractmethod
    def count(self, inputs: Inputs) -> int: ...

    @abstractmethod
    def take(self, inputs: Inputs, index: Tensor) -> Inputs:
        """The inputs at `index` (int64 [m]), in that order; repeats allowed."""

    @abstractmethod
    def join(self, parts: list[Inputs]) -> Inputs:
        """One after the other."""

    @abstractmethod
    def put(self, inputs: Inputs, at: Tensor, new: Inputs) -> Inputs:
        """A copy in which the inputs at `at` are replaced by `new`, one for one."""

    @abstractmethod
    def move(self, inputs: Inputs, where: device) -> Inputs: ...

    @abstractmethod
    def validate(self, inputs: Inputs, what: str) -> None:
        """Raise InvalidInput, in one sentence that starts with `what`, if no model should see these inputs."""

    @abstractmethod
    def pack(self, inputs: Inputs) -> dict[str, Tensor]:
        """Plain tensors, for hashing and for safetensors."""

    @abstractmethod
    def unpack(self, tensors: dict[str, Tensor]) -> Inputs: ...

    def exported(self, inputs: Inputs) -> dict[str, Tensor]:
        """Tensors under the names that they have in files for other tools."""
        return self.pack(inputs)

    @abstractmethod
    def describe(self, inputs: Inputs) -> dict[str, Json]:
        """What an architecture must know: widths, channels, sizes."""

    @abstractmethod
    def arguments(self, batch: Inputs) -> dict[str, Any]:
        """The keyword arguments a module may ask for by name; `None` values are optional ones."""

    @abstractmethod
    def stages(self, module: nn.Module, batch: Inputs, call: Callable[[Inputs], Tensor]) -> tuple[str, ...]:
        """Names of the submodules whose outputs stand for the layers, first to last. `call` runs the module."""

    @abstractmethod
    def pool(self, features: Tensor, batch: Inputs) -> Tensor:
        """Layer features as one vector per input: float [b, d]."""

    @abstractmethod
    def difference(self, before: Inputs, after: Inputs) -> dict[str, Tensor]:
        """How far `after` is from `before`, one number per input and measure; `changed` (0/1) is always there."""

    @abstractmethod
    def vary(self, inputs: Inputs, rng: Generator) -> Inputs:
        """Inputs near the given ones that would keep their class: what a defender with few samples makes more of."""

    def distort(self, inputs: Inputs, rng: Generator) -> Inputs:
        """Inputs changed so strongly that a trigger is moved or torn, while a careful model would still know the class."""
        raise self._lacks("distorted")

    def superpose(self, inputs: Inputs, others: Inputs, mean: bool = False) -> Inputs:
        """Each input with the other of its row on top, one for one; both show, so that a trigger in either still does. mean:
        half of each, where inputs can be halved."""
        raise self._lacks("superposed")

    def unperturbed(self, inputs: Inputs, *, shared: bool = False) -> Tensor:
        """The perturbation that changes nothing: zeros, one row for whatever of the inputs may be perturbed (a pixel grid,
        a node's features); one row for all where it is `shared`. Budgets are per entry, in units of the inputs."""
        raise self._lacks("perturbed")

    def perturb(self, inputs: Inputs, by: Tensor) -> Inputs:
        """The inputs plus a perturbation shaped as `unperturbed`, kept in the range of valid inputs; passes gradients."""
        raise self._lacks("perturbed")

    def _lacks(self, what: str) -> Unsupported:
        return Unsupported(f"{self.name} inputs cannot be {what}")

    @abstractmethod
    def sketch(self, before: Inputs, after: Inputs) -> list[Json]:
        """What a report needs to draw each input beside its stamped form."""

    def accepts(self, module: nn.Module, name: str) -> bool:
        return name in _parameters(module)

    def call(self, module: nn.Module, batch: Inputs) -> Tensor:
        """The default forward: arguments by parameter name, else the first ones by position."""
        offered = self.arguments(batch)
        parameters = _parameters(module)
        named = {n: offered[n] for n in parameters if n in offered and offered[n] is not None}
        if named:
            return cast(Tensor, module(**named))
        required = [p for p in parameters.values() if p.default is p.empty and p.kind <= p.POSITIONAL_OR_KEYWORD]
        given = [v for v in offered.values() if v is not None]
        return cast(Tensor, module(*given[: max(1, len(required))]))

    def handed_out(self, inputs: Inputs) -> Inputs:
        """Inputs as whoever gets the data set reads them, after the precision that such files have."""
        return inputs

    def as_held(self, inputs: Inputs) -> Inputs:
        """Inputs as a defender holds them, without what only the attacker can tell of a trigger's traces."""
        return inputs

    def stamp(self, splits: Splits, part: str, at: Tensor, trigger: Trigger, *, seed: int, target: Tensor) -> Splits:
        """The splits with `trigger` on the inputs at `at` of `part`. (Node tasks share one graph, hence whole splits.)"""
        data = getattr(splits, part)
        rows = data.take(at)
        stamped = self.handed_out(trigger.apply(rows.inputs, rows.ids, seed=seed, target=target))
        self.validate(stamped, f"a trigger of type {type(trigger).__name__} made an invalid input")
        return splits.with_part(part, data.put(at, stamped))


def _parameters(module: nn.Module) -> Mapping[str, inspect.Parameter]:
    """The parameters of the module's forward, without `self`."""
    forward = module.forward
    return _of_method(forward.__func__) if isinstance(forward, MethodType) else inspect.signature(forward).parameters


@lru_cache(maxsize=64)
def _of_method(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """Remembered, since reading a signature costs as much as a layer."""
    return inspect.signature(MethodType(function, object())).parameters
