"""Node unlearning."""

from __future__ import annotations

from dataclasses import replace

import torch

from ostiary.component import NonNegative, Positive, PositiveFloat, Rate
from ostiary.context import Context
from ostiary.data.dataset import Dataset
from ostiary.evidence import Evidence
from ostiary.models.victim import Victim
from ostiary.purifiers.base import Purifier
from ostiary.purifiers.misleading import Means
from ostiary.purifiers.rehearsal import Rehearsal
from ostiary.training.trainer import Trainer


class NodeUnlearning(Purifier, name="node-unlearning"):
    """Recovers nodes that, joined to others, lead a node classifier to a class, and unlearns them by distillation.

    Ours; GCleaner's recipe (Zhang et al., 2024, arXiv:2410.01272) on nodes. The defender holds the model, a few clean nodes
    and the graph they live in. A network makes `size` new nodes (UGBA's 3) for the clean nodes and for `others` unlabelled
    ones, which count as what the victim calls them, to lead them to each class; classes reached at rate `flag` are
    unlearned: each epoch it takes `steps` steps against the student, which then takes one towards the victim's answers
    without new nodes (L2), both at nodes that carry them and, by `retain`, on the whole untouched graph.

    How far a maker may go is not for the test to say: no row of features is longer than `reach` times the mean row, which
    grows 5 % a step while at least `agree` of the answers on the untouched graph are the victim's, and shrinks otherwise;
    the last weights that kept to `agree` are returned. Defaults: chosen on a small block model (seeds 10 and 11).

    Reaching a class is no sign of a backdoor here, so nearly always every class is unlearned. Triggers with much longer
    rows than any node lose their aim, but the nodes that carry them do not all get their own class back.
    """

    modalities = frozenset({"node"})
    size: Positive = 3
    hidden: Positive = 32
    reach: PositiveFloat = 0.5
    others: NonNegative = 256
    recovery_steps: Positive = 40
    flag: Rate = 0.5
    epochs: Positive = 100
    steps: Positive = 1
    lr: PositiveFloat = 0.005
    maker_lr: PositiveFloat = 0.01
    retain: PositiveFloat = 4.0
    agree: Rate = 0.95

    def cleanse(self, evidence: Evidence, ctx: Context) -> Victim:
        victim, student = evidence.victim, evidence.victim.clone()
        data = self.known(victim, evidence.clean, ctx).move(victim.device)
        reach = self.reach * float(data.inputs.x.norm(dim=1).mean())
        means = Means(self.size, self.hidden, reach, self.maker_lr, self.steps, self.retain, self.agree)
        hook = Rehearsal(means, victim, data, ctx)
        rates = hook.recover(student, self.recovery_steps)
        hook.goals = [c for c, rate in enumerate(rates) if rate >= self.flag]
        if hook.goals:
            self.trainer(self.epochs).fit(student, data, ctx.key("order"), [hook], what="node-unlearning")
        student.notes["reach"] = hook.net.reach / reach * self.reach
        student.notes["unlearned"] = [data.classes[c] for c in hook.goals]
        student.notes["recovered rate"] = dict(zip(data.classes, rates, strict=True))
        return student

    def trainer(self, epochs: int) -> Trainer:
        return Trainer(lr=self.lr, epochs=epochs, batch_size=2**20, schedule="cosine", freeze_norms=True)

    def known(self, victim: Victim, clean: Dataset, ctx: Context) -> Dataset:
        """The clean nodes, and `others` of their graph with the labels that the victim gives them."""
        nodes = clean.inputs
        free = torch.ones(len(nodes.x), dtype=torch.bool)
        free[nodes.roots] = False
        rest = free.nonzero().flatten()
        rest = rest[torch.randperm(len(rest), generator=ctx.rng("others"))[: self.others]]
        said = victim.predict(nodes.take(torch.arange(0)) if not len(rest) else replace(nodes, roots=rest)).argmax(1)
        roots = torch.cat([nodes.roots, rest])
        return replace(clean, inputs=replace(nodes, roots=roots), y=torch.cat([clean.y, said]), ids=torch.arange(len(roots)))
