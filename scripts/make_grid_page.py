"""Write docs/graph-grid.md, with its figure, from the records of `ostiary run plans/graph-grid.yaml`.

    python scripts/make_grid_page.py RESULTS...

RESULTS: stores, or files of records, of that plan and of `ostiary run plans/clean-models.yaml`, for what each defence costs a
clean model: results/graph-grid.jsonl.xz results/graph-grid-networks.jsonl.xz results/clean-models.jsonl.xz
results/scan-grid.jsonl.xz.
"""

from __future__ import annotations

import math
import re
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ostiary.experiment.exchange import read_records
from ostiary.experiment.plan import Plan
from ostiary.experiment.record import Record
from ostiary.experiment.stages import key_of
from ostiary.metrics.intervals import mean
from ostiary.report.causes import causes, false_target
from ostiary.report.ranking import RANKING, attacked, collapsed, ranking, solves, spread
from ostiary.report.scans import SCANS, scan_rows
from ostiary.report.tables import REACTIVATION, short, text, unpoisoned

ROOT = Path(__file__).parent.parent
PAGE, FIGURE = ROOT / "docs" / "graph-grid.md", ROOT / "docs" / "figures" / "graph-grid-causes.svg"

BANDS = {"found < 50 %": (0.0, 0.5), "50 to 90 %": (0.5, 0.9), "90 % and more": (0.9, 1.01)}
RETRAINED = {  # detector -> the defence that retrains by it
    "spectral": "retrain-without",
    "fct": "retrain-without(detector=fct)",
    "xgbd": "retrain-without(detector=xgbd)",
    "ed(on=train)": "retrain-without(detector=ed(on=train))",
    "rigbd(own_model=True)": "rigbd",
}


def main(sources: Sequence[str]) -> None:
    records = newest([record for source in sources for record in read_records(source)])
    ours = [r for r in records if r.metrics.get("attack", {}).get("poisoned") != 0]
    seeds = sorted({r.plan["seed"] for r in ours})
    taken = attacked(ours)
    judged = [r for r in ours if "asr_lift" in r.metrics.get("victim", {})]
    parts = [
        "# How far each graph defence really is",
        "",
        "Written by `scripts/make_grid_page.py` from `ostiary run plans/graph-grid.yaml` "
        f"({len(judged)} of its runs, seeds {', '.join(map(str, seeds))}, {sets(judged)}; the attack works in "
        f"{len(taken)}), `ostiary run plans/clean-models.yaml` and, for the scans of models, `ostiary run "
        "plans/scan-grid.yaml`. The settings, the networks and the sizes of the triggers are in the plans. A run counts where "
        "the attack has a lift of 30 points over a clean model. *Solved*: the share of runs left with a lift of at most 5 "
        "points, for at most 5 points of accuracy, by a model that does not say one class only (a run that failed is not).",
        "",
        *table(ranking(records)),
        "",
        "Mean ± standard deviation over runs; seconds of one core, beside one to four other processes."
        + broken(records)
        + earlier(records),
        "",
        "## What is left: the backdoor, or a class that was lost",
        "",
        *figure(ours),
        *reasons(taken),
        "",
        "Why, measured with what only a judge knows: [causes](graph-grid-causes.md).",
        "",
        "## How fast the backdoor comes back",
        "",
        *reactivated(taken),
        "",
        "## What detectors find, and what it is worth",
        "",
        *detected(taken),
        "",
        *scanned(records),
        "",
        "## Run by run: lift left / accuracy lost",
        "",
        *cells(taken),
    ]
    PAGE.write_text("\n".join(parts) + "\n", encoding="utf-8")


def earlier(records: Sequence[Record]) -> str:
    """Whose figures are of an earlier form of the method, so that a run of today would measure them anew."""
    those = [*attacked(records), *unpoisoned(records)]
    found = Counter(label for r in those for label in outdated(r))
    told = [f"{label} in {n} of {sum(holds(r, label) for r in those)} runs" for label, n in found.items()]
    return f" Measured by an earlier form of the method: {', '.join(told)}." if told else ""


def outdated(record: Record) -> list[str]:
    """Detectors and purifiers whose figures in the record are of an earlier form of theirs."""
    plan = Plan(**{k: v for k, v in record.plan.items() if k != "seed"}, seeds=(record.plan["seed"],))
    revised = [part for part in (*plan.detectors, *plan.purifiers) if part.revisions() and holds(record, part.label())]
    victim = record.stages["victim"]
    return [p.label() for p in revised if record.stages[f"{p.kind} {p.label()}"] != key_of(p, victim)]


def holds(record: Record, label: str) -> bool:
    return any(f"{kind} {label}" in record.stages for kind in ("detector", "purifier"))


