"""RIGBD: which edges go, what the score is, where it cuts, and what retraining does with the rows it flags."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from ostiary.component import build
from ostiary.context import Context
from ostiary.data.dataset import Dataset
from ostiary.detectors.base import Findings
from ostiary.detectors.edge_drop import LooplessConv, sway, thinned
from ostiary.detectors.rigbd import RIGBD, cut
from ostiary.errors import MissingEvidence, Unsupported
from ostiary.evidence import Evidence
from ostiary.modality.graphs import Graphs, with_degrees
from ostiary.modality.nodes import Nodes
from ostiary.models.victim import Victim
from ostiary.purifiers.rigbd import RIGBD as RobustTraining
from ostiary.purifiers.rigbd import Against
from ostiary.testing import toys
from ostiary.training.trainer import Trainer, TrainState

PATH = torch.tensor([[0, 1, 1, 2, 3, 4], [1, 0, 2, 1, 4, 3]])  # 0-1-2, 3-4 and 5 alone


def test_edges_go_in_pairs_at_the_rate_asked_for() -> None:
    ends = (1 - torch.eye(9)).nonzero().t()  # all know all: hardly ever does a node lose every edge
    whole = Graphs.build(torch.zeros(9, 1), ends, torch.tensor([9]))
    many = thinned(whole, torch.arange(1), torch.arange(300), 0.5, 3)
    assert len(many) == 300 and many.symmetric
    each = torch.bincount(many.edge_index[1] % 9 * 9 + many.edge_index[0] % 9, minlength=81).view(9, 9) / 300
    shares = each[ends[0], ends[1]]
    assert float(shares.min()) > 0.38 and float(shares.max()) < 0.62 and float(shares.mean()) == pytest.approx(0.5, abs=0.03)


def test_directed_edges_go_as_often_as_others() -> None:
    ends = torch.ones(9, 9).triu(1).nonzero().t()  # of node 0 all edges go out
    whole = Graphs.build(torch.zeros(9, 1), ends, torch.tensor([9]))
    many = thinned(whole, torch.arange(1), torch.arange(300), 0.5, 3)
    assert int(many.n_edges.sum()) / (300 * ends.shape[1]) == pytest.approx(0.5, abs=0.03)


def test_a_node_that_would_lose_its_last_edge_keeps_all() -> None:
    graph = Graphs.build(torch.zeros(6, 1), PATH, torch.tensor([6]))
    many = thinned(graph, torch.arange(1), torch.arange(64), 0.5, 0)
    degree = many.in_degree.view(64, 6)
    assert bool((degree[:, [0, 2, 3, 4]] == 1).all()) and bool((degree[:, 5] == 0).all())
    whole = thinned(graph, torch.arange(1), torch.arange(3), 1.0, 0)
    assert whole.edge_index.shape[1] == 3 * PATH.shape[1]


def test_last_edges_go_too_where_the_authors_code_drops_them() -> None:
    graph = Graphs.build(torch.zeros(6, 1), PATH, torch.tensor([6]))
    many = thinned(graph, torch.arange(1), torch.arange(200), 0.5, 0, keep_last=False)
    degree = many.in_degree.view(200, 6)
    assert many.symmetric and 0.4 < float((degree[:, 3] == 0).float().mean()) < 0.6
    data, victim = toys.splits("graph").train, toys.victim("graph")
    kept, all_ = (
        RIGBD(passes=3, keep_last=k).inspect(Evidence(victim=victim, train=data), toys.context("graph")) for k in (True, False)
    )
    assert not torch.equal(kept.scores, all_.scores)


def test_the_scores_of_several_networks_of_its_own_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    held, seen, own = Evidence(train=toys.splits("graph").train), [], RIGBD.own

    def noted(self: RIGBD, train: Dataset, share: float, ctx: Context, number: int = 0) -> Victim:
        seen.append(own(self, train, share, ctx, number))
        return seen[-1]

    monkeypatch.setattr(RIGBD, "own", noted)
    three = RIGBD(own_model=True, networks=3, passes=2).inspect(held, toys.context("graph"))
    assert len(seen) == 3
    key = toys.context("graph").key("edges")
    wanted = torch.stack([sway(net, held.train, 2, 0.5, key)[0] for net in seen]).sum(0)
    assert torch.allclose(three.scores, wanted)
    assert not torch.equal(sway(seen[0], held.train, 2, 0.5, key)[0], sway(seen[1], held.train, 2, 0.5, key)[0])
    with pytest.raises(Unsupported, match="set own_model or leave networks out"):
        RIGBD(networks=2).inspect(toys.evidence("graph"), toys.context("graph"))


def test_the_score_is_the_sum_of_divergences_whatever_the_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    for modality in ("graph", "node"):
        data, victim = toys.splits(modality).train, toys.victim(modality)
        scores, logits = sway(victim, data, 5, 0.5, 7)
        inputs = data.inputs
        store = inputs.graphs if isinstance(inputs, Nodes) else inputs
        ids = torch.arange(1) if isinstance(inputs, Nodes) else data.ids
        expected = torch.zeros(len(data))
        for k in range(5):
            few = thinned(store, ids, torch.tensor([k]), 0.5, 7)
            after = victim.predict(replace(inputs, graphs=few) if isinstance(inputs, Nodes) else few)
            expected += F.kl_div(after.log_softmax(1), logits.softmax(1), reduction="none").sum(1)
        assert torch.allclose(scores.float(), expected, rtol=1e-3, atol=1e-4)
        monkeypatch.setattr("ostiary.detectors.edge_drop.BUDGET", 1)
        assert torch.allclose(sway(victim, data, 5, 0.5, 7)[0], scores, rtol=1e-4, atol=1e-6)
        monkeypatch.undo()


def test_degrees_are_counted_anew_in_what_is_left() -> None:
    data, victim = toys.splits("graph").train, toys.victim("graph")
    data = replace(data, inputs=with_degrees(data.inputs))
    scores, logits = sway(victim, data, 3, 0.5, 7)
    expected = torch.zeros(len(data))
    for k in range(3):
        few = thinned(data.inputs, data.ids, torch.tensor([k]), 0.5, 7)
        after = victim.predict(with_degrees(few))
        expected += F.kl_div(after.log_softmax(1), logits.softmax(1), reduction="none").sum(1)
    assert torch.allclose(scores.float(), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("modality", ["graph", "node"])
def test_a_sample_is_scored_alike_in_any_company(modality: str) -> None:
    """Of nodes also: which others belong to the set (a trigger's never do) is nothing that the score may know."""
    data, victim = toys.splits(modality).train, toys.victim(modality)
    whole = sway(victim, data, 8, 0.9, 1)[0]
    most = whole.topk(5).indices
    part = sway(victim, data.take(most), 8, 0.9, 1)[0]
    assert float(part.min()) > 0 and torch.allclose(part, whole[most], rtol=1e-4, atol=1e-6)


def test_the_cut_is_before_the_first_two_others_in_a_row() -> None:
    labels = torch.tensor([2, 2, 1, 2, 0, 1, 2, 2])
    goal, flagged = cut(torch.arange(8).flip(0).double(), labels, top=4)
    assert goal == 2 and flagged.nonzero().flatten().tolist() == [0, 1, 3]
    assert bool(cut(torch.arange(3.0), torch.ones(3).long(), 10)[1].all())  # nothing to stop it
    assert not bool(cut(torch.zeros(3), torch.ones(3).long(), 10)[1].any())  # nothing to rank by
    goal, flagged = cut(torch.tensor([5.0, 4.0, 3.0, 2.0, 1.0]), torch.tensor([0, 1, 2, 2, 2]), top=5)
    assert goal == 2 and not bool(flagged.any())


def test_a_network_without_self_loops_does_not_see_the_node_itself() -> None:
    torch.manual_seed(0)
    conv, x = LooplessConv(3, 2), torch.randn(6, 3)
    out = conv(x, Graphs.build(x, PATH, torch.tensor([6])))
    h = conv.lin(x)
    assert torch.allclose(out[1], (h[0] + h[2]) / 2**0.5 + conv.bias) and torch.allclose(out[3], h[4] + conv.bias)
    assert torch.allclose(out[5], conv.bias)


def test_own_model_needs_the_training_set_and_the_other_the_victim() -> None:
    assert RIGBD().needed() == {"train", "victim"} and RIGBD(own_model=True).needed() == {"train"}
    assert RIGBD(on="incoming").needed() == {"incoming", "victim"}
    assert RIGBD(on="incoming", own_model=True).needed() == {"incoming", "train"}
    held = toys.evidence("node").but(victim=None)
    assert len(RIGBD.preset("paper", passes=2).inspect(held, toys.context("node")).scores) == len(held.train or ())
    with pytest.raises(MissingEvidence):
        RIGBD().inspect(held, toys.context("node"))


def test_an_own_model_that_died_is_trained_again_at_a_lower_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    splits, ctx, rates = toys.splits("graph"), toys.context("graph"), []
    fit = Trainer.fit

    def dying(self: Trainer, victim: Victim, *args: Any, **options: Any) -> Victim:
        rates.append(self.lr)
        found = fit(self, victim, *args, **options)
        if len(rates) == 1:
            with torch.no_grad():
                for parameter in found.parameters():
                    parameter.zero_()
        return found

    monkeypatch.setattr(Trainer, "fit", dying)
    found = RIGBD(own_model=True, passes=2).inspect(Evidence(train=splits.train), ctx)
    assert rates == pytest.approx([ctx.trainer.lr, ctx.trainer.lr / 3])
    assert float(found.scores.max()) > float(found.scores.min())


def test_robust_training_speaks_against_the_flagged_labels() -> None:
    data, ctx = toys.splits("node").train, toys.context("node")
    rows = (data.y == 1).nonzero().flatten()[:6]
    flagged = torch.zeros(len(data), dtype=torch.bool)
    flagged[rows] = True

    def probability(hooks: list[Against]) -> float:
        said = ctx.fit(data, hooks).predict(data.take(rows).inputs).softmax(1)
        return float(said[:, 1].mean())

    assert probability([]) > 0.7
    assert probability([Against(flagged, 1.0)]) < 0.3


def test_the_loss_of_a_batch_of_one_sort() -> None:
    data: Dataset = toys.splits("graph").train.take(torch.arange(4))
    victim = toys.victim("graph")
    state: TrainState = Trainer().start(victim, data, 0)
    rows = torch.arange(4)
    with torch.no_grad():
        logits = victim(data.inputs)
        plain = Against(torch.zeros(4, dtype=torch.bool), 1.0).loss(state, data.inputs, data.y, rows)
        against = Against(torch.ones(4, dtype=torch.bool), 2.0).loss(state, data.inputs, data.y, rows)
    assert torch.allclose(plain, F.cross_entropy(logits, data.y))
    assert torch.allclose(against, 2 * logits.softmax(1)[rows, data.y].mean())


def test_any_detector_of_training_rows_may_find_the_poison() -> None:
    held, ctx = toys.evidence("graph"), toys.context("graph")
    made = RobustTraining(finder={"name": "spectral"})  # type: ignore[arg-type]
    assert made.needed() == {"train", "victim"} and build("purifier", made.spec()) == made
    assert made.purify(held, ctx).notes["flagged"] > 0
    with pytest.raises(Unsupported, match="judges incoming inputs and not the training set"):
        RobustTraining(finder=RIGBD(on="incoming")).purify(held, ctx)
    with pytest.raises(MissingEvidence):
        RobustTraining().purify(Evidence(held.victim), Context())


def test_the_second_look_keeps_what_the_robust_model_contradicts() -> None:
    train, ctx = toys.splits("graph").train, toys.context("graph")
    wrong = (train.y == 1).nonzero().flatten()[:6]
    mislabelled = train.relabel(wrong, torch.zeros(6, dtype=torch.int64))
    right = (train.y == 0).nonzero().flatten()[:6]  # rightly labelled, and as suspicious to the first look
    scores = torch.zeros(len(train))
    scores[torch.cat([wrong, right])] = 1.0
    scores[(train.y == 1).nonzero().flatten()[-2:]] = 2.0  # of a class that nobody suspects
    first, none = torch.zeros(len(train), dtype=torch.bool), torch.zeros(len(train), dtype=torch.bool)
    first[wrong[:3]] = True
    findings, look = Findings(scores, first, (0,)), 14 / len(train)
    flagged = RobustTraining(look=look, most=1.0).contradicted(mislabelled, findings, first, ctx)
    assert int(flagged[wrong].sum()) >= 5 and int(flagged[right].sum()) <= 1, "three more are found, no right one"
    assert not bool(flagged[scores == 2.0].any())
    few = RobustTraining(look=look, most=3 / len(train)).contradicted(mislabelled, findings, first, ctx)
    assert int(few.sum()) == 3 and not bool((few & ~flagged).any())
    nobody = Findings(scores, none, (2,))
    assert not bool(RobustTraining(look=look).contradicted(mislabelled, nobody, none, ctx).any())


def test_the_preset_auto_asks_the_given_model_and_looks_twice() -> None:
    made = RobustTraining.preset("auto")
    assert made.needed() == {"train", "victim"}
    held = toys.evidence("graph")
    assert made.purify(held, toys.context("graph")).notes["flagged"] <= round(0.05 * len(held.train or ()))
