"""NAD."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ostiary.component import NonNegativeFloat, Positive, PositiveFloat
from ostiary.context import Context
from ostiary.evidence import Evidence
from ostiary.modality.base import Inputs
from ostiary.models.victim import Victim, evaluating
from ostiary.purifiers.base import FineTuning, Purifier
from ostiary.purifiers.distillation import attention, distilled, mapped
from ostiary.purifiers.holdout import Choice
from ostiary.purifiers.keeping import Rates, kept

SURE = 0.7  # accuracy above which the authors' code saves an epoch, whatever came before


def saved(seen: Sequence[Rates]) -> bool:
    """Whether the authors' code saves the last of these epochs: its accuracy exceeds SURE or, if that is less, the lowest ASR
    before it."""
    return seen[-1][0] > min([SURE, *(asr for _, asr in seen[:-1])])


class NAD(Choice, FineTuning, Purifier, name="nad"):
    """Distils the attention maps of a fine-tuned teacher into the backdoored student.

    Source: Li et al., Neural attention distillation, ICLR 2021, arXiv:2101.05930. The defender holds the model and a
    few clean samples. Attention of a layer: sum over channels of |activation|^p (p 2: paper), on pixels or on nodes,
    divided by its norm per input. `betas` weigh the last stages, low to high; a single number stands for all
    (paper: 500, 1000, 1000, for images). `teacher_epochs` 10, `epochs` 20, batch 64: paper.

    Differs from the paper: learning rates as for plain fine-tuning (0.1 for two epochs destroys small pre-activation
    nets); on graphs attention is over nodes and BatchNorm statistics stay frozen, which there is the stronger form; where
    nodes are the samples it is over each one's neighbourhood of two steps.

    The last epoch is kept. The authors' code tests each one and keeps, as `oracle` does, the last whose accuracy exceeds the
    lesser of 70 % and the lowest ASR before it: once the trigger has faded, nearly always the last of all.
    """

    added = FineTuning.added | {"oracle"}
    modalities = frozenset({"graph", "image", "node"})
    p: PositiveFloat = 2.0
    betas: tuple[NonNegativeFloat, ...] = (500.0, 1000.0, 1000.0)
    teacher_epochs: Positive = 10
    epochs: Positive = 20

    def refuse(self, evidence: Evidence) -> str:
        if not self.betas:
            return "betas names no weight of a layer; give at least one number"
        victim, two = evidence.victim, evidence.clean.take(torch.arange(2)).inputs
        with torch.no_grad(), evaluating(victim):
            layers = victim.layers(victim.modality.move(two, victim.device))[1]  # raises without any
        return "" if mapped(layers) else "none of the model's layers holds a map of more than one pixel to attend to"

    def cleanse(self, evidence: Evidence, ctx: Context) -> Victim:
        clean = evidence.clean
        teaching, learning = (self.trainer(ctx, clean, n) for n in (self.teacher_epochs, self.epochs))
        return distilled(evidence, ctx, teaching, learning, self.apart, more=kept(evidence.oracle, saved))

    def apart(self, student: Sequence[Tensor], teacher: Sequence[Tensor], batch: Inputs) -> Tensor:
        """The weighted mean squares between attention maps of the last layers that have any."""
        student, teacher = mapped(student), mapped(teacher)
        betas = self.betas if len(self.betas) > 1 else self.betas * len(student)
        n = min(len(betas), len(student))
        total = student[0].new_zeros(())
        for beta, a, b in zip(betas[-n:], student[-n:], teacher[-n:], strict=True):
            total = total + beta * (attention(a, batch, self.p) - attention(b, batch, self.p)).square().mean()
        return total