def broken(records: Sequence[Record]) -> str:
    """What broke off on clean models, whose means lack it."""
    found = [
        f"{stage.removeprefix('purifier ')} on {place(r)}, seed {r.plan['seed']}"
        for r in unpoisoned(records)
        for stage in r.errors
        if stage.startswith("purifier ")
    ]
    return f" Broken off on clean models, and in no mean: {'; '.join(found)}." if found else ""


def sets(records: Sequence[Record]) -> str:
    return ", ".join(dict.fromkeys(str(r.plan["dataset"].get("set") or r.plan["dataset"]["name"]) for r in records))


def newest(records: Sequence[Record]) -> list[Record]:
    """One record per data set, network, attack and seed: of the plan with most defences, the last."""
    best: dict[str, Record] = {}
    for record in records:
        key = str([record.plan[k] for k in ("dataset", "victim", "attack", "trainer", "seed")])
        if key not in best or len(record.plan["purifiers"]) >= len(best[key].plan["purifiers"]):
            best[key] = record
    return list(best.values())


def table(ranks: Sequence[object]) -> list[str]:
    lines = [f"| defence | runs | failed | {' | '.join(RANKING.values())} |", f"|---|{'---:|' * (len(RANKING) + 2)}"]
    for rank in ranks:
        figures = (spread(c, rank.figures.get(c)) for c in RANKING)  # type: ignore[attr-defined]
        lines.append(f"| {rank.defence} | {rank.cells} | {rank.failed} | {' | '.join(figures)} |")  # type: ignore[attr-defined]
    return lines


def figure(records: Sequence[Record]) -> list[str]:
    drawn = causes(records)
    if not drawn:
        return []
    FIGURE.write_text(once(drawn[0].file()), encoding="utf-8")
    return [drawn[0].caption, "", f"![{drawn[0].alt}](figures/{FIGURE.name})", ""]


def once(svg: str) -> str:
    """The same picture with the mark that its points share written once and their places to a tenth of a pixel: in a
    fraction of the bytes."""
    places = r'<path (transform="translate\([^)]*\)")'
    mark = Counter(m for _, m in re.findall(places + r'( d="[^"]*"[^>]*)/>', svg)).most_common(1)[0][0]
    svg = re.sub(places + re.escape(mark) + "/>", r'<use href="#run" \1/>', svg)
    svg = re.sub(r"(?<=<use href=\"#run\" transform=\"translate\()[\d.]+,[\d.]+", tenths, svg)
    return svg.replace(">", f'><defs><path id="run"{mark}/></defs>', 1)


def tenths(place: re.Match[str]) -> str:
    return ",".join(f"{float(v):.1f}".removesuffix(".0") for v in place[0].split(","))


