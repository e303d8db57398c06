"""DShield's parts: an encoder without labels, what a model attends to, the cluster of a class, unlearning."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import roc_auc_score
from torch import Tensor

from ostiary.component import build
from ostiary.data.dataset import Dataset
from ostiary.detectors.discrepancy import Unlearning, looked, outside, scaled, spans, unlearnt
from ostiary.detectors.dshield import DShield
from ostiary.detectors.self_taught import Lesson, SelfTaught, contrast, thinned
from ostiary.evidence import Evidence
from ostiary.modality.graphs import Graphs
from ostiary.modality.nodes import Nodes
from ostiary.seeds import generator
from ostiary.testing import toys
from ostiary.training.trainer import TrainState


def ring(n: int = 60, width: int = 8) -> Graphs:
    ends = torch.stack([torch.arange(n), (torch.arange(n) + 1) % n])
    x = torch.rand(n, width, generator=generator(0, "x")) + 0.1
    return Graphs.build(x, torch.cat([ends, ends.flip(0)], 1), torch.tensor([n]))


def draws(graphs: Graphs, alike: Tensor, lesson: Lesson, hide: Tensor, rows: Tensor, times: int = 40) -> list[Graphs]:
    rng = generator(0, "views")
    return [thinned(graphs, rows, alike, hide, lesson, rng) for _ in range(times)]


def test_views_lack_the_share_of_edges_unlike_ones_first_and_both_directions() -> None:
    g, hide = ring(), torch.zeros(60, 8, dtype=torch.bool)
    alike = torch.where(torch.arange(60) < 30, 4.0, -4.0)  # half of the pairs are much alike
    seen = draws(g, alike, Lesson(1, edges=0.3, features=0.0), hide, torch.arange(60))
    lost = torch.zeros(60)
    for view in seen:
        kept = torch.zeros(60, dtype=torch.bool)
        kept[g.pairs[[i for i in range(120) if (g.edge_index[:, i, None] == view.edge_index).all(0).any()]]] = True
        assert view.edge_index.shape[1] == 2 * int(kept.sum()) == 2 * 42
        lost += ~kept
    assert float(lost[:30].sum()) < 0.05 * float(lost[30:].sum())


def test_views_hide_what_speaks_for_labels_of_the_rows_and_more_at_random() -> None:
    g, rows = ring(), torch.arange(0, 60, 2)
    hide = torch.zeros(30, 8, dtype=torch.bool)
    hide[:, 3] = True
    seen = torch.stack([v.x for v in draws(g, torch.zeros(60), Lesson(1, edges=0.0, features=0.25), hide, rows)])
    assert torch.equal(seen[:, 1::2], g.x[1::2].expand(40, -1, -1))
    assert not bool(seen[:, ::2, 3].any())
    others = seen[:, ::2][:, :, [0, 1, 2, 4, 5, 6, 7]]
    assert float((others == 0).float().mean()) == pytest.approx(0.25, abs=0.03)


def test_contrast_is_infonce() -> None:
    a, b = (F.normalize(torch.randn(5, 4, generator=generator(i, "p")), dim=1) for i in (0, 1))
    logits = a @ b.T / 0.4
    by_hand = -sum(float(logits[i, i] - logits[i].exp().sum().log()) for i in range(5)) / 5
    assert float(contrast(a, b, 0.4)) == pytest.approx(by_hand, rel=1e-5)


def test_an_encoder_without_labels_brings_classes_together() -> None:
    """The share of nodes nearest to the middle of their class, which it was not told."""
    size = {"nodes": 200, "sizes": [1, 1], "edges": 500, "words": 40, "length": 6, "signal": 0.3}
    data = build("dataset", {"name": "sbm", **size}).load(0)
    inputs, y = data.train.inputs, data.train.y

    def fit(points: Tensor) -> float:
        middles = torch.stack([points[y == c].mean(0) for c in range(2)])
        return float((torch.cdist(points, middles).argmin(1) == y).float().mean())

    torch.manual_seed(0)
    net = SelfTaught(inputs.x.shape[1], 16)
    hide = torch.zeros(len(inputs.roots), inputs.x.shape[1], dtype=torch.bool)
    before = fit(net.embed(inputs.graphs).detach()[inputs.roots])
    alike = torch.zeros(int(inputs.graphs.pairs.max()) + 1)
    net.teach(inputs.graphs, inputs.roots, alike, hide, Lesson(60), generator(0, "views"))
    assert fit(net.embed(inputs.graphs).detach()[inputs.roots]) > max(0.8, before)


def test_what_speaks_for_a_label_raises_its_logit() -> None:
    data, victim = toys.splits("node").train, toys.victim("node")
    near, speaks, sure = looked(victim, data)
    whole = Nodes.of(data.inputs.graphs)
    logits = victim.predict(whole)
    assert near.shape == (len(whole.x), 16)
    assert torch.equal(sure, victim.predict(data.inputs).argmax(1) == data.y)
    labels = logits.argmax(1).index_copy(0, data.inputs.roots, data.y)
    for i, j in ((3, 0), (10, 5), (20, 9)):
        up = victim.predict(whole.with_(x=whole.x.index_put((torch.tensor(i), torch.tensor(j)), whole.x[i, j] + 1e-2)))
        rise = float((up.double() - logits.double()).gather(1, labels[:, None]).sum())
        assert abs(rise) < 1e-4 or bool(speaks[i, j]) == (rise > 0)


def test_the_cluster_of_a_class_leaves_out_what_lies_far() -> None:
    points = torch.cat([torch.randn(40, 3, generator=generator(0, "p")), torch.full((5, 3), 30.0) + torch.arange(5)[:, None]])
    out, how_far = outside(scaled(spans(points)))
    assert bool(out[40:].all())
    assert bool((how_far[out] == 1).all())
    assert bool((how_far[~out] < 1).any())


def test_of_one_class_the_median_tells_what_lies_apart_in_either_matrix() -> None:
    points = torch.randn(60, 3, generator=generator(0, "p"))
    drift, stress = points.clone(), points.clone()
    drift[3] += 12
    stress[8] += 12
    strange, scores = DShield(by="median").apart(scaled(spans(drift)), scaled(spans(stress)))
    assert set(scores.topk(2).indices.tolist()) == {3, 8}
    assert bool(strange[[3, 8]].all())
    assert int(strange.sum()) < 10


def test_unlearning_falls_with_good_rows_and_rises_with_bad_ones() -> None:
    data, victim, ctx = toys.splits("node").train, toys.victim("node"), toys.context("node")
    bad = torch.zeros(len(data), dtype=torch.bool)
    bad[:5] = True
    good = torch.arange(len(data)) % 2 == 1
    shown = data.inputs.x * 0.5
    rows = torch.arange(len(data))
    state = ctx.trainer.start(victim, data, 0)
    assert isinstance(state, TrainState)
    found = Unlearning(bad, good & ~bad, shown).loss(state, data.inputs, data.y, rows)
    loss = F.cross_entropy(victim(data.inputs), data.y, reduction="none")
    other = F.cross_entropy(victim(data.inputs.with_(x=shown)), data.y, reduction="none")
    fallen = torch.where(loss < 5, loss.exp() - 1, loss)[good & ~bad].mean()
    torch.testing.assert_close(found, fallen - (1 + other[bad]).log().mean(), rtol=1e-4, atol=1e-4)


def test_rows_that_are_unlearnt_end_farther_from_their_class() -> None:
    data, ctx, label = toys.splits("node").train, toys.context("node"), 1
    mine = (data.y == label).nonzero().flatten()
    bad = torch.zeros(len(data), dtype=torch.bool)
    bad[mine[: len(mine) // 4]] = True
    far = unlearnt(data, bad, ~bad, data.inputs.x, label, ctx)
    plain = ctx.within(f"unlearning {label}").fit(data, [Unlearning(torch.zeros_like(bad), ~bad, data.inputs.x)])
    first = plain.layers(data.inputs)[1][0].detach()[data.inputs.roots]
    near = (first[bad] - first[~bad & (data.y == label)].mean(0)).square().sum(1)
    assert far.shape == near.shape
    assert float(far.mean()) > 1.2 * float(near.mean())


def mislabelled(data: Dataset, n: int = 8) -> tuple[Dataset, Tensor]:
    """The first nodes of class 0 that bear label 1."""
    wrong = torch.zeros(len(data), dtype=torch.bool)
    wrong[(data.y == 0).nonzero().flatten()[:n]] = True
    return replace(data, y=torch.where(wrong, 1, data.y)), wrong


@pytest.mark.parametrize("preset", ["paper", "auto"])
def test_it_finds_wrong_labels_that_a_model_has_learnt(preset: str) -> None:
    data, wrong = mislabelled(toys.splits("node").train)
    ctx = toys.context("node")
    victim = replace(ctx, trainer=ctx.trainer.replace(epochs=200)).fit(data)
    how = build("detector", {"name": "dshield", "preset": preset, "epochs": 60})
    found = how.inspect(Evidence(victim=victim, train=data), ctx)
    sure = victim.predict(data.inputs).argmax(1) == data.y
    assert int((sure & wrong).sum()) >= 5
    assert found.flagged is not None
    assert roc_auc_score(wrong[sure], found.scores[sure]) > 0.6
    assert bool((found.scores[~sure] <= found.scores[sure].median()).all())
    assert set(found.classes) == set(data.y[found.flagged].tolist())


def test_a_class_of_three_nodes_is_left_alone() -> None:
    data = toys.splits("node").train
    few = torch.cat([(data.y == 0).nonzero().flatten()[:3], (data.y > 0).nonzero().flatten()])
    part = data.take(few)
    found = DShield(epochs=2).inspect(Evidence(victim=toys.victim("node"), train=part), toys.context("node"))
    assert found.scores[part.y == 0].tolist() == [0, 0, 0]


def test_a_graph_without_edges_is_judged_by_its_features() -> None:
    data = toys.splits("node").train
    bare = data.inputs.graphs.with_edges(torch.zeros(data.inputs.edge_index.shape[1], dtype=torch.bool))
    alone = replace(data, inputs=replace(data.inputs, graphs=bare))
    for by in ("clusters", "median"):
        found = build("detector", {"name": "dshield", "epochs": 2, "by": by}).inspect(
            Evidence(victim=toys.victim("node"), train=alone), toys.context("node")
        )
        assert len(found.scores.unique()) > 10
