"""GTA."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from ostiary.attacks.base import PoisoningAttack
from ostiary.attacks.bilevel import BiLevel
from ostiary.attacks.random_graphs import trigger_size
from ostiary.component import NonNegative, Positive, PositiveFloat, Rate
from ostiary.context import Context
from ostiary.data.dataset import Dataset
from ostiary.training.hooks import TrainHook
from ostiary.triggers.base import Trigger
from ostiary.triggers.generated import GeneratedSubgraph, untrained


class GTA(PoisoningAttack, name="gta"):
    """Generates a trigger for every graph, generator and model trained in turn (bi-level).

    Source: Xi, Pang, Ji & Wang, Graph Backdoor, USENIX Security 2021, arXiv:2006.11890. With `mode` model the adversary
    controls training and hands out the model; with poison the generator is trained against a surrogate of the same
    architecture, then frozen, and only data are handed out. `rounds` 12, `steps` 20 generator steps each, generator Adam
    `generator_lr` 0.01 with weight decay 5e-4: the authors' code (3 x 4 rounds; it draws mount positions anew three times,
    ours at every step). The training epochs are shared out among a clean stretch and the rounds; of fewer than `rounds` + 1
    epochs each but the first is a round. `size` 0: 20 % of the mean graph size, at least 2 (GCleaner). Rate 5 %: GCleaner. The
    first trigger is the best uniform one (ours).

    Differs from the authors' code, where the topology generator gets no gradient: a graph encoder is shared by both
    heads and the victim is differentiated through edge weights. Differs from the paper: mount nodes are random (no
    mixing search), and the loss is cross-entropy to the target (no embedding matching), as in the authors' code.
    """

    modalities = frozenset({"graph"})
    taught = True
    controls = frozenset({"data", "training"})  # of the class; an instance of mode poison needs the data alone
    rate: Rate = 0.05
    mode: Literal["model", "poison"] = "model"
    size: NonNegative = 0
    hidden: Positive = 64
    rounds: Positive = 12
    steps: Positive = 20
    generator_lr: PositiveFloat = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mode == "poison":
            object.__setattr__(self, "controls", frozenset({"data"}))

    def make_trigger(self, train: Dataset, ctx: Context) -> GeneratedSubgraph:
        trigger = untrained(self.size or trigger_size(train), train, self.hidden, ctx)
        if self.mode == "model":
            return trigger
        ctx = self.attacker(ctx)
        index = self.chosen(train, round(self.rate * len(train)), ctx)
        hook = BiLevel(self, trigger, train, index, ctx.within("surrogate"))
        ctx.within("surrogate").fit(train, [hook], what="gta: surrogate")
        return hook.trigger

    def make_hook(self, trigger: Trigger, train: Dataset, index: Tensor, ctx: Context) -> TrainHook | None:
        assert isinstance(trigger, GeneratedSubgraph)
        return BiLevel(self, trigger, train, index, ctx) if self.mode == "model" else None
