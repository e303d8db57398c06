"""A plan: what is crossed with what. Plans are components too, so the same names work in YAML, CLI and Python."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ostiary.attacks.base import Attack
from ostiary.component import Component, Json, build, hints, lookup, suggest
from ostiary.data.source import DataSource
from ostiary.detectors.base import Detector
from ostiary.errors import BadSpec, InvalidInput, UnknownName
from ostiary.models.base import Architecture
from ostiary.purifiers.base import Purifier
from ostiary.training.trainer import Trainer


class Plan(Component, name="plan"):
    """One cell and its seeds, or a sweep of cells.

    trainer: options on top of the victim's own recipe. vary: option path -> values; every combination is a cell.
    published: figures a paper reports for this plan, printed beside ours. title, notes: for the reader.
    """

    kind = "plan"
    dataset: DataSource
    victim: Architecture
    attack: Attack
    trainer: dict[str, Any] = field(default_factory=dict)
    detectors: tuple[Detector, ...] = ()
    purifiers: tuple[Purifier, ...] = ()
    seeds: tuple[int, ...] = (0,)
    vary: dict[str, Any] = field(default_factory=dict)
    published: dict[str, Any] = field(default_factory=dict)
    title: str = ""
    notes: str = ""

    def training(self) -> Trainer:
        """The victim's recipe with the plan's own options on top."""
        options = {**self.victim.recipe, **self.trainer}
        trainer: Trainer = build("trainer", {**options, "name": "trainer"})
        return trainer

    def cells(self) -> list[Cell]:
        """Every combination of `vary` with every seed, in order."""
        base = {k: v for k, v in self.spec().items() if k != "vary"}
        found = []
        paths = list(self.vary)
        for path in paths:
            if not isinstance(self.vary[path], list) or not self.vary[path]:
                raise BadSpec(f"vary: {path} needs a list of values, got {self.vary[path]!r}")
        for values in itertools.product(*(self.vary[p] for p in paths)):
            spec = base
            for path, value in zip(paths, values, strict=True):
                spec = put(spec, path, value)
            plan = Plan(**{k: v for k, v in spec.items() if k != "name"})
            plan.training()
            found += [Cell(plan.replace(seeds=(seed,), vary={}), seed) for seed in plan.seeds]
        return found


@dataclass(frozen=True)
class Cell:
    """One combination and one seed: what a record is about."""

    plan: Plan
    seed: int

    def spec(self) -> dict[str, Json]:
        hidden = ("name", "seeds", "vary", "title", "notes", "published")
        return {**{k: v for k, v in self.plan.spec().items() if k not in hidden}, "seed": self.seed}


def put(spec: Mapping[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy of a nested mapping with `value` at a dotted path; a name on the way becomes a mapping with that name."""
    head, _, rest = path.partition(".")
    other = dict(spec)
    if not rest:
        other[head] = value
        return other
    inner = other.get(head, {})
    if isinstance(inner, str):
        inner = {"name": inner}
    if not isinstance(inner, Mapping):
        raise BadSpec(f"{path}: '{head}' is {inner!r}, which has no options")
    other[head] = put(inner, rest, value)
    return other


def read_plan(source: str | Path | Mapping[str, Any] | Plan, changes: Iterable[str] = ()) -> tuple[Plan, dict[str, Json]]:
    """(plan, what was passed) from a YAML file, a mapping or a Plan, with `path=value` changes on top."""
    if isinstance(source, Plan):
        source = {k: v for k, v in source.spec().items() if k != "name"}
    passed = dict(source) if isinstance(source, Mapping) else _read_yaml(Path(source))
    for change in changes:
        path, sign, text = change.partition("=")
        if not sign:
            raise BadSpec(f"'{change}' is no setting; write option=value, like attack.rate=0.1")
        passed = put(passed, path.strip(), _value(text, change))
    known = hints(Plan)
    for name in passed:
        if name not in known:
            raise UnknownName(f"a plan has no option '{name}'{suggest(name, known)}")
    for name in ("dataset", "victim", "attack"):
        if name not in passed:
            raise BadSpec(f"the plan names no {name}; add {name}=..., for instance {name}={_example(name)}")
    passed = {k: v for k, v in passed.items() if k != "name"}
    plan = Plan(**passed)
    if not plan.seeds:
        raise BadSpec("seeds is empty; give at least one, like seeds=[0]")
    return plan, passed


def _example(kind: str) -> str:
    return {"dataset": "solubility", "victim": "gin", "attack": "sub-ba"}[kind]


def _value(text: str, change: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise BadSpec(f"the value of '{change}' cannot be read ({problem}); check its brackets and quotes") from error


def _read_yaml(path: Path) -> dict[str, Any]:
    if path.is_dir():
        raise InvalidInput(f"{path} is a folder; give one plan file in it")
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InvalidInput(f"there is no plan file {path}; give a YAML file or options with --set") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InvalidInput(f"{path} cannot be read as YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(found, dict):
        raise InvalidInput(f"{path} holds no settings; expected lines like 'dataset: solubility'")
    return {str(k): v for k, v in found.items()}


def options_of(kind: str, name: str) -> type[Component]:
    """The class behind `ostiary options`."""
    return lookup(kind, name)
