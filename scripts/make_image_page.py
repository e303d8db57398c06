"""Write docs/image-defences.md from the records of the plans images-digits, images-cifar, images-resnet18 and
image-defences-on-graphs, and, for what each defence costs a clean model, images-clean.

python scripts/make_image_page.py RESULTS...

RESULTS: stores or files of records. Sections of plans that none of them holds stay as they are, and so do notes that stand
after the first sentence of a section.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from make_grid_page import earlier, newest, scanned, table

from ostiary.experiment.exchange import read_records
from ostiary.experiment.record import Record
from ostiary.report.ranking import attacked, ranking
from ostiary.report.tables import DETECTION, Group, detector_rows, groups, rows, text

PAGE = Path(__file__).parent.parent / "docs" / "image-defences.md"
JUDGED = {"asr": "ASR %", "acc": "ACC %", "ra": "RA %", "der": "DER"}
COUNTED = "of which the attack works."
VICTIM = {"acc": "ACC %", "asr": "ASR %", "natural": "natural %", "cross": "cross-trigger ACC %"}


def main(sources: Sequence[str]) -> None:
    lines = [
        "# Defences of image classifiers, and of graphs by the same methods",
        "",
        "Written by `scripts/make_image_page.py` from `ostiary run plans/images-digits.yaml`, `plans/images-cifar.yaml`, "
        "`plans/images-resnet18.yaml` and `plans/image-defences-on-graphs.yaml`, as far as they have run, and, for clean "
        "models, `plans/images-clean.yaml`; settings are in the plans. Means over seeds. *natural*: what a clean model "
        "of the same recipe and seed does with the same triggered inputs (the transfer rate). An attack counts in the ranking "
        "where it has a lift of 30 points; *solved*: a lift and an accuracy drop of at most 5 points, by a model that still "
        "tells classes apart. Tables by attack and defence, over the runs in which defences were judged: mean and, in "
        "brackets, its 95 % interval (Student's over seeds, or that of the inputs judged where it is wider; of a single seed "
        "the latter: Wilson's, of DER what follows from those of ACC and ASR as if independent). DER: defence effectiveness "
        "rating, 1 where the backdoor is gone for free, 0.5 where nothing is gained.",
    ]
    told = kept(PAGE.read_text(encoding="utf-8"))
    records = [record for source in sources for record in newest(read_records(source))]
    clean = [r for r in records if unpoisoned(r)]
    for title in dict.fromkeys(r.title for r in records if not unpoisoned(r)):
        notes = told.get(title, "").partition("\n")[0].partition(COUNTED)[2]
        own = [r for r in records if r.title == title]
        recipes = [recipe(r) for r in own]
        told[title] = "\n".join(section(own, [r for r in clean if recipe(r) in recipes], notes))
    lines += [line for title, text in told.items() for line in ("", f"## {title}", "", text)]
    PAGE.write_text("\n".join(lines) + "\n", encoding="utf-8")


def kept(page: str) -> dict[str, str]:
    """Title -> text of every section."""
    return {title.strip(): text.strip() for title, _, text in (s.partition("\n") for s in page.split("\n## ")[1:])}


def unpoisoned(record: Record) -> bool:
    return bool(record.metrics.get("attack", {}).get("poisoned") == 0)


def recipe(record: Record) -> list[Any]:
    """What a clean model shares with a victim."""
    return [record.plan[k] for k in ("dataset", "victim", "trainer")]


def section(records: Sequence[Record], clean: Sequence[Record], notes: str = "") -> list[str]:
    found = groups(records)
    seeds = sorted({r.plan["seed"] for r in records})
    said = f"Seeds {', '.join(map(str, seeds))}; {len(records)} runs, in {len(attacked(records))} {COUNTED}{notes}"
    ranks = ranking([*records, *clean])
    older = earlier([*records, *clean]).strip()
    ranked = [*table(ranks), *(["", older] if older else []), ""] if ranks else []
    models = ["", *scanned([*records, *clean])] if clean else []
    return [said, "", *victims(found), "", *ranked, *purified(found), "", *detected(found), *models]


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
    return f"{where if data['name'] in ('tu', 'solubility') else ''}{attack['name']}"


def purified(found: Sequence[Group]) -> list[str]:
    """A table of each measure: defences down, attacks across."""
    held, lines = [{row.defence: row for row in rows(defended(group))} for group in found], list[str]()
    for measure, title in JUDGED.items():
        lines += ["", f"| {title} | {' | '.join(map(short_name, found))} |", f"|---|{'---:|' * len(found)}"]
        for label in dict.fromkeys(label for rs in held for label in rs):
            shown = [text(measure, rs[label].figures.get(measure) if label in rs else None, interval=True) for rs in held]
            lines += [f"| {label} | {' | '.join(shown)} |"] if any(s != "-" for s in shown) else []
    return lines[1:]


def defended(group: Group) -> Group:
    """The runs in which defences were judged, so that the victims beside them are theirs; all where there are none."""
    having = tuple(r for r in group.records if r.metrics.get("purifiers"))
    return replace(group, records=having) if having else group


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
