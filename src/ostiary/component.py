"""A dataclass is its own configuration: registry, strict `build`, exact `spec`.

A subclass with `name="..."` in its class line is frozen as a keyword-only dataclass and registered in
its room. Rooms are looked up by reading class lines (no import), so a new file needs no list edited,
`ostiary list` does not import torch, and a name imports only the file that defines it.
Third parties register through the entry-point group `ostiary.plugins`, files through the environment variable OSTIARY_PLUGINS.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import functools
import importlib
import inspect
import os
import sys
import types
import typing
from abc import ABC
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, dataclass_transform, overload

import msgspec

from ostiary import declared, sources
from ostiary.console import log
from ostiary.errors import BadSpec, InvalidInput, OstiaryError, UnknownName
from ostiary.writing import expanded

if TYPE_CHECKING:
    from ostiary.attacks.base import Attack
    from ostiary.data.source import DataSource
    from ostiary.detectors.base import Detector
    from ostiary.explainers.base import Explainer
    from ostiary.models.base import Architecture
    from ostiary.purifiers.base import Purifier
    from ostiary.training.trainer import Trainer
    from ostiary.triggers.base import Trigger

Json = Any
Rate = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]
Positive = Annotated[int, msgspec.Meta(ge=1)]
NonNegative = Annotated[int, msgspec.Meta(ge=0)]
PositiveFloat = Annotated[float, msgspec.Meta(gt=0.0)]
NonNegativeFloat = Annotated[float, msgspec.Meta(ge=0.0)]

ROOMS: dict[str, str] = {  # kind -> folder or file under the package
    "modality": "modality",
    "dataset": "data",
    "victim": "models",
    "trainer": "training/trainer.py",
    "explainer": "explainers",
    "trigger": "triggers",
    "position": "triggers/positions",
    "selector": "attacks/select.py",
    "labels": "attacks/labels.py",
    "term": "attacks/terms.py",
    "attack": "attacks",
    "detector": "detectors",
    "purifier": "purifiers",
    "plan": "experiment/plan.py",
}
_registry: dict[tuple[str, str], type[Component]] = {}
_broken: set[tuple[str, str]] = set()  # plugins that could not be imported


@dataclasses.dataclass(frozen=True)
class Entry:
    """One line of the catalogue, read from source."""

    kind: str
    name: str
    summary: str
    module: str
    modalities: tuple[str, ...]


STATE = {"state": True}  # metadata of a field that holds learnt tensors: no option, not in `spec`


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(dataclasses.field,))
class Component(ABC):
    """Hyperparameters only: no data, no module. Fields are checked on construction, as strictly as in a plan."""

    kind: ClassVar[str]
    name: ClassVar[str] = ""
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}  # named settings, such as a paper's: `preset: paper` in a plan
    added: ClassVar[frozenset[str]] = frozenset()  # options newer than results that were kept; their default changes nothing
    source: ClassVar[str | None] = ""  # of a plugin's class a mark of its code; None where that is in no file
    revision: ClassVar[int] = 0  # raised where the same options give other results; what was kept of an older one is made anew

    def __init_subclass__(cls, *, name: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        dataclasses.dataclass(frozen=True, kw_only=True, eq=False)(cls)
        if name is not None:
            _check_free(cls, name)
        declared.check(cls, Component, name)
        if name is None:
            return
        cls.name = name
        cls.source = sources.mark(cls.__module__)  # now: the file may have changed by the time that its mark is asked for
        _registry[(cls.kind, name)] = cls

    def __post_init__(self) -> None:
        for field, hint in hints(type(self)).items():
            value = decode(hint, getattr(self, field), where=f"{self.kind} '{self.name}': option {field}")
            object.__setattr__(self, field, value)

    def spec(self) -> dict[str, Json]:
        """The name and every field, defaults included, as plain JSON values; `build` takes it back exactly.

        Only options in `added` are left out at their default, so that what was computed before they came keeps its key.
        """
        own = {f: getattr(self, f) for f in hints(type(self))}
        return {
            "name": self.name,
            **{f: plain(v) for f, v in own.items() if f not in self.added or v != getattr(type(self), f)},
        }

    def revisions(self) -> dict[str, int | str]:
        """The revisions of the component and its parts, by kind and name, bar those that never changed; of a plugin's the mark
        of its file, which changes with the code."""
        found: dict[str, int | str] = {f"{self.kind} {self.name}": self.revision} if self.revision else {}
        if self.source:
            found[f"code of {self.kind} {self.name}"] = self.source
        elif self.source is None:
            _without_file(type(self))
        for field in hints(type(self)):
            value = getattr(self, field)
            for part in value if isinstance(value, tuple) else (value,):
                found |= part.revisions() if isinstance(part, Component) else {}
        return found

    def replace(self, **changes: Any) -> Self:
        return dataclasses.replace(self, **changes)  # type: ignore[type-var]

    @classmethod
    def with_options(cls, options: Mapping[str, Any]) -> Self:
        """The component with these options; those that it cannot do without are asked for by name."""
        bare = {f.name for f in dataclasses.fields(cls) if f.default is f.default_factory is dataclasses.MISSING}  # type: ignore[arg-type]
        missing = [f"'{option}'" for option in hints(cls) if option in bare and option not in options]
        if missing:
            what = f"the option{'s' * (len(missing) > 1)} {', '.join(missing)}"
            raise BadSpec(f"{cls.kind} '{cls.name}' needs {what}; see ostiary options {cls.kind} {cls.name}")
        return cls(**options)

    @classmethod
    def preset(cls, preset: str, /, **changes: Any) -> Self:
        """The component with one of its named settings, and `changes` on top."""
        if preset not in cls.presets:
            raise UnknownName(f"{cls.kind} '{cls.name}' has no preset '{preset}'{suggest(preset, cls.presets)}")
        return cls.with_options({**cls.presets[preset], **changes})

    def label(self) -> str:
        """The name, with the options that differ from their defaults or, where that is shorter, from a preset."""
        tried = [self._differing({}), *([f"preset={p}", *self._differing(own)] for p, own in self.presets.items())]
        shown = min(tried, key=len)
        return f"{self.name}({', '.join(shown)})" if shown else self.name

    def _differing(self, preset: Mapping[str, Any]) -> list[str]:
        """The options that differ from those of `preset` on top of the defaults."""
        shown = []
        options = {f.name: f for f in dataclasses.fields(self)}  # type: ignore[arg-type]
        for field, hint in hints(type(self)).items():
            value, option = getattr(self, field), options[field]
            default = option.default_factory() if callable(option.default_factory) else option.default
            if field in preset:
                default = decode(hint, preset[field], where=f"{self.kind} '{self.name}': option {field}")
            if plain(value) != plain(default):
                shown.append(f"{field}={value.label() if isinstance(value, Component) else plain(value)}")
        return shown

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.spec() == other.spec()

    def __hash__(self) -> int:
        return hash(repr(self.spec()))


def who(part: Component) -> str:
    """What a sentence calls it: detector 'ed'; where it has no name, by its class."""
    return f"{part.kind} '{part.name or type(part).__name__}'"


def _check_free(cls: type[Component], name: str) -> None:
    """Raises BadSpec where the name is another's. A class that is made anew in its own place, as in a notebook, is the same."""
    here = f"{cls.__module__}.{cls.__qualname__}"
    known = _registry.get((cls.kind, name))
    taken = "" if known is None else f"{known.__module__}.{known.__qualname__}"
    if cls.__module__.partition(".")[0] != "ostiary":
        taken = taken or next((e.module for e in catalogue(cls.kind) if e.name == name), "")
    if taken and taken != here:
        raise BadSpec(f"two {cls.kind}s are called '{name}': {taken} and {here}; rename one")


