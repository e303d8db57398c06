"""ED: all graphs at once against one graph after the other, with GNNExplainer (100 epochs) and with its default explainer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from common import cpu_seconds, one_thread, report, tu
from ostiary.component import build
from ostiary.context import Context
from ostiary.data.dataset import Dataset
from ostiary.detectors.ed import ED
from ostiary.models.victim import Victim

MANY, FEW = 400, 10  # graphs scored at once and one by one, which is too slow for all of them


def score(method: ED, victim: Victim, graphs: Dataset, rows: Tensor) -> None:
    method.scored(victim, graphs.inputs.take(rows), graphs.ids[rows], Context())


def one_by_one(do: Callable[[Tensor], None]) -> None:
    for i in range(0, MANY, MANY // FEW):
        do(torch.tensor([i]))


def main() -> None:
    one_thread()
    splits, name = tu("AIDS")
    poisoned = build("attack", {"name": "sub-ba", "target": 0, "size": 3, "density": 1.0}).poison(splits, Context())
    train = poisoned.splits.train
    victim = build("trainer", {"name": "trainer", "epochs": 5}).fit(build("victim", "gin").make(train, 0), train, 0)
    incoming = splits.modality.join([splits.test.inputs, poisoned.triggered.inputs])
    picked = torch.linspace(0, len(incoming) - 1, MANY).long()
    graphs = replace(splits.test, inputs=incoming.take(picked), y=torch.zeros(MANY, dtype=torch.int64), ids=picked)
    print(f"{name}: {MANY} graphs, {len(graphs.inputs.x) / MANY:.1f} nodes each; CPU seconds on one thread per {MANY} graphs\n")
    print(f"{'detector':40} {'one by one':>10} {'at once':>8} {'ratio':>8}")
    for method in (ED(), ED.preset("paper")):
        do = partial(score, method, victim, graphs)
        do(torch.arange(1))  # first calls load kernels
        loop, batched = cpu_seconds(partial(one_by_one, do), partial(do, torch.arange(MANY)))
        ratio = loop * MANY / FEW / batched
        print(f"{method.label():40} {loop * MANY / FEW:10.1f} {batched:8.2f} {ratio:8.1f}")
    report("ed", ratio, 10)


if __name__ == "__main__":
    main()
