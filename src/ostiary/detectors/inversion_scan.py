"""Scan of a model by trigger inversion."""

from __future__ import annotations

from typing import Any, Literal

import torch

from ostiary.attacks.random_graphs import trigger_size
from ostiary.component import NonNegative, Positive, PositiveFloat, Rate
from ostiary.context import Context
from ostiary.detectors.base import Detector, Findings, given
from ostiary.detectors.class_triggers import ClassTrigger, anomaly, beside_others, recovered, sketch
from ostiary.evidence import Evidence
from ostiary.inversion import Recovery

LEAST = 4  # classes from which a deviation from their median says something


class InversionScan(Detector, name="inversion-scan"):
    """Recovers a small trigger per class and flags classes to which it leads everywhere, far beyond the boundary.

    Source: ours, for graphs; inversion per class as in Neural Cleanse (Wang et al., S&P 2019), the margin as evidence as in
    MM-BD (Wang et al., S&P 2024, arXiv:2205.06900), GCleaner's generator (Zhang et al., 2024, arXiv:2410.01272). The
    defender holds the model and a few clean graphs of at least two classes, no other model.

    For every class, triggers of 1, 2, 3 and `nodes` nodes (0: 20 % of the mean graph, as attacks take, at least 3) are
    recovered on the clean graphs of other classes, with `copies` draws of random positions, and judged on new positions.
    Depth of a class: the margin (its logit less the largest other) that all but a share `quantile` of the graphs with the
    largest trigger exceed, over the margin that one clean graph in ten exceeds. Natural shortcuts lead some graphs over
    the boundary; a backdoor leads nearly all of them deep into its class. Score: the depth less that of the other classes
    (their median, where it is positive), since a loose model yields everywhere. So two classes are enough; a backdoor
    into every class escapes. `index` margin flags scores above `threshold`; mad, from four classes on, scores more than
    `outlier` (Neural Cleanse: 2) deviations above the median of the classes. `copies`, `steps`, `quantile`, `threshold`:
    chosen on victims of seeds 10 to 16 (AIDS, MUTAG, solubility, PROTEINS); 3 is above every clean one of them, whose
    scores differ much by data: up to 2.8 on MUTAG and solubility, below 0.1 on AIDS. Triggers far above `nodes` can escape.
    On 23 other victims, mostly of MUTAG, it accused none of 12 clean ones and found 5 of 11 backdoored ones (AUROC 0.72).

    `info`: by class the score, the anomaly index (None below four classes), and of every size the rate at which the
    trigger succeeds, its edges and how alike the embeddings are; size needed: the least that succeeds at rate
    `reached`. drawn: a graph per class with its trigger.
    """

    modalities = frozenset({"graph"})
    needs = frozenset({"victim", "clean"})
    about = "model"
    nodes: NonNegative = 0
    copies: Positive = 2
    steps: Positive = 40
    lr: PositiveFloat = 0.01
    quantile: Rate = 0.1
    threshold: float = 3.0
    index: Literal["margin", "mad"] = "margin"
    outlier: PositiveFloat = 2.0
    reached: Rate = 0.9

    def refuse(self, evidence: Evidence) -> str:
        assert evidence.clean is not None
        clean = evidence.clean
        held = clean.y.unique().tolist()  # type: ignore[no-untyped-call]
        if len(held) < 2:
            return (
                f"all {len(clean)} clean graphs are of class {clean.classes[held[0]]}, and a trigger is recovered on graphs "
                "of other classes; give clean graphs of at least two"
            )
        if self.index == "mad" and clean.n_classes < LEAST:
            return f"the median of {clean.n_classes} classes says nothing, index=mad takes {LEAST}; use index=margin"
        return ""

    def examine(self, evidence: Evidence, ctx: Context) -> Findings:
        victim, clean = given(evidence.victim), evidence.clean
        assert clean is not None
        two = victim.predict(clean.inputs)[0].topk(2).values
        scale = (two[:, 0] - two[:, 1]).quantile(0.9).clamp(min=1e-6)
        clean = clean.move(victim.device)
        largest = self.nodes or max(3, trigger_size(clean))
        sizes = [Recovery(n, self.steps, self.lr) for n in sorted({1, 2, 3, largest}) if n <= largest]
        depths, lines, drawn = [], [], []
        for goal in range(clean.n_classes):
            tries = [recovered(victim, clean, goal, r, self.copies, ctx.within(f"size {r.nodes}")) for r in sizes]
            depths.append(float(tries[-1].margins.quantile(self.quantile) / scale))
            lines.append(self.line(tries))
            drawn.append({"class": goal, "rate": tries[-1].rate, "sample": sketch(tries[-1], clean, sizes[-1], ctx)})
        found = beside_others(torch.tensor(depths, dtype=torch.float64))
        deviations = anomaly(found)
        flagged = deviations > self.outlier if self.index == "mad" else found > self.threshold
        for i, line in enumerate(lines):
            line |= {"score": float(found[i]), "depth": depths[i], "flagged": bool(flagged[i])}
            line["anomaly index"] = float(deviations[i]) if len(depths) >= LEAST else None
            drawn[i]["score"] = float(found[i])
        info = {"classes": dict(zip(clean.classes, lines, strict=True)), "drawn": drawn}
        return Findings(found, flagged, tuple(flagged.nonzero().flatten().tolist()), info)

    def line(self, tries: list[ClassTrigger]) -> dict[str, Any]:
        """What is said of one class."""
        sizes = {str(t.nodes): {"rate": t.rate, "edges": t.edges, "similarity": t.similarity} for t in tries}
        return {"size needed": next((t.nodes for t in tries if t.rate >= self.reached), None), "nodes": sizes}
