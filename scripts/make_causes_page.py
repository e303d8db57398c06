"""Write docs/graph-grid-causes.md: why defences fall short in the runs of the grid, measured with what only a judge knows.

    python scripts/make_causes_page.py STORE

STORE: that of `ostiary run plans/graph-grid.yaml`. Takes about ten CPU seconds a run, on all cores.
"""

from __future__ import annotations

import re
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import torch
from make_grid_page import name, place
from torch import Tensor

from ostiary.attacks.base import Poisoned
from ostiary.context import Context
from ostiary.detectors.class_triggers import margin
from ostiary.evidence import Evidence
from ostiary.experiment.bench import Bench
from ostiary.experiment.plan import Cell, Plan
from ostiary.experiment.record import Record
from ostiary.experiment.stages import Stage
from ostiary.experiment.store import Store
from ostiary.modality.graphs import Graphs
from ostiary.models.screened import Screen
from ostiary.models.victim import Victim
from ostiary.purifiers.abl import ABL
from ostiary.purifiers.fine_pruning import zero_inputs
from ostiary.purifiers.prune import Prune
from ostiary.report.drawing import MANY, Figure, alt, chart, specification
from ostiary.report.ranking import attacked

ROOT = Path(__file__).parent.parent
PAGE, FIGURE = ROOT / "docs" / "graph-grid-causes.md", ROOT / "docs" / "figures" / "graph-grid-pruning.svg"
SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
COLUMNS = {
    "edges only": "ASR, edges only",
    "features only": "ASR, features only",
    "abl": "poison among the isolated",
    "abl base": "poison in the set",
    "spectral": "spectral: TPR / FPR",
    "xgbd": "XGBD: AUROC, TPR / FPR",
    "cut": "Prune: trigger's edges cut / all edges cut",
    "margin": "margin of triggered graphs over clean ones",
}


def main(folder: str) -> None:
    book = Store(folder, create=False)
    told = {name(r): r for r in attacked(book.records()) if "xgbd" in r.metrics["detectors"]}
    book.close()
    found, curves = {}, []
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        names = sorted(told)
        for run, (said, points) in zip(names, pool.map(partial(causes, folder), (told[n] for n in names)), strict=True):
            found[run] = said
            curves += [{**p, "run": run, "of": place(told[run])} for p in points]
            sys.stderr.write(f"{run}: {said}\n")
    FIGURE.write_text(drawn(curves), encoding="utf-8")
    PAGE.write_text("\n".join(page(found)) + "\n", encoding="utf-8")


def causes(folder: str, record: Record) -> tuple[dict[str, str], list[dict[str, Any]]]:
    torch.set_num_threads(1)
    plan = Plan(**{k: v for k, v in record.plan.items() if k != "seed"}, seeds=(record.plan["seed"],))
    cell, book = Cell(plan, record.plan["seed"], ("", "", "")), Store(folder, create=False)
    bench = Bench(book)
    poisoned, victim, ctx = bench.poisoned(cell), bench.victim(Stage("victim", cell)), bench.context(cell)
    book.close()
    said = {
        **parts(victim, poisoned),
        **isolation(poisoned, ctx.within("purifier abl")),
        **flags(record),
        **cut(victim, poisoned, ctx.within("purifier prune")),
        **margins(victim, poisoned),
    }
    return said, pruning(victim, poisoned)


def success(victim: Victim, poisoned: Poisoned, graphs: Graphs) -> float:
    return float((victim.predict(graphs).argmax(1) == poisoned.triggered.y).double().mean())


def parts(victim: Victim, poisoned: Poisoned) -> dict[str, str]:
    """What of the trigger does it: its edges without its features, and the other way round."""
    before, after = poisoned.splits.test.take(poisoned.rows).inputs, poisoned.triggered.inputs
    edges, features = after.with_(x=before.x), before.with_(x=after.x)
    return {"edges only": pc(success(victim, poisoned, edges)), "features only": pc(success(victim, poisoned, features))}


def isolation(poisoned: Poisoned, ctx: Context) -> dict[str, str]:
    """ABL's first phase: how much of what it sets apart is poison."""
    abl, train = ABL(), poisoned.splits.train
    order = abl.ranked(train, ctx)[1]
    hit = truth(poisoned)[order[: abl.count(len(train))]]
    return {"abl": pc(float(hit.double().mean())), "abl base": pc(len(poisoned.index) / len(train))}


def flags(record: Record) -> dict[str, str]:
    """What the filters before retraining flag."""
    said = {}
    for detector in ("spectral", "xgbd"):
        figures = record.metrics["detectors"][detector]
        rates = f"{pc(figures['tpr']['value'])} / {pc(figures['fpr']['value'])}"
        said[detector] = rates if detector == "spectral" else f"{figures['auroc']:.2f}, {rates}"
    return said


def cut(victim: Victim, poisoned: Poisoned, ctx: Context) -> dict[str, str]:
    """Share of the trigger's own edges that Prune deletes, and of all edges of untriggered graphs."""
    splits = poisoned.splits
    screened = Prune().purify(Evidence(victim, None, splits.clean), ctx)
    screen = screened.module.screen
    assert isinstance(screen, Screen)
    before, after = splits.test.take(poisoned.rows).inputs, poisoned.triggered.inputs
    n = len(after.x)

    def keys(graphs: Graphs) -> Tensor:
        return graphs.edge_index[0] * n + graphs.edge_index[1]

    new = keys(after)[~torch.isin(keys(after), keys(before))]
    kept = torch.isin(new, keys(screen(after, victim)))
    lost = 1 - screen(before, victim).edge_index.shape[1] / max(1, before.edge_index.shape[1])
    return {"cut": f"{pc(float(1 - kept.double().mean()))} / {pc(lost)}"}


