"""What can be named in a plan, and the options of each."""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from collections.abc import Sequence
from typing import Any, Literal

from rich import box
from rich.console import Console
from rich.table import Table

from ostiary.component import Component, Entry, Json, hints, part_of, plain, registered
from ostiary.terminal.screen import say


def entries(out: Console, found: Sequence[Entry]) -> None:
    """Names, kinds of data and summaries, room by room."""
    width = max(len(e.name) for e in found) if found else 0
    for kind in dict.fromkeys(e.kind for e in found):
        rows = [e for e in found if e.kind == kind]
        table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column(min_width=width, no_wrap=True, style="cyan")
        table.add_column(min_width=12, no_wrap=True, style="dim")
        table.add_column(overflow="fold")
        for entry in rows:
            table.add_row(entry.name, ", ".join(entry.modalities), entry.summary)
        say(out, kind, "bold")
        out.print(table)
        out.line()
    say(out, "explain one: ostiary options ROOM NAME", "dim")


def describe(cls: type[Component]) -> dict[str, Json]:
    """A component and its options as plain values."""
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    shown = []
    for name, hint in hints(cls).items():
        field = fields[name]
        factory = field.default_factory
        required = field.default is dataclasses.MISSING and factory is dataclasses.MISSING
        default = None if required else field.default if factory is dataclasses.MISSING else factory()
        part = part_of(hint)
        option = {"name": name, "type": readable(hint), "default": plain(default), "required": required}
        shown.append(option | ({"part": part.kind} if part else {}))
    found: dict[str, Json] = {"kind": cls.kind, "name": cls.name, "doc": _doc(cls), "options": shown}
    for fact in ("modalities", "controls", "needs"):
        if getattr(cls, fact, None):
            found[fact] = sorted(getattr(cls, fact))
    if cls.presets:
        found["presets"] = {name: plain(own) for name, own in cls.presets.items()}
    if getattr(cls, "recipe", None):
        found["recipe"] = dict(cls.recipe)  # type: ignore[attr-defined]
    if getattr(cls, "recipes", None):
        found["recipes"] = {modality: cls.training([modality]) for modality in cls.recipes}  # type: ignore[attr-defined]
    return found


def _doc(cls: type[Component]) -> str:
    """The text of a class and, where it inherits options, of the classes that define them."""
    texts = [inspect.cleandoc(cls.__doc__ or "")]
    for base in cls.__mro__[1:]:
        text = inspect.cleandoc(base.__doc__ or "")
        defines = set(inspect.get_annotations(base)) & set(hints(cls))
        if defines and not text.startswith(f"{base.__name__}("):  # dataclasses put the signature where a text is missing
            texts.append(text)
    return "\n\n".join(texts)


def options(out: Console, found: dict[str, Json]) -> None:
    """A component's text, then one line for each option."""
    say(out, f"{found['kind']} {found['name']}", "bold")
    for paragraph in found["doc"].split("\n\n"):
        say(out, " ".join(paragraph.split()), hang=0)
        out.line()
    for fact, title in (("modalities", "data"), ("controls", "the attacker controls"), ("needs", "needs")):
        if fact in found:
            say(out, f"{title}: {', '.join(found[fact])}")
    for preset, own in found.get("presets", {}).items():
        say(out, f"preset={preset}: {', '.join(f'{k}={_text_of(v)}' for k, v in own.items())}")
    recipes = {"": found.get("recipe"), **{f" on {m} data": r for m, r in found.get("recipes", {}).items()}}
    for where, recipe in recipes.items():
        if recipe:
            settings = ", ".join(f"{k}={v}" for k, v in recipe.items())
            say(out, f"trained{where} with: {settings} (change with trainer.epochs=..., ...)")
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("option", no_wrap=True, style="cyan")
    table.add_column("type", overflow="fold")
    table.add_column("default", overflow="fold")
    for option in found["options"]:
        default = "(required)" if option["required"] else _text_of(option["default"])
        table.add_row(option["name"], option["type"], default)
    out.print(table if found["options"] else "It has no options.")


def _text_of(value: Json) -> str:
    """A default as it would be written in a plan; a part by its name alone."""
    if isinstance(value, dict):
        return str(value["name"]) if "name" in value else "{}"
    if isinstance(value, list):
        return f"[{', '.join(map(_text_of, value))}]"
    if isinstance(value, bool):
        return "true" if value else "false"
    return "none" if value is None else str(value) or "(empty)"


_PLAIN_TYPES = {int: "whole number", float: "number", bool: "true or false", str: "text", type(None): "none", Any: "anything"}


def readable(hint: Any) -> str:
    """A type as people say it: "number in [0, 1]", "one of white, checker"."""
    args, origin = typing.get_args(hint), typing.get_origin(hint)
    if origin is Literal:
        return f"one of {', '.join(map(str, args))}"
    if origin is typing.Annotated:
        return readable(args[0]) + "".join(map(_limits, args[1:]))
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(readable, args))
    if origin in (tuple, list):
        several = origin is list or args[-1] is ...
        return f"list of: {readable(args[0])}" if several else f"list of {len(args)}: {', '.join(map(readable, args))}"
    part = part_of(hint)
    if part is not None:
        return f"{part.kind}: {', '.join(registered(part))}"
    return "mapping" if dict in (origin, hint) else _PLAIN_TYPES.get(hint, str(hint))


def _limits(meta: Any) -> str:
    low, above, high = getattr(meta, "ge", None), getattr(meta, "gt", None), getattr(meta, "le", None)
    below = getattr(meta, "lt", None)
    start = f"[{low:g}" if low is not None else f"({above:g}" if above is not None else ""
    end = f"{high:g}]" if high is not None else f"{below:g})" if below is not None else ""
    if start and end:
        return f" in {start}, {end}"
    return f" from {low:g}" if low is not None else f" above {above:g}" if start else f" up to {end[:-1]}" if end else ""
