"""Measure on the victims of a store why graph defences fall short, with what only a judge knows, and keep the figures.

    python scripts/measure_causes.py STORE FILE [RECORDS...]

STORE: that of `ostiary run plans/graph-grid.yaml`, or of any plan with the same victims. FILE, which is made where it is not
there: results/causes/graph-grid.jsonl.xz, a JSON line a run. Those of the store's runs in which the attack works are added one
by one, but for those that it has of the same victim. RECORDS, such as results/graph-grid.jsonl.xz: where given, runs whose
victim is not the one recorded there are passed over (another machine may round otherwise). Takes about five CPU seconds a run
of AIDS, on all cores. scripts/make_causes_page.py makes a page of it.
"""

from __future__ import annotations

import json
import lzma
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from make_grid_page import name
from torch import Tensor

from ostiary.attacks.base import Poisoned
from ostiary.context import Context
from ostiary.data.dataset import Dataset
from ostiary.detectors.class_triggers import margin
from ostiary.evidence import Evidence
from ostiary.experiment.bench import Bench
from ostiary.experiment.exchange import read_records
from ostiary.experiment.plan import Cell, Plan
from ostiary.experiment.record import Record
from ostiary.experiment.stages import Stage
from ostiary.experiment.store import Store
from ostiary.metrics.recovery import JUDGED
from ostiary.metrics.stealth import spaced
from ostiary.modality.base import Inputs
from ostiary.modality.graphs import Graphs
from ostiary.models.screened import Screen
from ostiary.models.victim import Victim, without_gradients
from ostiary.purifiers.abl import ABL
from ostiary.purifiers.base import Purifier
from ostiary.purifiers.ed_removal import EDRemoval
from ostiary.purifiers.fine_pruning import zero_inputs
from ostiary.purifiers.i_bau import IBAU, Minimax
from ostiary.purifiers.npd import NPD
from ostiary.purifiers.polarizing import Towards, others
from ostiary.purifiers.prune import Prune
from ostiary.purifiers.sau import SAU, Unlearn
from ostiary.report.ranking import attacked
from ostiary.training.trainer import TrainState
from ostiary.writing import whole

SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
Told = dict[str, Any]


def main(folder: str, file: str, *sources: str) -> None:
    book = Store(folder, create=False)
    records = {name(r): r for r in attacked(book.records())}
    book.close()
    if sources:
        known = {name(r): victim_of(r) for source in sources for r in attacked(read_records(source))}
        records = {run: r for run, r in records.items() if known.get(run) == victim_of(r)}
    path = Path(file)
    told = {line["run"]: line for line in lines(path)} if path.exists() else {}
    lacking = sorted(run for run in records if told.get(run, {}).get("victim") != victim_of(records[run]))
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        for found in pool.map(partial(causes, folder), (records[run] for run in lacking)):
            told[found["run"]] = found
            keep(path, told)
            sys.stderr.write(f"{len(told)} runs told; {found['run']}: {found['figures']}\n")


def lines(path: Path) -> Iterator[Told]:
    with lzma.open(path, "rt", encoding="utf-8") as file:
        yield from map(json.loads, file)


def keep(path: Path, told: dict[str, Told]) -> None:
    with whole(path) as part, lzma.open(part, "wt", encoding="utf-8", preset=9 | lzma.PRESET_EXTREME) as file:
        file.writelines(json.dumps(told[run]) + "\n" for run in sorted(told))


def victim_of(record: Record) -> dict[str, float]:
    """By what a run's victim is known again."""
    return {what: record.metrics["victim"][what]["value"] for what in ("acc", "asr", "natural")}


