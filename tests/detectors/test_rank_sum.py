"""Two detectors' ranks together: how they add up, which label is in excess, and what may be asked."""

from __future__ import annotations

import pytest
import torch

from ostiary.component import build
from ostiary.detectors.rank_sum import RankSum, labels_in_excess, shared_ranks
from ostiary.detectors.rigbd import RIGBD
from ostiary.detectors.spectral import Spectral
from ostiary.errors import Unsupported
from ostiary.purifiers.rigbd import RIGBD as RobustTraining
from ostiary.testing import toys


def test_ranks_run_from_zero_to_one_and_equal_scores_share_theirs() -> None:
    assert shared_ranks(torch.tensor([3.0, -1.0, 3.0, 9.0, 5.0])).tolist() == [0.375, 0.0, 0.375, 1.0, 0.75]
    assert shared_ranks(torch.tensor([2.0])).tolist() == [0.0]
    assert shared_ranks(torch.full((4,), 7.0)).unique().tolist() == [0.5]


def test_the_label_in_excess_is_not_the_most_frequent_one() -> None:
    labels = torch.tensor([0] * 80 + [1] * 20)
    scores = torch.zeros(100)
    scores[:6], scores[80:84] = 1.0, 1.0  # six of the large class and four of the small one lead
    found, flagged = labels_in_excess(scores, labels, 0.1, 1.0)
    assert found == (1,) and flagged.nonzero().flatten().tolist() == [80, 81, 82, 83]
    assert labels_in_excess(scores, labels, 0.1, 9.0)[0] == (1,), "one at least"
    assert int(labels_in_excess(scores, labels, 0.001, 1.0)[1].sum()) == 1, "never less than the highest row"


def test_several_labels_in_excess_are_all_suspected() -> None:
    labels = torch.arange(90) % 9
    scores = torch.isin(labels, torch.tensor([2, 7])).double() - 0.01 * torch.arange(90)
    found, flagged = labels_in_excess(scores, labels, 10 / 90, 1.0)
    assert found == (2, 7) and labels[flagged].unique().tolist() == [2, 7] and int(flagged.sum()) == 10


def test_where_all_rank_alike_nobody_is_flagged() -> None:
    assert not bool(labels_in_excess(torch.ones(9), torch.arange(9) % 3, 0.5, 1.0)[1].any())


def test_scores_are_the_sum_of_both_ranks_on_graphs_and_images() -> None:
    for modality in ("graph", "image"):
        held, ctx = toys.evidence(modality), toys.context(modality)
        first, second = Spectral(), build("detector", {"name": "fct", "steps": 3})
        found = RankSum(first=first, second=second, share=0.1).inspect(held, ctx)
        parts = [d.findings(held, ctx.within(name)).scores for d, name in ((first, "first"), (second, "second"))]
        assert torch.allclose(found.scores, shared_ranks(parts[0]) + shared_ranks(parts[1]))
        assert found.flagged is not None
        rows = found.flagged.nonzero().flatten()
        assert 0 < len(rows) <= round(0.1 * len(held.train))
        assert held.train.y[rows].unique().tolist() == list(found.classes)


def test_both_must_judge_training_rows() -> None:
    held, ctx = toys.evidence("image"), toys.context("image")
    with pytest.raises(Unsupported, match="'strip' judges incoming inputs and not the training set"):
        RankSum(first=Spectral(), second=build("detector", "strip")).inspect(held, ctx)
    with pytest.raises(Unsupported, match="'rigbd' works on graph, node data"):
        RankSum(first=Spectral()).inspect(held, ctx)


def test_a_defender_without_a_model_may_ask_two_detectors_that_need_none() -> None:
    own = RIGBD(own_model=True, passes=2)
    pair = RankSum(first=own, second=own.replace(keep_last=False))
    assert pair.needed() == {"train"} and RankSum().needed() == {"train", "victim"}
    held = toys.evidence("graph").but(victim=None)
    assert len(pair.inspect(held, toys.context("graph")).scores) == len(toys.splits("graph").train)


def test_the_preset_for_nodes_trains_against_what_it_flags_and_looks_again() -> None:
    preset = RobustTraining.preset("nodes")
    assert isinstance(preset.finder, RankSum) and preset.look == 0.3 and preset.needed() == {"train", "victim"}
