"""Scan of a two-class model: seconds, and the batched recovery of a trigger against one graph at a time."""

from __future__ import annotations

import torch

from common import clique_victim, cpu_seconds, one_thread, report
from ostiary.data.dataset import Dataset
from ostiary.detectors.class_triggers import margin, spread
from ostiary.detectors.inversion_scan import InversionScan
from ostiary.evidence import Evidence
from ostiary.inversion import Recovered, Recovery, folded, hinge, placed
from ostiary.models.victim import Victim
from ostiary.triggers.mount import SoftMount

LIMIT = 15.0  # seconds for a scan
STEPS = 5  # of the loop over graphs, whose seconds a step are compared


def one_by_one(victim: Victim, clean: Dataset, start: Recovered, places: torch.Tensor) -> None:
    """Steps on the same loss and generator, every graph in a call of its own, gradients summed."""
    victim, graphs = folded(victim), [clean.inputs.take(i) for i in torch.arange(len(clean)).split(1)]
    single = [(graph, SoftMount(graph, placed(graph, at[None]))) for graph, at in zip(graphs, places, strict=True)]
    optimizer = torch.optim.Adam(start.net.parameters(), 0.01)
    for _ in range(STEPS):
        found = [victim.both(start.softly(onto, graph)) for graph, onto in single]
        logits, embedding = (torch.cat(part) for part in zip(*found, strict=True))
        loss = hinge(embedding, 0.95) - margin(logits, start.goal).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def main() -> None:
    one_thread()
    victim, clean, ctx, name = clique_victim()
    several = spread(clean, 0, 2)
    recovery = Recovery(3, STEPS)
    places = recovery.anywhere(several, 0)
    start = recovery.once(victim, several, places, 0, ctx)
    scan, loop, batched = cpu_seconds(
        lambda: InversionScan().inspect(Evidence(victim, None, clean), ctx),
        lambda: one_by_one(victim, several, start, places),
        lambda: recovery.once(victim, several, places, 0, ctx),
        repeats=2,
    )
    print(f"{name}: {clean.n_classes} classes, {len(clean)} clean graphs, CPU seconds on one thread")
    print(f"scan of the model {scan:.1f} (limit {LIMIT:g})")
    print(f"{STEPS} steps on {len(several)} graphs: one by one {loop:.2f}, batched {batched:.2f}")
    report("scan-seconds", LIMIT / scan, 1)
    report("scan", loop / batched, 10)


if __name__ == "__main__":
    main()
