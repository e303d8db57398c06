"""The executable pact over everything that the rooms hold, with the settings of its row of expectations."""

from __future__ import annotations

from typing import Any

import pytest

from expectations import ROWS, Row
from ostiary.component import build, catalogue
from ostiary.testing import contracts

CHECKS = {
    "attack": contracts.check_attack,
    "detector": contracts.check_detector,
    "purifier": contracts.check_purifier,
    "explainer": contracts.check_explainer,
    "victim": contracts.check_architecture,
}
HELD = [(kind, entry.name) for kind in CHECKS for entry in catalogue(kind)]


@pytest.mark.parametrize(("kind", "name"), HELD, ids=lambda x: x)
def test_every_registered_component_keeps_the_pact(kind: str, name: str) -> None:
    row = next((r for r in ROWS if (r.kind, r.name) == (kind, name)), None)
    assert row is not None, f"{kind} '{name}' has no row in tests/expectations.py"
    part = build(kind, {"name": name, **row.settings, **row.small})
    if kind == "victim":
        contracts.check_architecture(part, _splits(row))
    else:
        CHECKS[kind](part)


@pytest.mark.parametrize("kind", ["modality", "dataset", "trainer", "trigger", "position", "selector", "labels", "term"])
def test_every_other_component_is_rebuilt_from_its_spec(kind: str) -> None:
    needed: dict[str, dict[str, Any]] = {
        "npz": {"path": "a.npz"},
        "file": {"path": "data.py"},
        "image-folder": {"path": "folder"},
        "hardened": {"mark": "patch"},
        "subgraph": {"size": 3, "edges": [[0, 1], [1, 2]]},
        "generated-subgraph": {"size": 3, "width": 4},
        "injected-subgraphs": {"size": 3, "edges": [[[0, 1]], [[1, 2]]]},
        "attached-subgraph": {"size": 3, "edges": [[0, 1], [1, 2]]},
        "generated-nodes": {"size": 3, "width": 4},
        "class-warps": {"classes": 3},
    }
    assert catalogue(kind), f"the room of {kind}s is empty"
    for entry in catalogue(kind):
        part = build(kind, {"name": entry.name, **needed.get(entry.name, {})})
        contracts._check_spec(part)
        assert entry.summary, f"{kind} '{entry.name}' has no docstring"


def _splits(row: Row) -> Any:
    return build("dataset", row.data).load(0)