def margins(victim: Victim, poisoned: Poisoned) -> dict[str, str]:
    """Median logit margin of triggered graphs for their target, over that of clean graphs for their own class."""
    logits = victim.predict(poisoned.triggered.inputs)
    own = margin(logits, int(poisoned.triggered.y[0])).median()
    two = victim.predict(poisoned.splits.clean.inputs).topk(2).values
    return {"margin": f"{float(own / (two[:, 0] - two[:, 1]).median()):.1f}"}


def pruning(victim: Victim, poisoned: Poisoned) -> list[dict[str, Any]]:
    """Accuracy and ASR while the channels that clean graphs leave asleep go, before any fine-tuning."""
    clean, test = poisoned.splits.clean, poisoned.splits.test
    features = victim.embed(clean.inputs)[1]
    order, points = features.abs().mean(0).argsort(stable=True), []
    for share in SHARES:
        other = victim.clone()
        zero_inputs(other, order[: round(share * len(order))])
        acc = float((other.predict(test.inputs).argmax(1) == test.y).double().mean())
        asr = success(other, poisoned, poisoned.triggered.inputs)
        points += [{"pruned": 100 * share, "%": 100 * v, "what": w} for v, w in ((acc, "ACC"), (asr, "ASR"))]
    return points


def truth(poisoned: Poisoned) -> Tensor:
    found = torch.zeros(len(poisoned.splits.train), dtype=torch.bool)
    found[poisoned.index] = True
    return found


def pc(share: float) -> str:
    return f"{100 * share:.0f} %"


def drawn(curves: list[dict[str, Any]]) -> str:
    lines = chart(curves).mark_line(strokeWidth=1, opacity=0.5).encode(
        x=alt.X("pruned:Q", title="channels pruned, %"),
        y=alt.Y("%:Q", title="%"),
        color=alt.Color("what:N", scale=alt.Scale(domain=["ACC", "ASR"], range=[MANY[2], MANY[3]])),
        detail="run:N",
    )  # fmt: skip
    whole = lines.properties(width=170, height=110).facet(facet=alt.Facet("of:N", title=None), columns=4)
    return Figure("causes", "pruning", "", "", "", specification(whole)).file()


def medians(found: dict[str, dict[str, str]]) -> list[str]:
    """A line per set and network: the median over its runs of the first figure in each column."""
    lines = []
    for where in dict.fromkeys(run.partition(",")[0] for run in found):
        runs = [said for run, said in found.items() if run.startswith(f"{where},")]
        firsts = {c: [re.match(r"[\d.-]+( %)?", said[c]) for said in runs] for c in COLUMNS}
        parted = {c: [(float(m[0].removesuffix(" %")), m[1] or "") for m in ms if m] for c, ms in firsts.items()}
        cells = (f"{median(v for v, _ in held):.4g}{held[0][1]}" for held in parted.values())
        lines.append(f"| {where}, {len(runs)} runs | {' | '.join(cells)} |")
    return lines


def page(found: dict[str, dict[str, str]]) -> list[str]:
    table = [f"| run | {' | '.join(COLUMNS.values())} |", f"|---|{'---|' * len(COLUMNS)}"]
    each = [f"| {run} | {' | '.join(said[c] for c in COLUMNS)} |" for run, said in found.items()]
    return [
        "# Why graph defences fall short: measured causes",
        "",
        "Written by `scripts/make_causes_page.py` from the victims of `ostiary run plans/graph-grid.yaml`, with what only a "
        "judge knows: the trigger, the poisoned rows, the triggered test graphs. Read it beside [the grid](graph-grid.md).",
        "",
        "Medians over runs, where a column has several figures of the first:",
        "",
        *(line.replace("| run |", "| set and network |") for line in table),
        *medians(found),
        "",
        "- **ABL** isolates the 1 % learnt first. Where they are poison the backdoor goes; where they are not (compare with "
        "the share in the set) it stays, and benign graphs are unlearnt: "
        "[how often](results.md#defences-of-graph-classifiers).",
        "- **Retraining** is as good as its filter: read what it leaves in the grid beside the filter's TPR.",
        "- **Prune** takes a trigger for what joins unlike nodes. Where none of the trigger's own edges is among those cut, it "
        "costs other edges and nothing else.",
        "- **Subsampling and edge partition** hide edges. A trigger that works by its features alone passes them by (degrees, "
        "which follow the edges, are counted again there, so that on Bitcoin and Fingerprint they hide these too).",
        "- **Fine-tuning, NAD, GraphNAD** see clean graphs only. The larger the margin of triggered graphs, the less a few "
        "epochs on clean ones change.",
        "- **Fine-pruning** takes channels that clean graphs leave asleep; below, ASR falls with accuracy or after it where "
        "the backdoor uses channels that are awake.",
        "",
        f"![Accuracy and attack success while channels are pruned, by set and network, a line a run](figures/{FIGURE.name})",
        "",
        "## Run by run",
        "",
        *table,
        *each,
    ]


if __name__ == "__main__":
    main(sys.argv[1])
