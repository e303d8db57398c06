"""Settings that differ in one number only: cells of a plan, or a purifier that a plan lists at several levels."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from ostiary.experiment.record import Record, canonical, encode
from ostiary.report.tables import purifiers

T = TypeVar("T")
LEAST = 3  # values of a number that make a line


@dataclass(frozen=True)
class Levels:
    """One purifier at several values of the option `path`. name: what all have in common; key: the same, exactly.
    labels: (value, label) of each."""

    name: str
    path: str
    key: bytes
    labels: tuple[tuple[float, str], ...]


def levels(record: Record) -> tuple[Levels, ...]:
    """Of every purifier that the plan lists at three and more values of an option."""
    return _levels(encode(record.plan.get("purifiers") or []), tuple(purifiers(record)))


@functools.lru_cache(maxsize=256)  # milliseconds, and most records of a store come from a few lists
def _levels(settings: bytes, labels: tuple[str, ...]) -> tuple[Levels, ...]:
    """settings: of each purifier, as JSON in their own order; labels: of each."""
    listed = list(zip(msgspec.json.decode(settings), labels, strict=False))
    paths = dict.fromkeys(path for own, _ in listed for path, _ in numbers(own))
    found = ((path, *family) for path in paths for family in families(listed, path).items())
    return tuple(Levels(_common([label for _, label in held]), path, key, tuple(held)) for path, key, held in found)


def curved(record: Record) -> set[str]:
    """The labels of purifiers that are points of a curve, and not told one by one: to tell the best would be to choose by the
    test set. The level without the option is told as the purifier itself. Empty where nothing else is there to tell."""
    found = {label for curve in levels(record) for _, label in curve.labels if label != curve.name}
    return found if found < set(purifiers(record)) else set()


def numbers(settings: dict[str, Any], path: str = "") -> Iterator[tuple[str, float]]:
    """Dotted path and value of every numeric setting but the seed."""
    for key, value in settings.items():
        here = f"{path}.{key}" if path else key
        if isinstance(value, dict):
            yield from numbers(value, here)
        elif isinstance(value, int | float) and not isinstance(value, bool) and here != "seed":
            yield here, value


def families(items: Iterable[tuple[dict[str, Any], T]], path: str) -> dict[bytes, list[tuple[float, T]]]:
    """(value at `path`, item) of the items whose settings differ in nothing else, where there are at least three values."""
    found: dict[bytes, list[tuple[float, T]]] = {}
    for settings, item in items:
        value = dict(numbers(settings)).get(path)
        if value is not None:
            found.setdefault(canonical(without(settings, path)), []).append((value, item))
    return {key: members for key, members in found.items() if len({value for value, _ in members}) >= LEAST}


def without(settings: dict[str, Any], path: str) -> dict[str, Any]:
    head, _, rest = path.partition(".")
    return {k: without(v, rest) if k == head and rest else v for k, v in settings.items() if k != head or rest}


def _common(labels: list[str]) -> str:
    """The name and those options that stand in every label."""
    (name, *options), *others = [[w for w in re.split(r"[(),]+ *", label) if w] for label in labels]
    kept = [option for option in options if all(option in other for other in others)]
    return f"{name}({', '.join(kept)})" if kept else name
