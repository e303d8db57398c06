"""Cost of purifying one AIDS victim, and GraphNAD and GCleaner on batches against the same one graph at a time."""

from __future__ import annotations

from functools import partial

import torch

from common import clique_victim, cpu_seconds, one_thread, report
from ostiary.component import build
from ostiary.context import Context
from ostiary.data.dataset import Dataset
from ostiary.evidence import Evidence
from ostiary.explainers.gnn_explainer import GNNExplainer
from ostiary.inversion import Recovery
from ostiary.models.victim import Victim
from ostiary.purifiers.base import Purifier
from ostiary.purifiers.gcleaner import GCleaner
from ostiary.purifiers.graphnad import GraphNAD
from scan import STEPS, one_by_one

LIMITS = {"gcleaner": 10.0, "graphnad": 5.0}  # seconds of one core


def alone(purifier: Purifier) -> Purifier:
    """The same method, one graph a step."""
    return purifier.replace(batch_size=1)


def main() -> None:
    one_thread()
    victim, clean, ctx, name = clique_victim()

    def purify(purifier: Purifier, data: Dataset) -> None:
        purifier.purify(Evidence(victim, None, data), ctx)

    methods = [{"name": "gcleaner", "preset": "paper"}, "gcleaner", "graphnad", "fine-tune", "nad", "fine-pruning", "anp"]
    print(f"{name}: one victim, {len(clean)} clean graphs, CPU seconds on one thread")
    for spec in methods:
        purifier = build("purifier", spec)
        (seconds,) = cpu_seconds(partial(purify, purifier, clean), repeats=1)
        limit = LIMITS.get(purifier.name)
        print(f"{purifier.label():28} {seconds:6.1f}" + (f"  (aim {limit:g})" if limit else ""))
    print()
    nad = GraphNAD(teacher_epochs=2, epochs=4)
    loop, batched = cpu_seconds(lambda: purify(alone(nad), clean), lambda: purify(nad, clean), repeats=2)
    print(f"graphnad: six epochs, one graph a step {loop:.2f}, {nad.batch_size} a step {batched:.2f}")
    report("graphnad", loop / batched, 10)
    loop, batched = gcleaner(victim, clean, ctx)
    print(f"gcleaner(preset=paper), its three parts: one graph at a time {loop:.1f}, batched {batched:.1f}")
    report("gcleaner", loop / batched, 10)


def gcleaner(victim: Victim, clean: Dataset, ctx: Context) -> tuple[float, float]:
    """Seconds one graph at a time, and batched: explanation, recovery for both classes, and epochs of unlearning, each timed on
    a part and scaled to the paper's 20 steps and 30 epochs."""
    explainer, recovery = GNNExplainer(), Recovery(3, STEPS)
    places = recovery.anywhere(clean, 0)
    start = recovery.once(victim, clean, places, 0, ctx)
    short = GCleaner.preset("paper", epochs=1, teacher_epochs=0, recovery_steps=1, flag=0.0, positions="random")
    long = short.replace(epochs=4)  # less the short one: three epochs of unlearning, and nothing else

    def purify(purifier: Purifier) -> None:
        purifier.purify(Evidence(victim, None, clean), ctx)

    each = [clean.take(torch.tensor([i])) for i in range(0, len(clean), 10)]
    share = len(clean) / len(each)
    parts = cpu_seconds(
        lambda: [explainer.explain(victim, one.inputs, ctx, one.y) for one in each],
        lambda: explainer.explain(victim, clean.inputs, ctx, clean.y),
        lambda: one_by_one(victim, clean, start, places),
        lambda: recovery.once(victim, clean, places, 0, ctx),
        lambda: purify(alone(long)),
        lambda: purify(long),
        lambda: purify(alone(short)),
        lambda: purify(short),
        repeats=1,
    )
    times = (share, 1, 2 * 20 / STEPS, 2 * 20 / STEPS, 10, 10, -10, -10)
    scaled = [seconds * n for seconds, n in zip(parts, times, strict=True)]
    return sum(scaled[::2]), sum(scaled[1::2])


if __name__ == "__main__":
    main()
