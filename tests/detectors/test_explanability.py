"""ED finds planted triggers among training samples and among what comes in."""

from __future__ import annotations

from typing import Literal

import pytest
import torch

from ostiary.detectors.ed import ED
from ostiary.detectors.seven_metrics import SevenMetrics
from ostiary.explainers.gnn_explainer import GNNExplainer
from ostiary.metrics.detection import detection
from ostiary.testing import toys

FAST = GNNExplainer(epochs=40, lr=0.05)


@pytest.mark.parametrize("on", ["train", "incoming"])
@pytest.mark.parametrize("method", [ED(k=6), SevenMetrics(explainer=FAST)], ids=lambda m: m.name)
def test_triggers_are_found_in_either_place(method: ED | SevenMetrics, on: Literal["train", "incoming"]) -> None:
    held, made = toys.evidence("graph"), toys.poisoned("graph")
    findings = method.replace(on=on).inspect(held, toys.context("graph"))
    truth = torch.arange(len(held.incoming)) >= len(made.splits.test)
    if on == "train":
        truth = torch.zeros(len(held.train), dtype=torch.bool)
        truth[made.index] = True
    assert detection(findings.scores, findings.flagged, truth)["auroc"] > 0.75


def test_the_threshold_is_the_highest_clean_score_or_a_quantile_of_them() -> None:
    held, ctx = toys.evidence("graph"), toys.context("graph")
    found = ED(on="incoming").inspect(held.but(incoming=held.clean), ctx)
    assert found.info["threshold"] == float(found.scores.max())
    assert found.flagged is not None
    assert not found.flagged.any()
    ordered = found.scores.sort().values
    below = int((ordered.diff() > 0).nonzero()[0])  # a quantile between this score and a higher one is the higher one
    some = ED(quantile=(below + 0.5) / (len(ordered) - 1)).inspect(held.but(incoming=held.clean), ctx)
    assert some.info["threshold"] == float(ordered[below + 1]) > float(ordered[below])
    assert some.flagged is not None and int(some.flagged.sum()) == int((ordered > ordered[below + 1]).sum())


def test_infidelity_lowers_the_score() -> None:
    held, ctx = toys.evidence("graph"), toys.context("graph")
    plus, both = (ED(score=s).inspect(held, ctx).scores for s in ("fid+", "fid+ - fid-"))
    assert not torch.equal(plus, both)
    paper = ED.preset("paper")
    assert paper.score == "fid+ - fid-"
    assert isinstance(paper.explainer, GNNExplainer)


def test_a_graph_scores_the_same_whatever_comes_with_it() -> None:
    held, ctx = toys.evidence("graph"), toys.context("graph")
    method, some = ED.preset("paper", explainer=FAST), torch.tensor([40, 3, 17])
    apart = method.inspect(held.but(incoming=held.incoming.take(some)), ctx)
    assert torch.allclose(apart.scores, method.inspect(held, ctx).scores[some], atol=1e-4)


def test_votes_are_counted_and_ties_are_broken_below_one_vote() -> None:
    held, ctx = toys.evidence("graph"), toys.context("graph")
    found = SevenMetrics(explainer=FAST, votes=3).inspect(held, ctx)
    assert found.flagged is not None
    assert torch.equal(found.flagged, found.scores >= 3)
    assert int(found.scores.floor().sum()) == sum(found.info["votes of each"].values())
    assert len(found.info["votes of each"]) == 7
