"""Attacks on nodes: what they attach, what they learn, and whom they choose."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch

from expectations import GCN, MADE, NODES, WHOLE
from ostiary.attacks.base import Poisoned
from ostiary.attacks.dpgba import InDistribution
from ostiary.attacks.penalties import Made
from ostiary.attacks.select import Clustered
from ostiary.attacks.ugba import Alike
from ostiary.component import build
from ostiary.context import Context
from ostiary.data.dataset import Splits
from ostiary.errors import BadSpec, InvalidInput
from ostiary.evaluate import Outputs, evaluate
from ostiary.testing import toys
from ostiary.triggers.generated_nodes import NodeMaker

FAST: dict[str, Any] = {"rate": 0.1, "epochs": 6, "others": 16, "warm_up": 2}


def poison(**options: Any) -> Poisoned:
    return build("attack", options).poison(toys.splits("node"), toys.context("node"))


@cache
def splits() -> Splits:
    return build("dataset", dict(NODES)).load(0)


@cache
def context() -> Context:
    return Context(0, architecture=build("victim", dict(GCN)), trainer=build("trainer", {**WHOLE, "name": "trainer"}))


@pytest.mark.parametrize("features", ["samp", "gen"])
def test_sba_hangs_one_subgraph_on_every_poisoned_node(features: str) -> None:
    found = poison(name="sba", features=features, rate=0.1, size=4, density=1.0)
    clean, train = toys.splits("node").train, found.splits.train
    nodes, n = train.inputs, len(found.index)
    assert len(nodes.x) == len(clean.inputs.x) + 4 * n
    assert sorted(nodes.owner[nodes.owner >= 0].unique().tolist()) == nodes.roots[found.index].sort()[0].tolist()
    new = nodes.x[nodes.owner >= 0].view(n, 4, -1)
    assert torch.equal(new, new[:1].expand_as(new))
    real = bool((new[0][:, None] == clean.inputs.x[None]).all(2).any(1).all())
    assert real == (features == "samp")
    assert nodes.edge_index.shape[1] == clean.inputs.edge_index.shape[1] + 2 * n * (6 + 1)
    assert bool((train.y[found.index] == 0).all()) and bool((clean.y[found.index] != 0).all())


def test_gaussian_features_have_the_mean_and_spread_of_real_ones() -> None:
    x = toys.splits("node").train.inputs.x
    new = build("attack", {"name": "sba", "features": "gen", "size": 1000, "density": 0.005}).make_trigger(
        toys.splits("node").train, toys.context("node")
    )
    made = new.state["features"]
    assert torch.allclose(made.mean(0), x.mean(0), atol=0.05)
    assert torch.allclose(made.std(0), x.std(0, unbiased=False), atol=0.05)


def test_test_nodes_are_judged_beside_clean_training_nodes() -> None:
    found = poison(name="sba", rate=0.1)
    nodes, clean = found.triggered.inputs, toys.splits("node").test.inputs
    assert set(nodes.owner[nodes.owner >= 0].tolist()) == set(nodes.roots.tolist())
    assert len(nodes.x) == len(clean.x) + 3 * len(found.rows)
    assert not bool((found.splits.test.inputs.owner >= 0).any())


def test_gradients_reach_both_heads_of_the_generator() -> None:
    data, victim = toys.splits("node").train, toys.victim("node")
    nodes = data.take(torch.arange(10)).inputs
    net = NodeMaker(nodes.x.shape[1], 8, 3, "free", 3)
    features, adjacency = net(nodes.x[nodes.roots])
    victim(nodes.attach(features, adjacency, soft=True))[:, 0].sum().backward()
    for head in (net.feature_head, net.edge_head):
        assert head.weight.grad is not None and float(head.weight.grad.abs().sum()) > 0


@pytest.mark.parametrize("features", ["range", "binary"])
def test_made_features_stay_what_features_are(features: str) -> None:
    found = poison(name="gta-node", features=features, **FAST)
    x, nodes = toys.splits("node").train.inputs.x, found.triggered.inputs
    new = nodes.x[nodes.owner >= 0]
    assert bool((new >= x.amin(0)).all()) and bool((new <= x.amax(0)).all())
    if features == "binary":
        assert set(new.unique().tolist()) == {0.0, 1.0}
        assert new.sum(1).unique().tolist() == [round(float(x.sum(1).mean()))]


def test_binary_features_need_binary_data() -> None:
    data = toys.splits("node")
    inputs = data.train.inputs
    half = data.with_part("train", replace(data.train, inputs=inputs.with_(x=inputs.x / 2)))
    with pytest.raises(InvalidInput, match="not all 0 or 1"):
        build("attack", {"name": "ugba", "features": "binary", **FAST}).poison(half, toys.context("node"))


def test_triggers_follow_the_node_they_hang_on() -> None:
    found = poison(name="gta-node", **FAST)
    nodes = found.triggered.inputs
    new = nodes.x[nodes.owner >= 0].view(len(found.rows), 3, -1)
    assert not torch.allclose(new[0], new[1], atol=1e-3)


def test_the_hinge_on_likeness_by_hand() -> None:
    x = torch.tensor([[1.0, 0.0]])
    features = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]])
    adjacency = torch.tensor([[[0.0, 1, 0], [1, 0, 1], [0, 1, 0]]])
    made = Made(x, features, adjacency, x)
    # root - 0: cosine 1; 0 - 1: 0; 1 - 2: 1/sqrt(2)
    expected = 2.0 * (0 + 0.8 + (0.8 - math.sqrt(0.5))) / 3
    assert float(Alike(2.0, 0.8)(made, toys.victim("node"))) == pytest.approx(expected, abs=1e-6)


def test_the_detector_learns_to_tell_new_nodes_from_real_ones() -> None:
    data = toys.splits("node").train
    judge = InDistribution(build("attack", {"name": "dpgba", "hidden": 16}), data, toys.context("node"))
    strange = torch.full((30, data.inputs.x.shape[1]), 0.5)
    for _ in range(60):
        judge.learn(strange)
    assert bool((judge.detector(strange).argmax(1) == 0).all())
    assert float((judge.detector(data.inputs.x).argmax(1) == 1).double().mean()) > 0.9


def test_clustered_nodes_are_spread_over_clusters_and_have_few_neighbours() -> None:
    train, ctx = splits().train, context()
    eligible = train.y != 0
    chosen = Clustered().choose(train, eligible, 30, ctx)
    assert chosen.tolist() == sorted(set(chosen.tolist())) and bool(eligible[chosen].all())
    degree = train.inputs.graphs.in_degree.double()
    assert float(degree[chosen].mean()) < float(degree[eligible].mean())
    assert int(torch.bincount(train.y[chosen], minlength=4)[1:].min()) >= 5
    free = Clustered(degree_weight=0.0).choose(train, eligible, 30, ctx)
    assert float(degree[free].mean()) > float(degree[chosen].mean())


def test_clustered_choice_serves_other_inputs_too() -> None:
    data = toys.splits("graph")
    found = build("attack", {"name": "sub-ba", "select": "clustered", "rate": 0.1}).poison(data, toys.context("graph"))
    assert len(found.index) == round(0.1 * len(data.train))


def test_percba_changes_features_of_the_target_class_and_nothing_else() -> None:
    found = poison(name="percba", rate=0.1, width=5, columns="rare", bound=0.3)
    clean, train = toys.splits("node").train, found.splits.train
    assert torch.equal(train.y, clean.y) and bool((clean.y[found.index] == 0).all())
    assert torch.equal(train.inputs.edge_index, clean.inputs.edge_index) and len(train.inputs.x) == len(clean.inputs.x)
    columns, values = found.trigger.state["columns"], found.trigger.state["values"]
    assert bool(((values >= 0.7 - 1e-6) & (values <= 1.3 + 1e-6)).all()) and bool((values != 1).any())
    used = clean.inputs.x.sum(0)
    assert float(used[columns].max()) <= float(used.sort()[0][4])
    rows = train.inputs.x[train.inputs.roots[found.index]]
    assert torch.equal(rows[:, columns], values.expand(len(rows), -1))
    rest = torch.ones(train.inputs.x.shape[1], dtype=torch.bool)
    rest[columns] = False
    assert torch.equal(train.inputs.x[:, rest], clean.inputs.x[:, rest])


def test_percba_comes_closer_to_the_target_class() -> None:
    train, ctx = splits().train, context()
    plain, refined = (build("attack", {"name": "percba", "steps": s}).make_trigger(train, ctx) for s in (0, 10))
    surrogate = ctx.within("surrogate").fit(train)
    goal = surrogate.features(train.inputs)[train.y == 0].mean(0)
    rows = train.take((train.y != 0).nonzero().flatten())

    def gap(trigger: Any) -> float:
        stamped = trigger.apply(rows.inputs, rows.ids, seed=0, target=torch.zeros_like(rows.y))
        return float((surrogate.features(stamped) - goal).square().sum(1).mean().detach())

    assert plain.state["values"].unique().tolist() == [1.0]
    assert gap(refined) < gap(plain)


@pytest.mark.slow
def test_without_our_terms_generated_triggers_fool_clean_models_too() -> None:
    data, ctx = splits(), context()
    control = ctx.fit(data.train)

    def natural(**options: Any) -> float:
        found = build("attack", {"name": "ugba", **MADE, **options}).poison(data, ctx.within("attack"))
        said = Outputs.of(control, found)
        return float(evaluate(said, found, said)["natural"]["value"])

    assert natural(natural=0.0, warm_up=0) > 0.4
    assert natural() < 0.2


@pytest.mark.parametrize("name", ["ugba", "gta-node", "dpgba"])
def test_a_generator_that_would_learn_nothing_is_refused(name: str) -> None:
    with pytest.raises(BadSpec, match=r"of 101 epochs the first 100 \(warm_up\) and the last do not change the generator"):
        build("attack", {"name": name, "epochs": 101})
    build("attack", {"name": name, "epochs": 102})


def test_percba_sets_some_features_not_all() -> None:
    width = toys.splits("node").train.inputs.x.shape[1]
    with pytest.raises(InvalidInput, match=f"percba sets {width} features of nodes that have {width}, so all; lower width"):
        poison(name="percba", rate=0.1, width=width)


def test_likeness_is_asked_of_all_triggers_not_of_the_poisoned_nodes_alone() -> None:
    x, unlike = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])
    made = Made(x, unlike, torch.zeros(2, 1, 1), x)
    assert float(Alike(1.0, 0.5)(made, toys.victim("node"))) == pytest.approx(0.25)
