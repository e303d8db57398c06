"""Write docs/image-defences.md from the records of the plans images-digits, images-cifar and image-defences-on-graphs.

python scripts/make_image_page.py STORE...
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from make_grid_page import newest, read, table

from ostiary.experiment.record import Record
from ostiary.report.ranking import attacked, ranking
from ostiary.report.tables import DETECTION, Group, Row, detector_rows, groups, rows, text

PAGE = Path(__file__).parent.parent / "docs" / "image-defences.md"
VICTIM = {"acc": "ACC %", "asr": "ASR %", "natural": "natural %", "cross": "cross-trigger ACC %"}


def main(stores: Sequence[str]) -> None:
    lines = [
        "# Defences of image classifiers, and of graphs by the same methods",
        "",
        "Written by `scripts/make_image_page.py` from `ostiary run plans/images-digits.yaml`, `plans/images-cifar.yaml` and "
        "`plans/image-defences-on-graphs.yaml`, as far as they have run; settings are in the plans. Means over seeds. "
        "*natural*: what an independent clean model does with the same triggered inputs (the transfer rate). An attack counts "
        "in the ranking where it has a lift of 30 points; *solved*: a lift and an accuracy drop of at most 5 points.",
    ]
    for store in stores:
        records = newest(read(store))
        for title in dict.fromkeys(r.title for r in records):
            lines += ["", f"## {title}", "", *section([r for r in records if r.title == title])]
    PAGE.write_text("\n".join(lines) + "\n", encoding="utf-8")


def section(records: Sequence[Record]) -> list[str]:
    found = groups(records)
    seeds = sorted({r.plan["seed"] for r in records})
    said = f"Seeds {', '.join(map(str, seeds))}; {len(records)} runs, in {len(attacked(records))} of which the attack works."
    return [said, "", *victims(found), "", *table(ranking(records)), "", *purified(found), "", *detected(found)]


def victims(found: Sequence[Group]) -> list[str]:
    lines = [f"| attack | seeds | {' | '.join(VICTIM.values())} |", f"|---|{'---:|' * (len(VICTIM) + 1)}"]
    for group in found:
        figures: dict[str, Any] = dict(rows(group)[0].figures)
        held = [r.metrics["victim"]["cross"]["value"] for r in group.records if "cross" in r.metrics.get("victim", {})]
        figures |= {"cross": {"value": sum(held) / len(held)}} if held else {}
        shown = (text(name, figures.get(name)) for name in VICTIM)
        lines.append(f"| {short_name(group)} | {len(group.records)} | {' | '.join(shown)} |")
    return lines


def short_name(group: Group) -> str:
    data, attack = group.plan["dataset"], group.plan["attack"]
    where = f"{data.get('set') or data['name']} to {attack.get('target')}, " if data.get("modality") != "image" else ""
    return (where if data["name"] in ("tu", "solubility") else "") + attack["name"]


def purified(found: Sequence[Group]) -> list[str]:
    """ASR left / accuracy lost / robust accuracy, in percent: defences down, attacks across."""
    lines = [f"| ASR / ACC drop / RA | {' | '.join(map(short_name, found))} |", f"|---|{'---|' * len(found)}"]
    held = [{row.defence: row for row in rows(group)} for group in found]
    for label in dict.fromkeys(label for rs in held for label in rs if label != "none"):
        lines.append(f"| {label} | {' | '.join(cell(rs.get(label)) for rs in held)} |")
    return lines


def cell(row: Row | None) -> str:
    if row is None or "asr" not in row.figures:
        return "-"
    return " / ".join(f"{100 * float(row.figures[name]['value']):.0f}" for name in ("asr", "drop", "ra"))


def detected(found: Sequence[Group]) -> list[str]:
    names = [n for n in DETECTION if any(n in row.figures for g in found for row in detector_rows(g))]
    if not names:
        return []
    lines = [f"| attack | detector | {' | '.join(DETECTION[n] for n in names)} |", f"|---|---|{'---:|' * len(names)}"]
    for group in found:
        for row in detector_rows(group):
            shown = " | ".join(text(n, row.figures.get(n)) for n in names)
            lines.append(f"| {short_name(group)} | {row.defence} | {shown} |")
    return lines


if __name__ == "__main__":
    main(sys.argv[1:])
