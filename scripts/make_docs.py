"""Write the method table of README.md and docs/methods.md from the methods themselves.

    python scripts/make_docs.py [--check]

With --check nothing is written; exit status 1 says that a file is out of date.
"""

from __future__ import annotations

import sys
from pathlib import Path

from ostiary.component import Entry, catalogue, lookup
from ostiary.terminal import describe

ROOT = Path(__file__).parent.parent
ROOMS = {
    "attack": "Attacks",
    "detector": "Detectors",
    "purifier": "Purifiers",
    "explainer": "Explainers",
    "position": "Positions of a trigger",
    "term": "What an adaptive attack evades",
    "victim": "Victims",
    "dataset": "Data sets",
}
BEGIN, END = "<!-- methods: written by scripts/make_docs.py -->", "<!-- end of methods -->"


def table() -> str:
    lines = ["| room | name | data | what |", "|---|---|---|---|"]
    for kind in ROOMS:
        lines += [f"| {kind} | `{e.name}` | {', '.join(e.modalities) or 'any'} | {e.summary} |" for e in catalogue(kind)]
    return "\n".join(lines)


def page() -> str:
    parts = ["# Methods", "", "Generated from the docstrings: `make docs`. The same text: `ostiary options ROOM NAME`.", ""]
    for kind, title in ROOMS.items():
        parts += [f"## {title}", ""]
        for entry in catalogue(kind):
            parts += method(entry)
    return "\n".join(parts)


def method(entry: Entry) -> list[str]:
    found = describe(lookup(entry.kind, entry.name))
    lines = [f"### {entry.name}", "", str(found["doc"]), "", "| option | type | default |", "|---|---|---|"]
    for option in found["options"]:
        default = option.get("default")
        shown = "required" if option.get("required") else f"`{default}`"
        lines.append(f"| `{option['name']}` | {option['type']} | {shown} |")
    return [*lines, ""]


def main(check: bool) -> int:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    head, rest = readme.split(BEGIN)
    wanted = {
        ROOT / "README.md": head + BEGIN + "\n" + table() + "\n" + END + rest.split(END)[1],
        ROOT / "docs" / "methods.md": page(),
    }
    stale = [p for p, text in wanted.items() if not p.exists() or p.read_text(encoding="utf-8") != text]
    if not check:
        for path in stale:
            path.write_text(wanted[path], encoding="utf-8")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv))
