"""Write docs/graph-grid-causes.md: why defences fall short in the runs of the grid, measured with what only a judge knows.

    python scripts/make_causes_page.py CAUSES RECORDS...

CAUSES: what scripts/measure_causes.py keeps, results/causes/graph-grid.jsonl.xz. RECORDS: stores, or files of records, of the
same runs: results/graph-grid.jsonl.xz results/graph-grid-networks.jsonl.xz. A run whose victim is not the one that was measured
is told of and left out.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from make_grid_page import name, newest, once, outdated, percent, place
from measure_causes import SHARES, Told, lines, victim_of
from scipy.stats import spearmanr

from ostiary.experiment.exchange import read_records
from ostiary.experiment.record import Record
from ostiary.metrics.intervals import mean
from ostiary.report.drawing import ATTACK, MANY, Figure, alt, chart, header, specification
from ostiary.report.ranking import COUNTS, attacked, solves

ROOT = Path(__file__).parent.parent
PAGE, FIGURES = ROOT / "docs" / "graph-grid-causes.md", ROOT / "docs" / "figures"
PRUNING, LIFTS = "graph-grid-pruning.svg", "graph-grid-lifts.svg"
COLUMNS = {  # of the table run by run, and what measure_causes.py calls the figures in each
    "ASR, edges only": ("edges only",),
    "ASR, features only": ("features only",),
    "poison among the isolated / in the set": ("isolated", "poison"),
    "Prune: trigger's edges cut / all edges cut": ("prune: trigger", "prune: all"),
    "ED: the same": ("ed-removal: trigger", "ed-removal: all"),
    "margin of triggered graphs over clean ones": ("margin",),
    "I-BAU's perturbation: reaches / alike / covers": ("i-bau: reaches", "i-bau: alike", "i-bau: covers"),
    "SAU's": ("sau: reaches", "sau: alike", "sau: covers"),
    "NPD's": ("npd: reaches", "npd: alike", "npd: covers"),
    "ASR left by SAU told the trigger": ("sau: told",),
}
PLAIN = ("margin", *(f"{what}: {how}" for what in ("i-bau", "sau", "npd") for how in ("alike", "covers")))  # no shares
INF = math.inf
Bands = dict[str, tuple[float, float]]
Points = list[tuple[float, dict[str, Any]]]
FEW = 8  # runs: a rank correlation of fewer says nothing
BY_SHARE = {"below 10 %": (-INF, 0.1), "10 to 90 %": (0.1, 0.9), "90 % and more": (0.9, INF)}
BY_MARGIN = {"below 1": (-INF, 1.0), "1 to 3": (1.0, 3.0), "3 and more": (3.0, INF)}
BY_COSINE = {"below 0.3": (-INF, 0.3), "0.3 to 0.7": (0.3, 0.7), "0.7 and more": (0.7, INF)}
BY_WAY = {"below a half": (-INF, 0.5), "a half to twice": (0.5, 2.0), "twice and more": (2.0, INF)}
BY_CHANNELS = {"none": (-INF, 1e-9), "up to 30 %": (1e-9, 0.3), "more": (0.3, INF)}
BY_NEURONS = {"below 10 %": (-INF, 0.1), "10 to 40 %": (0.1, 0.45), "half": (0.45, INF)}
NO_CLASS, OTHERS, BOTH, TARGET = range(4)
BY_CLASSES: Bands = {"no class": (0, 1), "others alone": (1, 2), "the target and others": (2, 3), "the target alone": (3, 4)}


@dataclass(frozen=True)
class Cause:
    """Of one defence what was measured, and the bands in which its runs are told. of: from a run's record and figures."""

    defence: str
    what: str
    bands: Bands
    of: Callable[[Record, dict[str, float]], float]


def measured(defence: str, what: str, bands: Bands, figure: str) -> Cause:
    return Cause(defence, what, bands, lambda _, figures: figures[figure])


def unlearned(defence: str) -> Cause:
    """Which classes it found a trigger of, and unlearned."""

    def of(record: Record, _: dict[str, float]) -> float:
        notes = record.metrics["purifiers"][defence]["notes"]
        target, held = list(notes["recovered rate"])[record.plan["attack"]["target"]], notes["unlearned"]
        if target in held:
            return BOTH if len(held) > 1 else TARGET
        return OTHERS if held else NO_CLASS

    return Cause(defence, "unlearned triggers of", BY_CLASSES, of)


