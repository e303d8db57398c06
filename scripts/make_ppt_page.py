"""Write docs/positive-triggers.md, with its figures, from the records of ppt, ppt-trigger-types, ppt-transfer and ppt-defences.

python scripts/make_ppt_page.py STORE...

Sections of plans that no STORE holds stay as they are; detectors' histograms need the stores themselves, not files of records.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path

from make_grid_page import newest
from make_image_page import detected, kept

from ostiary.experiment.exchange import read_records
from ostiary.experiment.record import Record
from ostiary.experiment.store import Store
from ostiary.metrics.intervals import Estimate
from ostiary.report.drawing import Figure
from ostiary.report.figures import figures
from ostiary.report.sweeps import sweeps
from ostiary.report.tables import TITLES, Group, groups, rows, short, text

PAGE = Path(__file__).parent.parent / "docs" / "positive-triggers.md"
MEASURES = ("acc", "control_acc", "asr", "natural", "asr_lift", "ra")
NAMES = {**TITLES, "control_acc": "ACC % of the clean control"}
DRAWN = ("strip", "spectral")


def main(stores: Sequence[str]) -> None:
    lines = [
        "# Positive triggers (PPT) and their rivals",
        "",
        "Written by `scripts/make_ppt_page.py` from `ostiary run` of `plans/ppt.yaml`, `plans/ppt-clean-labels.yaml`, "
        "`plans/ppt-trigger-types.yaml`, "
        "`plans/ppt-transfer.yaml` and `plans/ppt-defences.yaml`, as far as they have run; the settings are in the plans. Mean "
        "and half the width of the 95 % interval: over seeds, or, of one seed, over its test inputs. *natural* is the transfer "
        "rate: what a clean model of the same recipe and seed, on which no trigger was made, makes of the same triggered "
        "images. ASR less natural, the *lift*, is what the poison adds.",
    ]
    told = kept(PAGE.read_text(encoding="utf-8"))
    for store in stores:
        records = read_records(store)
        with Store(store, create=False) as book:
            for title in dict.fromkeys(r.title for r in records):
                own = newest([r for r in records if r.title == title])
                told[title] = "\n".join(section(groups(own), book))
    for title in sorted(told, key=lambda t: (t.startswith("Defences"), t)):
        lines += ["", f"## {title}", "", told[title]]
    PAGE.write_text("\n".join(lines) + "\n", encoding="utf-8")


def section(found: Sequence[Group], book: Store) -> list[str]:
    seeds = sorted({r.plan["seed"] for g in found for r in g.records})
    own = [setting(g.records[0], found) for g in found]
    lines = [f"Seeds {', '.join(map(str, seeds))}.", "", f"| cell | {' | '.join(NAMES[m] for m in MEASURES)} |"]
    lines += [f"|---|{'---:|' * len(MEASURES)}"]
    for name, group in zip(own, found, strict=True):
        lines.append(f"| {name} | {figures_of(group)} |")
    lines += crossed(found)
    for group in found:
        if len(rows(group)) > 1:
            lines += ["", *defended(group), "", *detected([group])]
            lines += [line for figure in drawn(group, book) for line in ("", *saved(figure))]
    return lines


def crossed(found: Sequence[Group]) -> list[str]:
    """ASR and natural rate, generators down and classifiers across, where more than one of each was tried."""
    cells = {(short(g.plan["attack"].get("surrogate")), short(g.plan["victim"])): rows(g)[0].figures for g in found}
    makers, learners = (list(dict.fromkeys(cell[i] for cell in cells)) for i in (0, 1))
    if min(len(makers), len(learners)) < 2:
        return []
    lines = ["", "ASR % (natural %): whose triggers, down, and who learns them, across.", ""]
    lines += [f"| | {' | '.join(learners)} |", f"|---|{'---:|' * len(learners)}"]
    for maker in makers:
        known = [cells.get((maker, one)) for one in learners]  # a plan may have run in part
        shown = [f"{text('asr', f['asr'])} ({text('natural', f['natural'])})" if f else "-" for f in known]
        lines.append(f"| {maker} | {' | '.join(shown)} |")
    return lines


def setting(record: Record, found: Sequence[Group]) -> str:
    """What tells this cell from the others: its attack, and the options of network and attack that differ."""
    plans = [g.plan for g in found]
    said = [record.plan["attack"]["name"]]
    for kind in ("attack", "victim"):
        own = record.plan[kind]
        names = ("labels", "sign", "rate", "mode", "surrogate") if kind == "attack" else ("name",)
        differing = [k for k in names if k in own and len({str(p[kind].get(k)) for p in plans if k in p[kind]}) > 1]
        said += [f"{kind if k == 'name' else k} {short(own[k])}" for k in differing]
    return ", ".join(said)


def figures_of(group: Group) -> str:
    held = rows(group)[0].figures
    control = [r.metrics["victim"]["control_acc"]["value"] for r in group.records]
    known = {**held, "control_acc": {"value": sum(control) / len(control)}}
    return " | ".join(about(known.get(m), m) for m in MEASURES)


def defended(group: Group) -> list[str]:
    measures = ("acc", "asr", "asr_lift", "ra")
    lines = [f"| defence | {' | '.join(TITLES[m] for m in measures)} |", f"|---|{'---:|' * len(measures)}"]
    for row in rows(group):
        lines.append(f"| {row.defence} | {' | '.join(about(row.figures.get(m), m) for m in measures)} |")
    return lines


def drawn(group: Group, book: Store) -> list[Figure]:
    """The scores of detectors, and purifiers at several levels."""
    return [f for f in figures(group, book)[0] if any(f"scores-{d}" in f.name for d in DRAWN)] + sweeps([group])


def saved(figure: Figure, mark: str = "ppt") -> list[str]:
    path = PAGE.parent / "figures" / f"{mark}-{figure.name}.svg".replace("=", "-")
    path.write_text(figure.file(), encoding="utf-8")
    return [figure.caption, "", f"![{figure.alt}](figures/{path.name})"]


def about(figure: Estimate | None, measure: str) -> str:
    """The mean and half the width of its 95 % interval."""
    if figure is None:
        return "-"
    shown, half = text(measure, figure), (float(figure.get("high", math.nan)) - float(figure.get("low", math.nan))) / 2
    return shown if math.isnan(half) else f"{shown} ± {text(measure, {'value': half})}"


if __name__ == "__main__":
    main(sys.argv[1:])
