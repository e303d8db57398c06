"""FCT."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from ostiary.component import NonNegative, Positive, Rate
from ostiary.context import Context
from ostiary.detectors.base import Detector, Findings
from ostiary.detectors.consistency import probe, push_apart, shifts
from ostiary.detectors.shares import overlap, split
from ostiary.errors import Unsupported
from ostiary.evidence import Evidence
from ostiary.training.augment import Distortion, distorted
from ostiary.training.budget import at_least, lowered


class FCT(Detector, name="fct"):
    """Scores training samples by how far a strong distortion moves their features in a briefly trained model.

    Source: Chen, Wu & Wang, Effective backdoor defense by exploiting sensitivity of poisoned samples, NeurIPS 2022 (feature
    consistency towards transformations). The defender holds the training set and can train. (1) A model of one's own, without
    augmentation, for two epochs and at least `steps` updates. (2) `tuning_epochs` that only push the mean features of classes
    apart. (3) Mean squared distance of features to those of the input distorted (images turned by any angle and shifted;
    graphs with half of their edges, features swapped, or counted anew where they are degrees), over `n_draws` draws;
    `distortions`: those of the authors' code for images, one after the other. The share
    `poisoned` scored highest is flagged; `info` counts that, the share `clean` scored lowest and the rest by class. Batches of
    128, 10 epochs of (2), shares 0.05 and 0.2, on images SGD at 0.01 with momentum 0.9 and weight decay 5e-4: paper. `steps`
    800: the two epochs of the paper are 782 updates on its data (preset `paper`: two epochs, one draw); on small sets the
    backdoor would not be learnt (10,000 CIFAR-10 images, BadNets, seed 11: AUROC 0.48 after 300 updates, 0.89 after 800). On
    graphs the plan's optimiser at its rate, for at 0.01 SGD hardly trains a graph network; no epochs of (2), which made scores
    worse on toy graphs and on AIDS (seed 10); and `unit` features, scaled to length 1, for what sums over nodes grows with
    them: on AIDS plain distances rank large graphs and, within the target class, poison last. Where all samples score the
    same, the model has died of its rate, which on graphs is the peak of the plan's schedule (of 214 runs of the grid one did:
    NCI1, GTA, seed 2): another is trained at a third of the rate, and so on, up to three times. Differs from the authors'
    code: samples are scored and ranked once, from several draws; (2) goes back one epoch and stops when the mean feature norm
    falls below a tenth of its start.
    """

    revision = 1
    added = frozenset({"distortions"})
    modalities = frozenset({"graph", "image"})
    needs = frozenset({"train"})
    about = "train"
    presets = {"paper": {"steps": 1, "n_draws": 1}}
    steps: Positive = 800
    tuning_epochs: NonNegative | None = None
    unit: bool | None = None
    n_draws: Positive = 4
    distortions: tuple[Distortion, ...] = ()
    batch_size: Positive = 128
    clean: Rate = 0.2
    poisoned: Rate = 0.05

    def refuse(self, evidence: Evidence) -> str:
        if len(evidence.train) < 2:
            return "it trains a model of its own, for which one sample is too few"
        if self.distortions and evidence.train.modality.name != "image":
            return f"{', '.join(self.distortions)} are changes of images; leave distortions out"
        return overlap(self.clean, self.poisoned)

    def examine(self, evidence: Evidence, ctx: Context) -> Findings:
        train, own = evidence.train, ctx.trainer
        if why := probe(ctx.fresh(train), train):
            raise Unsupported(f"detector '{self.name}' not applicable: {why}")
        image = train.modality.name == "image"
        if image:
            own = own.replace(optimizer="sgd", lr=0.01, momentum=0.9, weight_decay=5e-4)
        epochs = at_least(2, self.steps, len(train), self.batch_size)
        own = own.replace(epochs=epochs, batch_size=self.batch_size, augment="none", schedule="constant", freeze_norms=False)
        tuning = (10 if image else 0) if self.tuning_epochs is None else self.tuning_epochs
        unit = not image if self.unit is None else self.unit
        distort = partial(distorted, how=self.distortions) if self.distortions else None

        def scored(share: float) -> tuple[Tensor, int]:
            slower = own.replace(lr=share * own.lr)
            victim = slower.fit(ctx.fresh(train), train, ctx.key("short training"), what="fct: training")
            kept = push_apart(victim, train, slower.replace(epochs=tuning), ctx)
            return shifts(victim, train, self.n_draws, ctx.rng("distortion"), unit=unit, distort=distort), kept

        (scores, kept), share = lowered(scored, lambda found: float(found[0].max()) > float(found[0].min()))
        parts = split(scores, self.clean, self.poisoned)
        flagged = torch.zeros(len(train), dtype=torch.bool)
        flagged[parts.poisoned] = True
        return Findings(
            scores, flagged, info={**parts.facts(train), "epochs": epochs, "tuning epochs": kept, "lr": share * own.lr}
        )