def noted(defence: str, what: str, bands: Bands, *names: str) -> Cause:
    """From what it says itself: a note, or the ratio of two."""

    def of(record: Record, _: dict[str, float]) -> float:
        value, *whole = (float(record.metrics["purifiers"][defence]["notes"][n]) for n in names)
        return value / whole[0] if whole else value

    return Cause(defence, what, bands, of)


MARGIN = "margin of triggered graphs over clean ones"
CAUSES = (
    unlearned("gcleaner"),
    unlearned("gcleaner(preset=fast)"),
    unlearned("gcleaner(preset=paper)"),
    measured("abl", "poison among the isolated", BY_SHARE, "isolated"),
    *(measured(vote, "ASR by the trigger's edges alone", BY_SHARE, "edges only") for vote in (
        "subsampling(samples=100)", "edge-partition", "joint-partition")),
    measured("edge-drop", "ASR by the trigger's features alone", BY_SHARE, "features only"),
    measured("ed-removal", "trigger's edges cut", BY_SHARE, "ed-removal: trigger"),
    measured("prune", "trigger's edges cut", BY_SHARE, "prune: trigger"),
    *(measured(tuned, MARGIN, BY_MARGIN, "margin") for tuned in ("fine-tune", "nad", "graphnad")),
    noted("fine-pruning", "channels pruned", BY_CHANNELS, "pruned", "of"),
    noted("anp", "channels pruned", BY_CHANNELS, "pruned", "of"),
    noted("tsbd", "filters whose weights were zeroed", BY_NEURONS, "neurons"),
    measured("i-bau", "sources led to the target by its perturbation", BY_SHARE, "i-bau: reaches"),
    measured("sau", "share of the trigger's way that its perturbations go", BY_WAY, "sau: covers"),
    measured("npd", "likeness of its perturbations to the trigger", BY_COSINE, "npd: alike"),
)  # fmt: skip


def main(sources: Sequence[str]) -> None:
    told = {line["run"]: line for line in lines(Path(sources[0]))}
    taken = {name(r): r for r in attacked(newest([r for source in sources[1:] for r in read_records(source)]))}
    runs = [(record, told[run]) for run, record in taken.items() if told.get(run, {}).get("victim") == victim_of(record)]
    for run in sorted({run for run in taken if run in told} - {name(r) for r, _ in runs}):
        sys.stderr.write(f"{run}: the victim that was measured is another one, left out\n")
    for record, _ in runs:
        for label in outdated(record):
            record.metrics["purifiers"].pop(label, None)  # its figures are not what was measured
    if not runs:
        sys.exit("no run of these records has figures of its causes")
    FIGURES.joinpath(PRUNING).write_text(pruning(runs), encoding="utf-8")
    FIGURES.joinpath(LIFTS).write_text(lifts(runs), encoding="utf-8")
    PAGE.write_text("\n".join(page(runs, len(taken))) + "\n", encoding="utf-8")


def held(cause: Cause, runs: Sequence[tuple[Record, Told]]) -> Points:
    """What was measured in each run that has figures of the defence, and these."""
    having = [(r, t, r.metrics["purifiers"].get(cause.defence, {})) for r, t in runs]
    return [(cause.of(r, t["figures"]), m) for r, t, m in having if "asr_lift" in m]


def bands(runs: Sequence[tuple[Record, Told]]) -> list[str]:
    """A row a defence: how the lift that it leaves goes with what was measured."""
    heads = "| defence | what was measured | runs | rank correlation over all | within sets | lift left, by what was measured |"
    rows = [heads, "|---|---|---:|---:|---:|---|"]
    for cause in CAUSES:
        points = held(cause, runs)
        cells = []
        for band, (low, high) in cause.bands.items():
            those = [m for x, m in points if low <= x < high]
            if those:
                left = mean([m["asr_lift"]["value"] for m in those])["value"]
                cells.append(f"{band}: **{percent(left)}** ({sum(map(solves, those))} of {len(those)} solved)")
        rho = "- | -" if cause.bands is BY_CLASSES else f"{ranked([points])} | {ranked(by_set(cause, runs))}"
        rows.append(f"| {cause.defence} | {cause.what} | {len(points)} | {rho} | {'; '.join(cells)} |")
    return rows