@functools.cache
def _without_file(cls: type[Component]) -> None:
    log.warning(
        f"the {cls.kind} '{cls.name}' is made where there is no file, so that its results are found by its options alone; "
        "raise its `revision` after a change, or write it into a file"
    )


@functools.cache
def hints(cls: type[Component]) -> dict[str, Any]:
    """The types of a component's options, in order; learnt state is no option."""
    found = typing.get_type_hints(cls, include_extras=True)
    return {f.name: found[f.name] for f in dataclasses.fields(cls) if not f.metadata.get("state")}  # type: ignore[arg-type]


def plain(value: Any) -> Json:
    """A field's value as JSON: parts become their spec, tuples lists."""
    if isinstance(value, Component):
        return value.spec()
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    return value


def part_of(hint: Any) -> type[Component] | None:
    """The component class a hint asks for, if it asks for one (`Selector`, `Trainer | None`)."""
    if inspect.isclass(hint) and not isinstance(hint, types.GenericAlias) and issubclass(hint, Component):
        return hint
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return next((p for p in map(part_of, typing.get_args(hint)) if p), None)
    return None


def registered(part: type[Component]) -> list[str]:
    """Names that may stand for a part: all of its kind or, where a certain one is asked for, that one and its subclasses."""
    names = [e.name for e in catalogue(part.kind)] if not part.name else []
    own = [n for (kind, n), cls in _registry.items() if kind == part.kind and issubclass(cls, part)]
    return list(dict.fromkeys([*names, *own]))