def reasons(taken: Sequence[Record]) -> list[str]:
    """How often each defence leaves the trigger at work, loses the source class, or loses accuracy: counted, per defence."""
    lines = [
        "| defence | runs | solved | trigger still works | source class lost | accuracy lost | says one class only |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    labels = list(dict.fromkeys(label for r in taken for label in r.metrics["purifiers"]))
    for label in labels:
        held = [(r, r.metrics["purifiers"][label]) for r in taken if "asr" in r.metrics["purifiers"].get(label, {})]
        errors = [false_target(m, r.plan["attack"]["target"]) for r, m in held]
        before = [false_target(r.metrics["victim"], r.plan["attack"]["target"]) for r, _ in held]
        works = sum(
            m["asr"]["value"] - e > 0.05 and m["asr_lift"]["value"] > 0.05 for (_, m), e in zip(held, errors, strict=True)
        )
        lost = sum(e - b > 0.1 for e, b in zip(errors, before, strict=True))
        dropped = sum(m["drop"]["value"] > 0.05 for _, m in held)
        solved, one = sum(solves(m) for _, m in held), sum(collapsed(m) for _, m in held)
        lines.append(f"| {label} | {len(held)} | {solved} | {works} | {lost} | {dropped} | {one} |")
    said = (
        "Runs by outcome (a run may count twice). Trigger still works: a lift, and triggered sources called the target more "
        "often than untriggered ones, by more than 5 points. Source class lost: 10 points more of the untriggered sources are "
        "called the target than before. Accuracy lost: more than 5 points."
    )
    return ["", said, "", *lines]


def reactivated(taken: Sequence[Record]) -> list[str]:
    """Mean ASR before and after a little training on triggered samples, by defence, over the runs that have these figures."""
    lines = [
        "In brackets what a model that was always clean makes of it in the same runs; votes were re-activated in few.",
        "",
        f"| model | runs | {' | '.join(REACTIVATION.values())} |",
        f"|---|{'---:|' * (1 + len(REACTIVATION))}",
    ]
    for label in dict.fromkeys(label for r in taken for label in r.metrics["purifiers"]):
        both = [(r.metrics["purifiers"].get(label, {}), r.metrics["victim"]) for r in taken]
        having = [(m, v) for m, v in both if all(c in m for c in REACTIVATION) and v.get("relearning")]
        if having:
            clean = [{**v["relearning"], "asr": v["natural"]} for _, v in having]
            shown = (f"{average([m for m, _ in having], c)} ({average(clean, c)})" for c in REACTIVATION)
            lines.append(f"| {label} | {len(having)} | {' | '.join(shown)} |")
    return lines


def average(held: Sequence[dict[str, Any]], name: str) -> str:
    return text(name, mean([m[name]["value"] for m in held]))


def detected(taken: Sequence[Record]) -> list[str]:
    """Detectors of training rows: how they rank and flag, and what is left after retraining by how much they found."""
    lines = [
        "Detectors of poisoned training graphs, means over runs ± standard deviation; then the lift that is left where the "
        "named defence retrains without what was flagged (`rigbd`: also against it), by the share of the poison that was "
        "(in brackets: runs).",
        "",
        f"| detector | runs | AUROC | TPR % | FPR % | defence | {' | '.join(BANDS)} |",
        f"|---|---:|---:|---:|---:|---|{'---:|' * len(BANDS)}",
    ]
    for label, defence in RETRAINED.items():
        held = [(r, r.metrics["detectors"][label]) for r in taken if "tpr" in r.metrics["detectors"].get(label, {})]
        if not held:
            continue
        auroc = mean([m["auroc"] for _, m in held])
        figures = [f"{float(auroc['value']):.2f} ± {float(auroc.get('sd', math.nan)):.2f}"]
        figures += [spread(c, mean([m[c]["value"] for _, m in held])) for c in ("tpr", "fpr")]
        left = []
        for low, high in BANDS.values():
            lifts = [
                r.metrics["purifiers"][defence]["asr_lift"]["value"]
                for r, m in held
                if low <= m["tpr"]["value"] < high and "asr_lift" in r.metrics["purifiers"].get(defence, {})
            ]
            left.append(f"{100 * sum(lifts) / len(lifts):z.0f} ({len(lifts)})" if lifts else "-")
        lines.append(f"| {label} | {len(held)} | {' | '.join(figures)} | {defence} | {' | '.join(left)} |")
    return lines


def scanned(records: Sequence[Record]) -> list[str]:
    """How scans of models tell backdoored victims from clean ones, over all records."""
    found = {"all": scan_rows(records)}
    if not found["all"]:
        return []
    places = list(dict.fromkeys(place(r) for r in records))
    if len(places) > 1:
        found |= {where: scan_rows(r for r in records if place(r) == where) for where in places}
    said = "Scans of models, over victims with a working attack and those with nothing poisoned"
    return [
        f"{said}; then by data set and network:" if len(places) > 1 else f"{said}:",
        "",
        f"| scan | of | {' | '.join(SCANS.values())} |",
        f"|---|---|{'---:|' * len(SCANS)}",
        *(
            f"| {row.defence} | {where} | {' | '.join(text(n, row.figures.get(n)) for n in SCANS)} |"
            for where, rows in found.items()
            for row in rows
        ),
    ]


def cells(taken: Sequence[Record]) -> list[str]:
    labels = list(dict.fromkeys(label for r in taken for label in r.metrics["purifiers"]))
    lines = [f"| run | ASR / natural / ACC | {' | '.join(labels)} |", f"|---|---|{'---|' * len(labels)}"]
    for record in taken:
        victim = record.metrics["victim"]
        before = " / ".join(percent(victim[k]["value"]) for k in ("asr", "natural", "acc"))
        lines.append(f"| {name(record)} | {before} | {' | '.join(left(record, label) for label in labels)} |")
    return lines


def name(record: Record) -> str:
    attack = record.plan["attack"]
    return f"{place(record)}, {attack['name']} to {attack.get('target')}, seed {record.plan['seed']}"


def place(record: Record) -> str:
    data = record.plan["dataset"]
    return f"{data.get('set') or data['name']} {short(record.plan['victim'])}"


def left(record: Record, label: str) -> str:
    metrics = record.metrics["purifiers"].get(label, {})
    return f"{percent(metrics['asr_lift']['value'])} / {percent(metrics['drop']['value'])}" if "drop" in metrics else "-"


def percent(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{100 * value:z.0f}"


if __name__ == "__main__":
    main(sys.argv[1:])