def by_set(cause: Cause, runs: Sequence[tuple[Record, Told]]) -> list[Points]:
    """The points of each set and network that has some more than a few."""
    found = (held(cause, [(r, t) for r, t in runs if place(r) == where]) for where in dict.fromkeys(place(r) for r, _ in runs))
    return [points for points in found if len(points) >= FEW]


def ranked(groups: Sequence[Points]) -> str:
    """Spearman's correlation of what was measured with the lift left: of each group in which both vary, mean by their runs."""
    both = [([x for x, _ in points], [m["asr_lift"]["value"] for _, m in points]) for points in groups]
    told = [(len(x), spearmanr(x, y).statistic) for x, y in both if len(set(x)) > 1 and len(set(y)) > 1]
    return f"{sum(n * rho for n, rho in told) / sum(n for n, _ in told):z.2f}" if told else "-"


def told_trigger(runs: Sequence[tuple[Record, Told]]) -> str:
    """What SAU leaves by its own perturbations and with the trigger itself in their place."""
    both = [
        (r.metrics["purifiers"]["sau"]["asr_lift"]["value"], t["figures"]["sau: told"] - t["victim"]["natural"])
        for r, t in runs
        if "sau: told" in t["figures"] and "asr_lift" in r.metrics["purifiers"].get("sau", {})
    ]
    if not both:
        return ""
    own, told = (percent(mean([pair[i] for pair in both])["value"]) for i in (0, 1))
    missed = [after for before, after in both if before > COUNTS]
    return (
        f"With the trigger itself in place of them (seed 0, {len(both)} runs) its training leaves {told} points where by "
        f"its own it leaves {own}, and no more than 5 in {sum(x <= COUNTS for x in missed)} of the {len(missed)} runs in "
        "which by its own it leaves more: seldom are its training and the clean graphs to blame."
    )


def lifts(runs: Sequence[tuple[Record, Told]]) -> str:
    """The lift that each defence leaves over what was measured, a point a run."""
    points = []
    for cause in CAUSES:
        share = cause.bands in (BY_SHARE, BY_CHANNELS, BY_NEURONS)
        for x, m in held(cause, runs) if cause.bands is not BY_CLASSES else ():
            most = 10.0 if cause.bands in (BY_MARGIN, BY_WAY) else INF
            shown = round(100 * x, 1) if share else round(min(x, most), 2)
            points.append({"x": shown, "lift": round(100 * m["asr_lift"]["value"], 1), "of": f"{cause.defence}: {cause.what}"})
    labels = list(dict.fromkeys(p["of"] for p in points))
    dots = chart(points).mark_circle(size=14, opacity=0.5, color=ATTACK).encode(
        x=alt.X("x:Q", title=None), y=alt.Y("lift:Q", title="lift left, points")
    )  # fmt: skip
    facet = alt.Facet("of:N", title=None, sort=labels, header=header(labels, 190))
    whole = dots.properties(width=170, height=110).facet(facet=facet, columns=4).resolve_scale(x="independent")
    return once(Figure("causes", "lifts", "", "", "", specification(whole)).file())


def pruning(runs: Sequence[tuple[Record, Told]]) -> str:
    """Accuracy and ASR while channels go, a line a run."""
    curves = [
        {"pruned": 100 * share, "%": 100 * value, "what": what, "run": t["run"], "of": place(r)}
        for r, t in runs
        for what, values in t["pruning"].items()
        for share, value in zip(SHARES, values, strict=True)
    ]
    drawn = chart(curves).mark_line(strokeWidth=1, opacity=0.5).encode(
        x=alt.X("pruned:Q", title="channels pruned, %"),
        y=alt.Y("%:Q", title="%"),
        color=alt.Color("what:N", scale=alt.Scale(domain=["ACC", "ASR"], range=[MANY[2], MANY[3]])),
        detail="run:N",
    )  # fmt: skip
    whole = drawn.properties(width=170, height=110).facet(facet=alt.Facet("of:N", title=None), columns=4)
    return Figure("causes", "pruning", "", "", "", specification(whole)).file()


def shown(figure: str, values: Sequence[float]) -> str:
    if not values:
        return "-"
    return f"{median(values):z.1f}" if figure in PLAIN else f"{percent(median(values))} %"