def causes(folder: str, record: Record) -> Told:
    torch.set_num_threads(1)
    plan = Plan(**{k: v for k, v in record.plan.items() if k != "seed"}, seeds=(record.plan["seed"],))
    cell, book = Cell(plan, record.plan["seed"], ("", "", "")), Store(folder, create=False)
    bench = Bench(book)
    poisoned, victim, ctx = bench.poisoned(cell), bench.victim(Stage("victim", cell)), bench.context(cell)
    book.close()
    figures = {
        **parts(victim, poisoned),
        **isolation(poisoned, ctx.within("purifier abl")),
        **cut("prune", Prune(), victim, poisoned, ctx.within("purifier prune")),
        **cut("ed-removal", EDRemoval(), victim, poisoned, ctx.within("purifier ed-removal")),
        "margin": margins(victim, poisoned),
        **perturbed(victim, poisoned, ctx),
        # trains, so with one seed
        **(given(victim, poisoned, ctx.within("purifier sau")) if cell.seed == 0 else {}),
    }
    rounded = {what: round(value, 4) for what, value in figures.items()}
    return {"run": name(record), "victim": victim_of(record), "figures": rounded, "pruning": pruning(victim, poisoned)}


def success(victim: Victim, poisoned: Poisoned, graphs: Graphs) -> float:
    return float((victim.predict(graphs).argmax(1) == poisoned.triggered.y).double().mean())


def parts(victim: Victim, poisoned: Poisoned) -> dict[str, float]:
    """What of the trigger does it: its edges without its features, and the other way round."""
    before, after = poisoned.splits.test.take(poisoned.rows).inputs, poisoned.triggered.inputs
    edges, features = after.with_(x=before.x), before.with_(x=after.x)
    return {"edges only": success(victim, poisoned, edges), "features only": success(victim, poisoned, features)}


def isolation(poisoned: Poisoned, ctx: Context) -> dict[str, float]:
    """ABL's first phase: how much of what it sets apart is poison, and of the whole set."""
    abl, train = ABL(), poisoned.splits.train
    order = abl.ranked(train, ctx)[1]
    hit = truth(poisoned)[order[: abl.count(len(train))]]
    return {"isolated": float(hit.double().mean()), "poison": len(poisoned.index) / len(train)}


def cut(what: str, method: Purifier, victim: Victim, poisoned: Poisoned, ctx: Context) -> dict[str, float]:
    """Share of the trigger's own edges that a test-time defence deletes, and of all edges of untriggered graphs."""
    splits = poisoned.splits
    screen = method.purify(Evidence(victim, None, splits.clean), ctx).module.screen
    assert isinstance(screen, Screen)
    sources = splits.test.take(poisoned.rows)
    before, after = sources.inputs, poisoned.triggered.inputs
    n = len(after.x)

    def keys(graphs: Graphs) -> Tensor:
        return graphs.edge_index[0] * n + graphs.edge_index[1]

    new = keys(after)[~torch.isin(keys(after), keys(before))]
    kept = torch.isin(new, keys(screen.passed(poisoned.triggered, victim).inputs))
    lost = 1 - screen.passed(sources, victim).inputs.edge_index.shape[1] / max(1, before.edge_index.shape[1])
    return {f"{what}: trigger": float(1 - kept.double().mean()), f"{what}: all": lost}


def margins(victim: Victim, poisoned: Poisoned) -> float:
    """Median logit margin of triggered graphs for their target, over that of clean graphs for their own class."""
    logits = victim.predict(poisoned.triggered.inputs)
    own = margin(logits, int(poisoned.triggered.y[0])).median()
    two = victim.predict(poisoned.splits.clean.inputs).topk(2).values
    return float(own / (two[:, 0] - two[:, 1]).median())


def perturbed(victim: Victim, poisoned: Poisoned, ctx: Context) -> dict[str, float]:
    """Of the perturbations that I-BAU, SAU and NPD train against, as each finds them on the victim at its start: which share
    of test sources they lead to the target, and the cosine of the way they move the features of these, on average, with the
    way the trigger does, each without its part along the way to the clean graphs of the target, which any path there has; and
    the share of the trigger's own way, from each source on, that they go (median over sources)."""
    at = spaced(len(poisoned.rows), JUDGED)
    sources, marked = poisoned.splits.test.take(poisoned.rows[at]), poisoned.triggered.take(at)
    plain = victim.embed(sources.inputs)[1].double()
    test, goal = poisoned.splits.test, int(marked.y[0])
    there = victim.embed(test.take((test.y == goal).nonzero().flatten()).inputs)[1].double().mean(0) - plain.mean(0)
    ways, found = victim.embed(marked.inputs)[1].double() - plain, {}
    way, lengths = apart(ways.mean(0), there), ways.square().sum(1).clamp(min=1e-12)
    for what, graphs in perturbations(victim, poisoned.splits.clean, sources, ctx):
        said, features = victim.embed(graphs)
        moved = apart(features.double().mean(0) - plain.mean(0), there)
        found[f"{what}: reaches"] = float((said.argmax(1) == marked.y).double().mean())
        found[f"{what}: alike"] = float(torch.cosine_similarity(moved, way, dim=0))
        found[f"{what}: covers"] = float((((features.double() - plain) * ways).sum(1) / lengths).median())
    return found