def decode(hint: Any, value: Any, *, where: str) -> Any:
    """`value` as `hint`, strictly: int widens to float, a list becomes a tuple, a name becomes a part."""
    part = part_of(hint)
    if part is not None:
        optional = type(None) in typing.get_args(hint)
        if value is None and optional:
            return None
        made = build(part.kind, value)
        if not isinstance(made, part):
            raise BadSpec(f"{where}: works with {' or '.join(registered(part))} only; got '{made.name}'")
        return made
    args = typing.get_args(hint)
    if typing.get_origin(hint) is tuple and len(args) == 2 and part_of(args[0]):
        if isinstance(value, str | Mapping | Component):
            value = [value]
        if not isinstance(value, Iterable):
            raise BadSpec(f"{where}: expected a list of names, got {value!r}")
        return tuple(decode(args[0], v, where=where) for v in value)
    try:
        return msgspec.convert(value, type=hint, strict=True)
    except msgspec.ValidationError as error:
        text = str(error).split(" - at")[0].replace("`", "")
        if text.startswith("Expected array") and not isinstance(value, list | tuple):
            raise BadSpec(f"{where}: expected a list, like {where.rsplit(maxsplit=1)[-1]}=[{value}]; got {value!r}") from None
        raise BadSpec(f"{where}: {text[0].lower()}{text[1:]}; got {value!r}") from None


@overload
def build(kind: Literal["attack"], what: Any) -> Attack: ...
@overload
def build(kind: Literal["dataset"], what: Any) -> DataSource: ...
@overload
def build(kind: Literal["detector"], what: Any) -> Detector: ...
@overload
def build(kind: Literal["purifier"], what: Any) -> Purifier: ...
@overload
def build(kind: Literal["victim"], what: Any) -> Architecture: ...
@overload
def build(kind: Literal["explainer"], what: Any) -> Explainer: ...
@overload
def build(kind: Literal["trigger"], what: Any) -> Trigger: ...
@overload
def build(kind: Literal["trainer"], what: Any) -> Trainer: ...
@overload
def build(kind: str, what: Any) -> Any: ...
def build(kind: str, what: Any) -> Any:
    """A component from a name, a mapping with a `name`, a class or an instance.

    Raises UnknownName (nearest names offered) or BadSpec (wrong type, out of range).
    """
    if isinstance(what, Component):
        if what.kind != kind:
            raise BadSpec(f"expected {_a(kind)}, got the {what.kind} '{what.name}'")
        return what
    if inspect.isclass(what) and issubclass(what, Component):
        if what.kind != kind:
            raise BadSpec(f"expected {_a(kind)}, got the {what.kind} '{what.name}'")
        return what.with_options({})
    if isinstance(what, str):
        what = {"name": what}
    if not isinstance(what, Mapping) or not isinstance(what.get("name"), str):
        raise BadSpec(f"{_a(kind)} is given by its name or a mapping with a 'name'; got {what!r}")
    if not what["name"]:
        raise BadSpec(f"{_a(kind)} has no name, by which plans and records know it; write class Mine(..., name='...')")
    cls = lookup(kind, what["name"])
    options = {str(k): v for k, v in what.items() if k not in ("name", "preset")}
    for option in options:
        if option not in hints(cls):
            raise UnknownName(f"{kind} '{cls.name}' has no option '{option}'{suggest(option, hints(cls))}")
    return cls.preset(str(what["preset"]), **options) if "preset" in what else cls.with_options(options)


def _a(kind: str) -> str:
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"


def suggest(name: str, known: Iterable[str]) -> str:
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean '{near[0]}'?" if near else f"; known: {', '.join(known) or 'none'}"


def lookup(kind: str, name: str) -> type[Component]:
    """The class registered as `name`; imports only the file that defines it."""
    if kind not in ROOMS:
        raise UnknownName(f"there is no room '{kind}'{suggest(kind, ROOMS)}")
    if (kind, name) not in _registry:
        module = next((e.module for e in catalogue(kind) if e.name == name), None)
        if module is not None:
            importlib.import_module(module)
        else:
            load_plugins()
    if (kind, name) not in _registry:
        known = {e.name for e in catalogue(kind)} | {n for k, n in _registry if k == kind}
        raise UnknownName(f"unknown {kind} '{name}'{suggest(name, known)}")
    return _registry[(kind, name)]