def medians(runs: Sequence[tuple[Record, Told]]) -> list[str]:
    """A line per set and network: medians over its runs."""
    rows = []
    for where in dict.fromkeys(place(r) for r, _ in runs):
        those = [t for r, t in runs if place(r) == where]
        rows.append(row(f"{where}, {len(those)} runs", those))
    return rows


def row(head: str, told: Sequence[Told]) -> str:
    held = {f: [t["figures"][f] for t in told if f in t["figures"]] for figures in COLUMNS.values() for f in figures}
    cells = (" / ".join(shown(f, held[f]) for f in figures) for figures in COLUMNS.values())
    return f"| {head} | {' | '.join(cells)} |"


def page(runs: Sequence[tuple[Record, Told]], of: int) -> list[str]:
    heads = [f"| {{}} | {' | '.join(COLUMNS)} |", f"|---|{'---|' * len(COLUMNS)}"]
    return [
        "# Why graph defences fall short: measured causes",
        "",
        "Written by `scripts/make_causes_page.py` from the victims of `ostiary run plans/graph-grid.yaml` "
        "(`scripts/measure_causes.py`), with what only a judge knows: the trigger, the poisoned rows, the triggered "
        f"test graphs; {len(runs)} of the {of} runs in which the attack works. Read it beside [the "
        "grid](graph-grid.md).",
        "",
        "## What goes with the lift that is left",
        "",
        "For each defence what its idea stands or falls with, and the lift it leaves (mean, in points) where that is "
        "so and where it is not. Rank correlation (Spearman's) is over runs, between what was measured and the lift "
        f"left; within sets: of each set and network with {FEW} runs and more, their mean.",
        "",
        *bands(runs),
        "",
        f"![Lift left by each defence over what was measured, a point a run; ratios over ten at ten](figures/{LIFTS})",
        "",
        "What explains most comes first:",
        "",
        "- **GCleaner** takes the trigger away where it finds the attacked class, and never where it unlearned "
        "nothing. Unlearning other classes, too, costs accuracy.",
        "- **ABL** isolates the 1 % learnt first. Where they are poison the backdoor goes; where they are not it "
        "stays, and benign graphs are unlearnt: [how often](results.md#abl-stands-and-falls-with-its-isolation).",
        "- **ED's removal** leaves what it does not cut of the trigger's own edges. **Prune** hardly ever cuts any: "
        "it takes for a trigger what joins unlike nodes.",
        "- **ANP** leaves the backdoor where accuracy on held-out graphs lets it prune few channels or none. **TSBD** "
        "leaves least where it lets half of the filters go.",
        "- **Retraining** and RIGBD are as good as their filters: [by what these "
        "find](graph-grid.md#what-detectors-find-and-what-it-is-worth).",
        "- **Subsampling, edge and joint partition, edge-drop** hide edges. A trigger that works by its features "
        "passes them by (degrees, which follow the edges, are counted again there).",
        "- **Fine-tuning, NAD, GraphNAD** see clean graphs only: the larger the margin of triggered graphs, the less "
        "a few epochs on clean ones change. The tie is loose.",
        "- **I-BAU, SAU, NPD** unlearn perturbations of node features. *Reaches*: the share of test sources that "
        "these lead to the target, on the victim; *alike*: the cosine of how they and the trigger move the features "
        "before the head, on average, each without its part towards the clean graphs of the target; *covers*: the "
        "share of the way of each source's features to its triggered ones that they go (median). NPD leaves less "
        "where its perturbations are like the trigger. I-BAU leaves most where its own leads nothing to the target, "
        "and much where it leads everything: one shift of the features of all nodes is no subgraph.",
        f"- **SAU** misses triggers that are farther than its perturbations go, and few others. {told_trigger(runs)}",
        "- **Fine-pruning** takes channels that clean graphs leave asleep, as far as accuracy on held-out graphs lets "
        "it. How many says little; below, ASR falls with accuracy or after it where the backdoor uses channels that "
        "are awake.",
        "",
        "## By set and network",
        "",
        "Medians over runs.",
        "",
        heads[0].format("set and network"),
        heads[1],
        *medians(runs),
        "",
        f"![Accuracy and attack success while channels are pruned, by set and network, a line a run](figures/{PRUNING})",
        "",
        "## Run by run",
        "",
        heads[0].format("run"),
        heads[1],
        *(row(t["run"], [t]) for _, t in runs),
    ]


if __name__ == "__main__":
    main(sys.argv[1:])
