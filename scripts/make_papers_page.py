"""Write docs/papers.md, with its figures: what papers print beside what came out here.

    python scripts/make_papers_page.py RESULTS...

RESULTS: stores, or files of records, of `ostiary run` of plans under plans/papers. A plan's first cell names its section.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from make_grid_page import newest
from make_ppt_page import saved

from ostiary.experiment.exchange import read_records
from ostiary.report.published import beside
from ostiary.report.sweeps import sweeps
from ostiary.report.tables import Group, detector_rows, groups, rows, text

PAGE = Path(__file__).parent.parent / "docs" / "papers.md"


def main(sources: Sequence[str]) -> None:
    records = [record for source in sources for record in read_records(source)]
    lines = [
        "# What papers print, and what came out here",
        "",
        "Written by `scripts/make_papers_page.py` from `ostiary run plans/papers/...`; every section is one plan, whose notes "
        "say what the paper leaves open. Ours: mean over seeds and, in brackets, its 95 % interval (of one seed, that of its "
        "test inputs); last, ours less theirs. All in percent. Published figures were not tuned for.",
    ]
    for title in sorted({r.title for r in records}, key=ordered):
        own = newest([r for r in records if r.title == title])
        lines += ["", f"## {title}", "", *section(groups(own))]
    PAGE.write_text("\n".join(lines) + "\n", encoding="utf-8")


def ordered(title: str) -> list[tuple[int, str]]:
    """Table 10 after Table 9."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", title)]


def section(found: Sequence[Group]) -> list[str]:
    seeds = sorted({r.plan["seed"] for g in found for r in g.records})
    head = ["", "| cell | what | paper | ours | difference |", "|---|---|---:|---:|---:|"]
    lines = list[str]()
    for group in found:
        for line in beside(group.records[0], rows(group), len(group.records)):
            if line.ours:
                lines.append(f"| {group.name} | {line.what} | {line.theirs} | {line.ours} | {line.difference} |")
    lines = [f"Seeds {', '.join(map(str, seeds))}.", *([*head, *lines] if lines else []), *unnamed(found), *detected(found)]
    lines += failures(found)
    return [*lines, *(line for figure in sweeps(found) for line in ("", *saved(figure, stem(found[0].records[0].title))))]


def stem(title: str) -> str:
    """A title as part of a file's name."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def failures(found: Sequence[Group]) -> list[str]:
    """What broke off or was refused, and is in no figure above: cell, method, seeds, reason."""
    said: dict[tuple[str, str, str], list[str]] = {}
    for group in found:
        for record in group.records:
            for stage, reason in record.errors.items():
                if stage.startswith("verdict"):  # for want of what was to be judged
                    continue
                said.setdefault((group.name, stage.partition(" ")[2] or stage, reason), []).append(str(record.plan["seed"]))
    lines = [f"- {cell}, {what}, seed {', '.join(seeds)}: {reason}" for (cell, what, reason), seeds in said.items()]
    return ["", "Without a figure, and in no mean above:", "", *lines] if lines else []


def unnamed(found: Sequence[Group]) -> list[str]:
    """Cells of which the paper prints no figure, in our own columns."""
    own = [g for g in found if not any(line.ours for line in beside(g.records[0], rows(g)))]
    if not own:
        return []
    lines = [
        "",
        "Not printed by the paper (ASR / ACC):",
        "",
        "| cell | defence | ASR | natural | ACC |",
        "|---|---|---:|---:|---:|",
    ]
    for group in own:
        for row in rows(group):
            if "asr" in row.figures:
                shown = (f"{100 * float(row.figures[k]['value']):.1f}" for k in ("asr", "natural", "acc"))
                n, runs = row.figures["acc"]["n"], len(group.records)
                of = f" ({n} of {runs} seeds)" if n < runs else ""
                lines.append(f"| {group.name} | {row.defence}{of} | {' | '.join(shown)} |")
    return lines


def detected(found: Sequence[Group]) -> list[str]:
    """What detectors find, of plans that are about these alone."""
    if any(r.plan["purifiers"] for g in found for r in g.records):
        return []
    lines = [
        f"| {row.group} | {row.defence} | {' | '.join(text(k, row.figures.get(k)) for k in ('auroc', 'tpr', 'fpr'))} |"
        for group in found
        for row in detector_rows(group)
    ]
    return ["", "| cell | detector | AUROC | TPR % | FPR % |", "|---|---|---:|---:|---:|", *lines] if lines else []


if __name__ == "__main__":
    main(sys.argv[1:])
