"""Plan files and `option=value` settings: YAML as people mean it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ostiary.component import suggest
from ostiary.errors import BadSpec, InvalidInput, UnknownName
from ostiary.experiment.record import encode

PUBLISHED = (  # metrics that a report sets beside a paper's
    *("acc", "asr", "natural", "asr_lift", "ra", "drop", "der", "seconds", "cad"),
    *("asr_strict", "asr_candidates", "asr_strict_candidates", "natural_candidates"),
    *("recovered_asr", "recovered_similarity"),
)
MOST = 100_000  # values of a plan
# YAML 1.1 takes 1e-3 for text, 010 for eight and 1:30 for ninety
_WHOLE = re.compile(r"[-+]?(0|[1-9][0-9_]*|0x[0-9a-fA-F_]+)$")
_BROKEN = re.compile(
    r"([-+]?([0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+|[0-9][0-9_]*\.[0-9_]*|\.[0-9]+([eE][-+]?[0-9]+)?|\.inf)|\.nan)$", re.I
)


class _Loader(yaml.SafeLoader):
    """1e-3 is a number, 010 and 1:30 are none, and an option given twice is a mistake."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in found if tag.rpartition(":")[2] not in ("int", "float")]
        for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        twice = next((n for n in names if names.count(n) > 1), None)
        if twice is not None:
            raise yaml.MarkedYAMLError(problem=f"'{twice}' is given twice", problem_mark=node.start_mark)
        return node


_Loader.add_implicit_resolver("tag:yaml.org,2002:int", _WHOLE, list("-+0123456789"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _BROKEN, list("-+.0123456789"))


def read_value(text: str, change: str) -> Any:
    """The value of the setting `change`, whose text it is."""
    try:
        return _yaml(text)
    except ValueError as error:
        raise BadSpec(f"the value of '{change}' cannot be read ({error}); check its brackets and quotes") from error


def read_file(path: Path) -> dict[str, Any]:
    """The settings in a plan file. Raises InvalidInput in one sentence."""
    if path.is_dir():
        raise InvalidInput(f"{path} is a folder; give one plan file in it")
    try:
        found = _yaml(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise InvalidInput(f"there is no plan file {path}; give a YAML file or options with --set") from None
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path} is no text in UTF-8; save it as such") from error
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise InvalidInput(f"{path} cannot be read as YAML: {error}") from error
    if not isinstance(found, dict):
        raise InvalidInput(f"{path} holds no settings; expected lines like 'dataset: solubility'")
    return found


def check_published(given: Mapping[str, Any]) -> None:
    """Metrics are numbers and numbers are metrics; text under any other name is a remark."""
    for name, value in given.items():
        if isinstance(value, Mapping):
            check_published(value)
            continue
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if name in PUBLISHED and not number:
            raise BadSpec(f"published: {name} is {value!r}, expected a number; put remarks under another name")
        if name not in PUBLISHED and number:
            raise UnknownName(f"published: '{name}' is no metric, and a remark would be text{suggest(str(name), PUBLISHED)}")


def _count(found: Any) -> None:
    """Raises ValueError for more values than a plan has: a few lines of aliases can stand for billions."""
    waiting, n = [found], 0
    while waiting:
        n += 1
        if n > MOST:
            raise ValueError(f"it holds more than {MOST} values, or contains itself")
        value = waiting.pop()
        waiting += value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _yaml(text: str) -> Any:
    """Raises ValueError with a short reason."""
    try:
        loader = _Loader(text)
        try:
            found = loader.get_single_data()
        finally:
            loader.dispose()
        _count(found)
        encode(found)  # a plan becomes JSON; here it is known where a value that cannot came from
        return found
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark is not None and "\n" in text.strip() else ""
        raise ValueError(f"{error.problem or error.context}{line}") from error
    except yaml.YAMLError as error:
        raise ValueError(str(error).splitlines()[0]) from error
    except TypeError as error:
        raise ValueError(f"it is no JSON: {error}") from error
    except RecursionError:
        raise ValueError("it is nested too deeply or contains itself") from None