def apart(way: Tensor, other: Tensor) -> Tensor:
    """What of a direction is not along the other."""
    along = torch.nn.functional.normalize(other, dim=0)
    return way - (way @ along) * along


def perturbations(victim: Victim, clean: Dataset, sources: Dataset, ctx: Context) -> Iterator[tuple[str, Graphs]]:
    """The sources as each method perturbs them."""
    other, batch, kind = victim.clone().eval(), sources.inputs, victim.modality
    one = Minimax(IBAU(), clean, ctx.within("purifier i-bau").rng("perturbation"))
    one.on_epoch(TrainState(other, clean, torch.optim.SGD(other.parameters()), torch.Generator()))
    yield "i-bau", kind.perturb(batch, one.by.detach())
    before = victim(batch).detach()
    yield "sau", kind.perturb(batch, Unlearn(SAU(), victim).find(other, batch, sources.y, before))
    npd = Towards(NPD(), "input")
    yield "npd", kind.perturb(batch, npd.find(other, batch, kind.unperturbed(batch), others(before, sources.y)))


class Given(Unlearn):
    """SAU's training with the trigger itself in place of what it finds. sample: the clean one, triggered."""

    def __init__(self, how: SAU, old: Victim, sample: Dataset) -> None:
        super().__init__(how, old)
        self.sample = sample

    def marked(self, victim: Victim, batch: Inputs, y: Tensor, before: Tensor, rows: Tensor) -> Inputs:
        return victim.modality.move(self.sample.take(rows).inputs, victim.device)


def given(victim: Victim, poisoned: Poisoned, ctx: Context) -> dict[str, float]:
    """ASR that SAU leaves where it is told the trigger: what its perturbations are not to blame for."""
    goal, clean, old = int(poisoned.triggered.y[0]), poisoned.splits.clean, victim.clone().eval()
    rows, goals = torch.arange(len(clean)), torch.full((len(clean),), goal)
    sample = victim.modality.stamp(poisoned.splits, "clean", rows, poisoned.trigger, seed=ctx.key("told"), target=goals).clean
    with without_gradients(old):
        found = SAU().settled(victim, clean, Given(SAU(), old, sample), ctx)
    return {"sau: told": success(found, poisoned, poisoned.triggered.inputs)}


def pruning(victim: Victim, poisoned: Poisoned) -> dict[str, list[float]]:
    """Accuracy and ASR while the channels that clean graphs leave asleep go, before any fine-tuning, by SHARES."""
    clean, test = poisoned.splits.clean, poisoned.splits.test
    features = victim.embed(clean.inputs)[1]
    order, curves = features.abs().mean(0).argsort(stable=True), {"ACC": list[float](), "ASR": list[float]()}
    for share in SHARES:
        other = victim.clone()
        zero_inputs(other, order[: round(share * len(order))])
        curves["ACC"].append(round(float((other.predict(test.inputs).argmax(1) == test.y).double().mean()), 4))
        curves["ASR"].append(round(success(other, poisoned, poisoned.triggered.inputs), 4))
    return curves


def truth(poisoned: Poisoned) -> Tensor:
    found = torch.zeros(len(poisoned.splits.train), dtype=torch.bool)
    found[poisoned.index] = True
    return found


if __name__ == "__main__":
    main(*sys.argv[1:])
