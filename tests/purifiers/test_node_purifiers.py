"""Purifiers of a given node classifier: what the maker of new nodes may do, and what is left of a backdoor."""

from __future__ import annotations

import pytest
import torch

from ostiary.modality.nodes import Nodes, egos
from ostiary.purifiers.fine_tune import FineTune
from ostiary.purifiers.misleading import Means
from ostiary.purifiers.nad import attention
from ostiary.purifiers.node_unlearning import NodeUnlearning
from ostiary.purifiers.rehearsal import Rehearsal
from ostiary.testing import toys

MEANS = Means(size=3, hidden=8, reach=2.0, lr=0.01, steps=1, retain=1.0, agree=0.9)


def rehearsal(means: Means = MEANS) -> Rehearsal:
    return Rehearsal(means, toys.victim("node"), toys.splits("node").clean, toys.context("node"))


def test_new_nodes_keep_within_reach() -> None:
    hook = rehearsal()
    clean = hook.data
    with torch.no_grad():
        hook.net.nodes.feature_head.bias.mul_(100)
        marked = hook.marked(clean.inputs, (clean.y + 1) % clean.n_classes)
    new = marked.x[marked.owner >= 0]
    assert len(new) == 3 * len(clean) and float(new.norm(dim=1).max()) == pytest.approx(2.0, rel=1e-4)
    assert torch.equal(marked.x[marked.owner < 0], clean.inputs.x)


def test_each_class_has_a_maker_of_its_own_wish() -> None:
    hook = rehearsal()
    x = hook.data.inputs.x[hook.data.inputs.roots]
    one, other = (hook.net(x, torch.full((len(x),), c))[0] for c in (0, 1))
    assert not torch.allclose(one, other)


def test_nobody_is_led_to_the_class_it_has() -> None:
    hook = rehearsal()
    drawn = torch.stack([hook.wished() for _ in range(30)])
    assert not bool((drawn == hook.data.y).any()) and set(drawn.unique().tolist()) == {0, 1, 2}
    hook.goals = [1]
    goals = hook.wished()
    assert bool((goals[hook.data.y != 1] == 1).all()) and bool((goals[hook.data.y == 1] == -1).all())


def test_steps_of_the_maker_find_what_misleads_the_victim() -> None:
    hook, victim = rehearsal(), toys.victim("node")
    before, after = hook.recover(victim, 0), hook.recover(victim, 60)
    assert sum(after) - sum(before) > 1.0


def test_the_maker_reaches_further_only_while_answers_stay() -> None:
    lax, strict = (rehearsal(Means(3, 8, 2.0, 0.01, 1, 1.0, agree)) for agree in (0.0, 1.0))
    for hook in (lax, strict):
        with torch.no_grad():
            hook.answers = hook.answers.roll(1, dims=1)  # the student agrees nowhere
        NodeUnlearning().trainer(2).fit(toys.victim("node"), hook.data, 0, [hook])
    assert lax.net.reach > 2.0 > strict.net.reach


def test_the_graph_is_judged_as_before_as_far_as_asked() -> None:
    held, ctx = toys.evidence("node"), toys.context("node")
    cleaned = NodeUnlearning(others=40, epochs=40, agree=0.9).purify(held, ctx)
    whole = Nodes.of(held.clean.inputs.graphs)
    before, after = (v.predict(whole) for v in (held.victim, cleaned))
    assert float((before.argmax(1) == after.argmax(1)).double().mean()) >= 0.9
    assert not torch.allclose(before, after)
    assert len(cleaned.notes["unlearned"]) > 0 and cleaned.notes["reach"] > 0


def test_a_model_that_nothing_misleads_is_left_as_it_is() -> None:
    held = toys.evidence("node")
    same = NodeUnlearning(recovery_steps=1, reach=1e-6, flag=1.0).purify(held, toys.context("node"))
    assert same.notes["unlearned"] == []
    assert all(torch.equal(a, b) for a, b in zip(same.parameters(), held.victim.parameters(), strict=True))


def test_attention_of_a_node_is_over_its_neighbourhood() -> None:
    clean = toys.splits("node").clean.inputs
    features = torch.rand(len(clean.x), 4)
    found = attention(features, clean, 2.0)
    graphs, number, _ = egos(clean)
    assert torch.allclose(torch.zeros(len(clean)).index_add(0, graphs.batch, found.square()), torch.ones(len(clean)))
    assert torch.allclose(found[0] / found[1], features[number[0]].square().sum() / features[number[1]].square().sum())


def test_nodes_are_fine_tuned_all_at_once_whatever_the_batch() -> None:
    assert FineTune(batch_size=8).trainer(toys.context("node"), toys.splits("node").clean, 1).batch_size > 10**5
    assert FineTune(batch_size=8).trainer(toys.context("graph"), toys.splits("graph").clean, 1).batch_size == 8
