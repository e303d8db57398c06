"""What an adaptive attacker minimises beside their own loss: that by which a defence would find the triggered inputs."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ostiary.component import Component, Rate
from ostiary.data.dataset import Dataset
from ostiary.explainers.heat import heat_maps, of_old_nodes, watched
from ostiary.inversion import hinge
from ostiary.modality.base import Inputs
from ostiary.models.victim import Victim, evaluating


@dataclass(frozen=True, eq=False)
class Seen:
    """Triggered inputs (`batch`), the class y each is wanted as, what the victim says of them; plain: the same without
    trigger, with true labels; clean, clean_y: features of other inputs of the wanted classes, and these."""

    victim: Victim
    batch: Inputs
    y: Tensor
    logits: Tensor
    features: Tensor
    plain: Dataset
    clean: Tensor
    clean_y: Tensor


class Term(Component):
    """What a defence sees of the trigger, small where it sees nothing."""

    kind = "term"
    modalities: ClassVar[frozenset[str]] = frozenset({"graph", "image", "node"})

    @abstractmethod
    def loss(self, seen: Seen) -> Tensor:
        """A scalar for the attacker to minimise, with gradients for victim and inputs."""


class Similarity(Term, name="similarity"):
    """Minus GCleaner's hinge: the features of triggered inputs are pushed apart, pair by pair.

    Evades recovery of a trigger by the likeness of the embeddings it makes (GCleaner, arXiv:2410.01272, Eq. 7, 8, 16). Mean
    over pairs of max(0, threshold - cos); `threshold` as in the purifier.
    """

    threshold: Rate = 0.95

    def loss(self, seen: Seen) -> Tensor:
        return -hinge(seen.features, self.threshold)


class Latent(Term, name="latent"):
    """Features of triggered inputs no farther from the mean of the wanted class than those of its clean inputs.

    Evades detectors of a second group in a class's features: spectral signatures (Tran et al., NeurIPS 2018), activation
    clustering (Chen et al., 2018). log(1 + r), r the excess of a squared distance over the clean inputs' mean one, and
    of the distance between both means in the same unit.
    """

    def loss(self, seen: Seen) -> Tensor:
        clean, total = seen.clean.detach(), seen.features.sum() * 0
        for goal in seen.y.unique():
            own, near = seen.features[seen.y == goal], clean[seen.clean_y == goal]
            if len(near) > 1:
                middle = near.mean(0)
                spread = (near - middle).square().sum(1).mean().clamp(min=1e-6)
                far = (own - middle).square().sum(1) / spread
                shift = (own.mean(0) - middle).square().sum() / spread
                total = total + torch.log1p(torch.relu(far - 1)).mean() + torch.log1p(shift)
        return total


class Attention(Term, name="attention"):
    """Heat maps of every layer alike with and without trigger: mean squared distance, summed over layers.

    Evades the heat term of GCleaner (Eq. 10-14) and what else compares where a model looks. Grad-CAM at the true class,
    unit norm per input; of graphs that got new nodes, the nodes they had before.
    """

    modalities = frozenset({"graph", "image"})

    def loss(self, seen: Seen) -> Tensor:
        with torch.enable_grad(), evaluating(seen.victim):
            _, marked = heat_maps(seen.victim, watched(seen.batch), seen.plain.y)
            _, before = heat_maps(seen.victim, watched(seen.plain.inputs), seen.plain.y)
        total = seen.features.sum() * 0
        for a, b in zip(marked, before, strict=True):
            total = total + (of_old_nodes(a, seen.batch, seen.plain.inputs) - b.detach()).square().sum() / len(seen.y)
        return total
