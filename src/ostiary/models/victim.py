"""Victim: any nn.Module, how to call it, and where its features are. The library sees models only through this."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ostiary.component import build
from ostiary.console import warn_once
from ostiary.data.dataset import Trial
from ostiary.devices import plain_defaults
from ostiary.errors import BadSpec, InvalidInput, OstiaryError, Unsupported
from ostiary.modality.base import Inputs, Modality
from ostiary.models import soft_edges

Forward = Callable[[nn.Module, Inputs], Tensor]


def gives(width: int, classes: int) -> bool:
    """Whether a layer of so many outputs can be the one that gives the logits; a single logit is padded to two."""
    return width == classes or (width, classes) == (1, 2)


class Victim(nn.Module):
    """A classifier over whole batches of one modality.

    Args:
        module: any nn.Module that yields logits [b, k], one row per input.
        modality: a Modality or its name ("graph", "image", "node").
        forward: `(module, batch) -> logits` where arguments cannot be matched by parameter name.
        head: name of the last layer (its input are the features); default: of the modules with a 2-D weight the one that is
            called last with as many outputs as there are logits, as the first batch shows, or else, with a warning, the last.
        stages: names of the modules whose outputs stand for the layers; default: message-passing layers, or the
            last module at each spatial size.
    """

    def __init__(
        self,
        module: nn.Module,
        modality: Modality | str,
        *,
        forward: Forward | None = None,
        head: str | None = None,
        stages: Sequence[str] = (),
    ) -> None:
        super().__init__()
        if not isinstance(module, nn.Module):
            what = f"the class {module.__name__}" if isinstance(module, type) else f"a {type(module).__name__}"
            raise BadSpec(f"a victim is made of an nn.Module, got {what}; give a module, with its weights loaded")
        for name, part in module.named_modules():
            if getattr(part, "cached", False) is True and hasattr(part, "propagate"):
                said = "keeps what it made of the first graph that it saw (cached=True) and answers for others by it"
                raise BadSpec(f"the layer '{name}' {said}; build it with cached=False, its weights stay the same")
        self.module = module
        self.modality: Modality = build("modality", modality)
        self._forward = forward
        modules = dict(module.named_modules())
        for name in (*stages, *((head,) if head else ())):
            if name not in modules:
                raise BadSpec(f"the module has no submodule '{name}'; it has {', '.join(n for n in modules if n)}")
        self.named_head, self.named_stages = head, tuple(stages)
        self._seen_head: str | None = None  # found by the first batch
        self._takes: dict[str, bool] = {}  # soft_edges.acts, once known
        self._overwrites: bool | None = None  # whether the module changes what it is given, once known
        self.notes: dict[str, Any] = {}  # what a purifier found out on the way, as JSON values
        self.trial: Trial | None = None  # puts on the triggers that a purifier recovered from the model that it was given

    def forward(self, batch: Inputs) -> Tensor:
        """Logits: float [b, k]."""
        if not soft_edges.held(batch):
            return self._call(batch)
        with soft_edges.applied(self.module, batch, self.modality, self._taken(batch)):
            return self._call(batch)

    def call(self, module: nn.Module, batch: Inputs) -> Tensor:
        """Logits of `module`, one of the same kind as this victim's own; images stay as they are, also where the module
        works in place (x.sub_(mean)), which its first call tells."""
        if not isinstance(batch, Tensor) or self._overwrites is False:
            return self._asked(module, batch)
        own = batch.clone()
        first = None if own.is_inference() else own._version
        said = self._asked(module, own)
        self._overwrites = first is None or own._version != first
        return said

    def _asked(self, module: nn.Module, batch: Inputs) -> Tensor:
        if self._forward is not None:
            return self._forward(module, batch)
        return self.modality.call(module, batch)

    def _call(self, batch: Inputs) -> Tensor:
        said = self.call(self.module, batch)
        if isinstance(said, Tensor):
            return said
        return check_logits(said, self.modality.count(batch), training=self.module.training)  # which says what is wrong

    def _taken(self, batch: Inputs) -> frozenset[str]:
        """Which of the batch's edge weights the call lets act; tried out the first time."""
        for name in soft_edges.held(batch):
            if name not in self._takes:
                with evaluating(self):
                    self._takes[name] = soft_edges.acts(self._call, batch, name)
        return frozenset(n for n, taken in self._takes.items() if taken)

    @torch.no_grad()
    def seek_head(self, batch: Inputs) -> None:
        """Find the head, if it was not named, by a call in evaluation mode: the order of definition does not tell."""
        if self.known_head is not None or not (heads := self._heads() or self._heads(4)):
            return
        linear = bool(self._heads())
        wide: list[tuple[str, int]] = []

        def note(name: str) -> Any:
            return lambda _m, _i, out: wide.append((name, out.shape[-1 if linear else 1])) if isinstance(out, Tensor) else None

        handles = [self.module.get_submodule(name).register_forward_hook(note(name)) for name in heads]
        try:
            with evaluating(self):
                logits = self.call(self.module, self.modality.move(batch, self.device))
        except Exception:  # noqa: BLE001  whatever it is, the call that follows will tell
            return
        finally:
            for handle in handles:
                handle.remove()
        if isinstance(logits, Tensor) and logits.ndim == 2:
            fits = [name for name, width in wide if gives(width, logits.shape[1])]
            self._seen_head = fits[-1] if fits else heads[-1] if linear else None
            if linear and not fits:
                said = f"no layer of the module gives its {logits.shape[1]} logits; features are taken before '{heads[-1]}'"
                warn_once(f"{said}, and if that is not the last layer, name the last one as head=")

    def moved(self, name: str, to: str) -> None:
        """The module's layer `name` is now called `to`."""
        self.named_head, self._seen_head = (to if head == name else head for head in (self.named_head, self._seen_head))

    def _heads(self, ndim: int = 2) -> list[str]:
        """Names of the modules with a 2-D weight (PyG has its own Linear, so the class says nothing); 4: convolutions, one of
        which gives the logits, pooled, of networks without a linear layer."""
        return [n for n, m in self.module.named_modules() if getattr(getattr(m, "weight", None), "ndim", 0) == ndim]

    @property
    def known_head(self) -> str | None:
        """Its name, if it was named or found."""
        return self.named_head or self._seen_head

    @property
    def head(self) -> str:
        """Name of the last layer."""
        if self.known_head is not None:
            return self.known_head
        if not (found := self._heads()):
            raise Unsupported("the module has no layer with a 2-D weight to take features from; name one as head=")
        return found[-1]

    def stages(self, batch: Inputs) -> tuple[str, ...]:
        """Names of the layers, first to last."""
        own = getattr(self.module, "stages", ())  # timm calls the layers themselves so, others their depths
        named = isinstance(own, list | tuple) and set(own) <= {n for n, _ in self.module.named_modules()}
        names = self.named_stages or (tuple(own) if named else ())
        names = names or self.modality.stages(self.module, batch, self._call)
        if not names:
            raise Unsupported("no layers to compare were found in the module; name them as stages=")
        return names

    def features(self, batch: Inputs) -> Tensor:
        """What enters the head, pooled to one row per input: float [b, d]."""
        return self.both(batch)[1]

    def both(self, batch: Inputs) -> tuple[Tensor, Tensor]:
        """(logits, features) of one forward pass."""
        self.seek_head(batch)
        seen: list[Tensor] = []
        head = self.module.get_submodule(self.head)
        handle = head.register_forward_pre_hook(lambda _m, i: seen.append(i[0]))
        try:
            logits = self(batch)
        finally:
            handle.remove()
        if not seen:
            raise Unsupported(f"the head '{self.head}' is not called with the model; name the layer that gives logits as head=")
        entering = seen[-1]
        if entering.ndim > 2 and getattr(getattr(head, "weight", None), "ndim", 0) == 2:
            entering = entering.movedim(-1, 1)  # a linear layer of tokens takes their features last
        return logits, self.modality.pool(entering, batch)

    def layers(self, batch: Inputs) -> tuple[Tensor, list[Tensor]]:
        """(logits, the output of every stage) of one forward pass. Raises Unsupported for a stage that it does not call."""
        names = self.stages(batch)
        seen: dict[str, Tensor] = {}

        def note(name: str) -> Any:
            return lambda _m, _i, out: seen.__setitem__(name, out[0] if isinstance(out, tuple) else out)

        handles = [self.module.get_submodule(n).register_forward_hook(note(n)) for n in names]
        try:
            logits = self(batch)
        finally:
            for handle in handles:
                handle.remove()
        if silent := [n for n in names if n not in seen]:
            raise Unsupported(f"the stage '{silent[0]}' is not called with the model; name others as stages=")
        return logits, [seen[n] for n in names]

    def predict(self, inputs: Inputs) -> Tensor:
        """Logits: float [n, k], in evaluation mode, in chunks, on the CPU."""
        return self._in_chunks(inputs, lambda batch: (self(batch),))[0]

    def embed(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """(logits [n, k], features [n, d]) in evaluation mode, in chunks, on the CPU."""
        logits, features = self._in_chunks(inputs, self.both)
        return logits, features

    @torch.no_grad()
    @plain_defaults()
    def _in_chunks(self, inputs: Inputs, asked: Callable[[Inputs], tuple[Tensor, ...]]) -> list[Tensor]:
        """What `asked` says of every chunk, logits first, end to end."""
        said = []
        if self.known_head is None:  # else the inputs need not be taken
            self.seek_head(self.modality.take(inputs, torch.arange(min(2, self.modality.count(inputs)))))
        with evaluating(self):
            for at in torch.arange(self.modality.count(inputs)).split(self.modality.chunk):
                parts = asked(self.modality.move(self.modality.take(inputs, at), self.device))
                check_logits(parts[0], len(at))
                said.append([part.cpu() for part in parts])
        return [torch.cat(parts) for parts in zip(*said, strict=True)]

    def learns(self, inputs: Inputs) -> bool:
        """Whether its output on these (few) inputs depends on its own weights through a gradient; that of a vote does not, nor
        that of a `forward` which calls another module than the one it is given."""
        other = self.clone().eval()  # a forward with gradients may leave traces, as old spectral norms do
        own = [p.requires_grad_(True) for p in other.module.parameters() if p.is_floating_point()]
        said = other(self.modality.move(inputs, self.device))
        return (
            bool(own)
            and said.requires_grad
            and any(g is not None for g in torch.autograd.grad(said.sum(), own, allow_unused=True))
        )

    @property
    def device(self) -> torch.device:
        return next((p.device for p in self.module.parameters()), torch.device("cpu"))

    def clone(self) -> Victim:
        """A copy that shares nothing."""
        forward, self._forward = self._forward, None  # a user's function may not be copyable
        try:
            other = copy.deepcopy(self)
        finally:
            self._forward = forward
        other._forward = forward
        return other

    def unmarked(self) -> Victim:
        """A copy without what an earlier purifier found out."""
        other = self.clone()
        other.notes, other.trial = {}, None
        return other


def check_logits(logits: Tensor, n: int, *, training: bool = False) -> Tensor:
    """The logits, if they are one row per input. training: of a module in training mode, which may answer otherwise then."""
    if not isinstance(logits, Tensor):
        kinds = {tuple: "m(b)[0]", list: "m(b)[0]", dict: 'm(b)["logits"]'}
        pick = kinds.get(type(logits), "m(b).logits") + (" if m.training else m(b)" if training else "")
        raise InvalidInput(
            f"the module returned {type(logits).__name__}, expected logits [{n}, classes]; pick them from what it returns "
            f"with forward=lambda m, b: {pick} (beside a model in a file: def forward(m, b))"
        )
    if logits.shape == (n,):
        raise InvalidInput(
            f"the module gives one number per input, expected [{n}, classes]; give two with "
            "forward=lambda m, b: torch.nn.functional.pad(m(b)[:, None], (1, 0)), if the number is a logit"
        )
    if logits.ndim != 2 or len(logits) != n:
        per = "node needs forward=lambda m, b: pool(m(b.x, b.edge_index), b), on nodes ...[b.roots]"
        if logits.ndim == 4:
            per = "place needs forward=lambda m, b: m(b).mean((2, 3))"
        raise InvalidInput(
            f"the module returned shape {tuple(logits.shape)} for {n} inputs, expected [{n}, classes]; a module that gives one "
            f"row per {per}"
        )
    return logits


def first_logits(victim: Victim, batch: Inputs, classes: int) -> Tensor:
    """The logits of a first batch. Raises InvalidInput in one sentence where the module cannot take such inputs."""
    try:
        logits: Tensor = victim(batch)
    except OstiaryError:
        raise
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        what = f"inputs of shape {list(batch.shape[1:])}" if isinstance(batch, Tensor) else "these inputs"
        raise InvalidInput(f"the module cannot be trained on {what}: {reason}; change the inputs or the module") from error
    n = victim.modality.count(batch)
    if check_logits(logits, n).shape[1] < classes:
        raise InvalidInput(f"the module gives {logits.shape[1]} logits for {classes} classes; give it {classes} outputs")
    return logits


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode inside, every submodule's own mode restored after."""
    was = [(m, m.training) for m in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for m, training in was:
            m.training = training


@contextmanager
def passing_norms(module: nn.Module) -> Iterator[None]:
    """Evaluation mode inside, but normalisation layers take the statistics of each batch; their own are as before after."""
    kept = {name: value.clone() for name, value in module.named_buffers()}
    with evaluating(module):
        for m in module.modules():
            if is_norm(m):
                m.train()
        try:
            yield
        finally:
            for name, value in module.named_buffers():
                value.copy_(kept[name])


def is_norm(module: nn.Module) -> bool:
    """Whether it normalises by statistics; PyG has a BatchNorm of its own."""
    return isinstance(module, nn.modules.batchnorm._NormBase) or type(module).__name__ == "BatchNorm"


def freeze_norms(module: nn.Module) -> None:
    """Evaluation mode for normalisation layers only: their statistics stay what training made them."""
    for m in module.modules():
        if is_norm(m):
            m.eval()


@contextmanager
def without_gradients(module: nn.Module) -> Iterator[None]:
    """No gradient for the module's parameters inside (inputs keep theirs)."""
    was = [(p, p.requires_grad) for p in module.parameters()]
    for p, _ in was:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p, flag in was:
            p.requires_grad_(flag)
