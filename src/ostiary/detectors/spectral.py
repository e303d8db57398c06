"""Spectral signatures."""

from __future__ import annotations

import torch
from torch import Tensor

from ostiary.component import PositiveFloat, Rate
from ostiary.context import Context
from ostiary.detectors.base import Detector, Findings
from ostiary.evidence import Evidence


class Spectral(Detector, name="spectral"):
    """Scores training samples by their share in the top singular direction of their class's features.

    Source: Tran, Li & Madry, NeurIPS 2018, arXiv:1811.00636. The defender holds the training set and the model
    trained on it. `eps` bounds the poisoned share of a class; `factor` * eps of each class is flagged (paper: 1.5).
    Differs from the authors' code as the paper does: centred features are scored, not the raw ones; features are
    pooled, in evaluation mode, without augmentation. Scores are squared, then divided by the class mean, so that
    classes compare.
    """

    modalities = frozenset({"graph", "image", "node"})
    needs = frozenset({"victim", "train"})
    about = "train"
    measure = "squared projection / class mean"
    eps: Rate = 0.1
    factor: PositiveFloat = 1.5

    def examine(self, evidence: Evidence, ctx: Context) -> Findings:
        train = evidence.train
        features = evidence.victim.embed(train.inputs)[1]
        scores = torch.zeros(len(train), dtype=torch.float64)
        flagged = torch.zeros(len(train), dtype=torch.bool)
        peaks = {}
        for c in train.y.unique().tolist():
            rows = (train.y == c).nonzero().flatten()
            centred = (features[rows] - features[rows].mean(0)).double()
            found, peak = along_top(centred)
            scores[rows] = found / found.mean().clamp(min=1e-12)
            n = min(len(rows), round(self.factor * self.eps * len(rows)))
            flagged[rows[found.argsort(descending=True)[:n]]] = True
            peaks[train.classes[c]] = peak
        return Findings(scores, flagged, info={"share of variance in the top direction": peaks})


def along_top(centred: Tensor) -> tuple[Tensor, float]:
    """(squared projections of the rows on the top right singular vector, float64 [n]; its share of the variance). By the
    eigenvectors of the smaller Gram matrix, since features may be many more than rows or rows than features."""
    n, d = centred.shape
    values, vectors = torch.linalg.eigh(centred.T @ centred if d < n else centred @ centred.T)
    top = vectors[:, -1]
    found = (centred @ top).square() if d < n else values[-1].clamp(min=0.0) * top.square()
    return found, float(values[-1] / values.sum().clamp(min=1e-12))
