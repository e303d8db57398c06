"""DPSBA: labels stay, hard graphs are chosen, gradients reach generator and critics, and the trigger is hidden from them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ostiary.attacks.critic import Critic, triangles
from ostiary.attacks.disguise import Disguised
from ostiary.attacks.dpsba import DPSBA
from ostiary.attacks.gta import untrained
from ostiary.component import build
from ostiary.context import Context
from ostiary.data.dataset import Splits
from ostiary.metrics.stealth import stealth
from ostiary.modality.graphs import Graphs, with_degrees
from ostiary.models.victim import evaluating, without_gradients
from ostiary.training.trainer import Trainer
from ostiary.triggers.generated import GeneratedSubgraph
from ostiary.triggers.mount import mount, random_score, top_nodes
from ostiary.triggers.own_model import carried
from ostiary.triggers.positions.asked import Impact
from ostiary.triggers.positions.structure import Degree


@pytest.fixture(scope="module")
def splits() -> Splits:
    return build("dataset", {"name": "toy-graphs", "n": 120}).load(0)


def context(epochs: int = 6) -> Context:
    net = build("victim", {"name": "gin", "hidden": 16, "layers": 2, "pooling": "max"})
    return Context(seed=0, architecture=net, trainer=Trainer(epochs=epochs, batch_size=32))


def hook(splits: Splits, ctx: Context, attack: DPSBA) -> Disguised:
    train = splits.train
    trigger = untrained(4, train, 16, ctx)
    index, others = (train.y == 0).nonzero().flatten()[:10], (train.y != 0).nonzero().flatten()
    return Disguised(attack, trigger, train, index, others, ctx.surrogate(train), ctx)


def test_labels_stay_and_the_least_sure_graphs_of_the_class_are_poisoned(splits: Splits) -> None:
    ctx = context(12)
    poisoned = DPSBA(rate=0.1, rounds=2, steps=2).poison(splits, ctx)
    train = splits.train
    assert poisoned.hook is None
    assert torch.equal(poisoned.splits.train.y, train.y)
    assert bool((train.y[poisoned.index] == 0).all())
    p = ctx.surrogate(train).predict(train.inputs).softmax(1)
    right = ((train.y == 0) & (p.argmax(1) == 0)).nonzero().flatten()
    rest = right[~torch.isin(right, poisoned.index)]
    assert float(p[poisoned.index, 0].max()) <= float(p[rest, 0].min())


@pytest.mark.parametrize("critic", ["structure", "semantics"])
def test_gradients_reach_generator_and_critics(splits: Splits, critic: str) -> None:
    ctx = context()
    made = hook(
        splits, ctx, DPSBA(structure=0.0, semantics=0.0, keep=0.0).replace(**{critic: 1e6})
    )  # cross-entropy counts for nothing
    before = [p.clone() for p in made.critics.parameters()]
    victim = ctx.fit(splits.train)
    with evaluating(victim), without_gradients(victim):
        made.loss_of(victim, made.rows, 0).backward()
    moved = [not torch.equal(a, b) for a, b in zip(before, made.critics.parameters(), strict=True)]
    assert all(moved)
    wanted = ["edge_head.weight", "encoder.0.lin.weight"] + (["feature_head.2.weight"] if critic == "semantics" else [])
    for name in wanted:
        grad = made.net.get_parameter(name).grad
        assert grad is not None
        assert float(grad.abs().max()) > 1, name


def test_the_structure_critic_does_not_see_features(splits: Splits) -> None:
    graphs = splits.train.inputs
    at = top_nodes(graphs, random_score(graphs, splits.train.ids, 0), 3)
    blind, seeing = Critic(0), Critic(graphs.x.shape[1])
    other = graphs.with_(x=graphs.x.flip(1))
    assert torch.equal(blind(graphs, at), blind(other, at))
    assert not torch.allclose(seeing(graphs, at), seeing(other, at))


def test_triangles_are_those_of_each_node_asked_for() -> None:
    pairs = torch.tensor([[0, 0, 1, 1, 2, 4, 4, 5], [1, 2, 2, 3, 3, 5, 6, 6]])  # two triangles sharing 1-2; one of 4, 5, 6
    graphs = Graphs.build(torch.ones(8, 1), torch.cat([pairs, pairs.flip(0)], 1), torch.tensor([4, 4]))
    at = torch.tensor([[1, 0], [5, -1]])
    assert triangles(graphs, at).tolist() == [1, 2, 0, 0, 0, 1, 0, 0]
    soft = mount(graphs, torch.tensor([[0, 1], [4, 5]]), torch.zeros(2, 2), soft=True)
    assert triangles(soft, at).tolist() == [0, 1, 0, 0, 0, 0, 0, 0]


def test_a_critic_learns_to_tell_a_clique(splits: Splits) -> None:
    made = hook(splits, context(), DPSBA(critic_lr=0.01))
    graphs = made.sources.inputs
    clique = mount(graphs, made.at, 1 - torch.eye(4), soft=True)
    for _ in range(60):
        made.teach(clique)
    assert made.critic_losses[-1] < 0.3 * made.critic_losses[0]
    assert (
        float(made.critics[0](graphs, made.at).detach().mean())
        > 1
        > -1
        > float(made.critics[0](clique, made.at).detach().mean())
    )


def test_the_critic_keeps_structure_as_it_was(splits: Splits) -> None:
    changes = []
    for weight in (0.0, 3.0):
        attack = DPSBA(rate=0.3, size=4, structure=weight, semantics=0.0, keep=1.0, rounds=6, steps=20, hidden=16)
        made = attack.poison(splits, context(14))
        before = splits.test.take(made.rows).inputs
        found = stealth(splits.modality, splits.train.inputs, before, made.triggered.inputs)
        changes.append(abs(found["degree_change"]))
    assert changes[1] < 0.7 * changes[0]


def test_the_first_kind_of_node_hides_the_class(splits: Splits) -> None:
    ctx = context(12)
    made = hook(splits, ctx, DPSBA(steps=1))
    base = float(made.first(made.model, made.rows).detach())
    made.update(made.model, 0)
    assert float(made.first(made.model, made.rows).detach()) < base


def test_a_position_may_ask_the_model_that_the_trigger_carries(splits: Splits) -> None:
    ctx, train = context(), splits.train
    plain = untrained(3, train, 16, ctx)
    assert ctx.architecture is not None
    taken = carried(ctx, train)
    asking = plain.replace(position=Impact(), **{**taken, "state": {**taken["state"], **plain.state}})
    by_model = asking.positions(train.inputs, train.ids, 5)
    assert torch.equal(by_model, Impact().choose(train.inputs, 3, train.ids, 5, ctx.surrogate(train).eval()))
    assert not torch.equal(by_model, plain.positions(train.inputs, train.ids, 5))
    hubs = plain.replace(position=Degree())
    assert torch.equal(hubs.positions(train.inputs, train.ids, 5), Degree().choose(train.inputs, 3, train.ids, 5))
    for trigger in (asking, hubs):
        stamped = trigger.apply(train.inputs, train.ids, seed=5, target=train.y)
        moved = (stamped.x != train.inputs.x).any(1)
        assert set(moved.nonzero().flatten().tolist()) <= set(trigger.positions(train.inputs, train.ids, 5).flatten().tolist())


def test_random_positions_are_what_they_were(splits: Splits) -> None:
    train = splits.train
    trigger = GeneratedSubgraph(size=4, width=train.inputs.x.shape[1])
    old = top_nodes(train.inputs, random_score(train.inputs, train.ids, 9), 4)
    assert torch.equal(trigger.positions(train.inputs, train.ids, 9), old)


def test_degree_features_work_too(splits: Splits) -> None:
    parts = {name: getattr(splits, name) for name in ("train", "test", "clean")}
    counted = Splits(**{k: replace(v, inputs=with_degrees(v.inputs)) for k, v in parts.items()})
    poisoned = DPSBA(rate=0.1, rounds=2, steps=2).poison(counted, context())
    assert poisoned.trigger.features == "degree"  # type: ignore[attr-defined]
    assert torch.equal(poisoned.triggered.inputs.x, with_degrees(poisoned.triggered.inputs).x)