def load_plugins() -> None:
    """Import what is registered, and the files that OSTIARY_PLUGINS names (a list like PATH). A plugin that cannot be imported
    is named, once, and the others go on without it; of a file that was asked for, InvalidInput is raised."""
    for file in filter(None, os.environ.get("OSTIARY_PLUGINS", "").split(os.pathsep)):
        _load_file(expanded(file))
    for entry in metadata.entry_points(group="ostiary.plugins"):
        if (entry.name, entry.value) in _broken:
            continue
        try:
            entry.load()
        except Exception as error:  # noqa: BLE001  whatever somebody else's module raises
            _broken.add((entry.name, entry.value))
            why = str(error) if isinstance(error, OstiaryError) else f"{type(error).__name__}: {error}"
            log.warning(f"the plugin '{entry.name}' ({entry.value}) cannot be used: {why}; mend it or uninstall it")


def _load_file(file: Path) -> None:
    """Import a Python file by its name, from its own folder: so worker processes find it, too."""
    if file.suffix != ".py" or not file.is_file():
        raise InvalidInput(f"OSTIARY_PLUGINS names {file}, which is no Python file; correct it")
    folder = str(file.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        held = importlib.import_module(file.stem)
    except OstiaryError:
        raise
    except Exception as error:
        raise InvalidInput(f"{file} cannot be imported: {type(error).__name__}: {error}") from error
    if not getattr(held, "__file__", None) or Path(str(held.__file__)).resolve() != file.resolve():
        raise InvalidInput(f"another module is called '{file.stem}', so that {file} cannot be imported; rename the file")


def listed(kinds: Iterable[str]) -> list[Entry]:
    """The catalogue of some kinds, with what plugins have registered of each; imports the plugins."""
    load_plugins()
    found: dict[str, list[Entry]] = {kind: catalogue(kind) for kind in kinds}
    for (kind, name), cls in _registry.items():
        if kind in found and cls.__module__.partition(".")[0] != "ostiary":
            summary, modalities = (inspect.getdoc(cls) or "").split("\n")[0], sorted(getattr(cls, "modalities", ()))
            found[kind].append(Entry(kind, name, summary, cls.__module__, tuple(modalities)))
    return [entry for entries in found.values() for entry in entries]


def catalogue(kind: str | None = None) -> list[Entry]:
    """Everything the package's own files register, read from their class lines without importing them."""
    kinds = [kind] if kind else list(ROOMS)
    return [entry for k in kinds for entry in _scan_room(k)]


@functools.cache
def _scan_room(kind: str) -> tuple[Entry, ...]:
    root = Path(__file__).parent
    place = root / ROOMS[kind]
    other = {root / p for k, p in ROOMS.items() if k != kind}
    files = [place] if place.suffix else sorted(p for p in place.glob("*.py") if p not in other)
    parsed = {f: ast.parse(f.read_text(encoding="utf-8")).body for f in files if f.exists()}
    classes = {n.name: n for body in parsed.values() for n in body if isinstance(n, ast.ClassDef)}
    found = []
    for file, body in parsed.items():
        module = ".".join(("ostiary", *file.relative_to(root).with_suffix("").parts))
        for node in body:
            name = _registered(node)
            if isinstance(node, ast.ClassDef) and name:
                summary = (ast.get_docstring(node) or "").split("\n")[0]
                found.append(Entry(kind, name, summary, module, _modalities(node, classes)))
    return tuple(found)


def _registered(node: ast.stmt) -> str:
    """The `name=` of a class line, if it has one."""
    keywords = node.keywords if isinstance(node, ast.ClassDef) else []
    values = [k.value for k in keywords if k.arg == "name" and isinstance(k.value, ast.Constant)]
    return str(values[0].value) if values and isinstance(values[0], ast.Constant) else ""


def _modalities(node: ast.ClassDef, classes: Mapping[str, ast.ClassDef]) -> tuple[str, ...]:
    """The strings of the `modalities` line, the class's own or that of a base in the same room."""
    for line in node.body:
        target = line.targets[0] if isinstance(line, ast.Assign) else getattr(line, "target", None)
        if isinstance(target, ast.Name) and target.id == "modalities" and getattr(line, "value", None) is not None:
            strings = [c.value for c in ast.walk(line.value) if isinstance(c, ast.Constant)]  # type: ignore[attr-defined]
            return tuple(sorted(str(s) for s in strings))
    bases = [classes[b.id] for b in node.bases if isinstance(b, ast.Name) and b.id in classes]
    return next((m for m in (_modalities(b, classes) for b in bases) if m), ())
