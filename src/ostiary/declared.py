"""What the class of a component must declare. Looked at as the class is made, so that a slip is told before anything runs."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

from ostiary.errors import BadSpec

NAMES = ("modalities", "needs", "controls")  # facts that are sets of names


def check(cls: Any, base: type, name: str | None) -> None:
    """Raises BadSpec in one sentence. base: Component itself; name: as in the class line, None of a class that only others
    are made from, which may leave facts open."""
    who = f"{cls.kind} '{name or cls.__name__}'" if hasattr(cls, "kind") else f"component '{cls.__name__}'"
    own = inspect.get_annotations(cls)
    for option, kind in own.items():
        if hasattr(base, option) and not _is_fact(kind):
            raise BadSpec(f"{who}: its option '{option}' has the name of something that every component has; rename it")
    for option, value in vars(cls).items():
        known = option.startswith("_") or option in own or any(_says(b, option) for b in cls.__mro__[1:])
        if not known and isinstance(value, bool | int | float | str | tuple | list | dict | None):
            said = f"write {option}: {type(value).__name__} = {value!r}, or ClassVar[...] if it is none"
            raise BadSpec(f"{who}: '{option}' has no type, so that it is no option; {said}")
    options = {f.name for f in dataclasses.fields(cls)}
    for preset, settings in cls.presets.items():
        if strange := sorted(set(settings) - options):
            known = ", ".join(sorted(options)) or "none"
            raise BadSpec(f"{who}: its preset '{preset}' sets '{strange[0]}', which is no option; known: {known}")
    for fact in NAMES:
        held = vars(cls).get(fact)
        plain = isinstance(held, set | frozenset) and all(isinstance(v, str) for v in held)
        if held is not None and not plain and not isinstance(held, property):
            raise BadSpec(f"{who}: {fact} is {held!r}, expected a set of names; write {fact} = frozenset({{'...'}})")
    facts = [item for b in cls.__mro__ for item in inspect.get_annotations(b).items()] if name is not None else []
    for fact, kind in facts:
        if _is_fact(kind) and not hasattr(cls, fact):
            raise BadSpec(f"{who} does not say its {fact}; write {fact} = ... in the class, as others of its room do")


def _is_fact(annotation: object) -> bool:
    """Whether it says ClassVar, be it as a string or not."""
    return str(annotation).removeprefix("typing.").startswith("ClassVar")


def _says(cls: type, name: str) -> bool:
    return name in vars(cls) or name in inspect.get_annotations(cls)
