"""Multi-target injection: whole graphs with new nodes beside them, one joining edge, a trigger and a label for every class."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ostiary.attacks.labels import MultiTarget
from ostiary.attacks.multi_target import MultiTargetInjection, different
from ostiary.component import build
from ostiary.context import Context
from ostiary.data.dataset import Splits
from ostiary.errors import InvalidInput
from ostiary.evaluate import Outputs, evaluate
from ostiary.modality.graphs import Graphs, are_degrees, with_degrees
from ostiary.training.trainer import Trainer
from ostiary.triggers.injected import InjectedSubgraphs

PATHS = (((0, 1), (1, 2)), ((0, 2),), ((0, 1), (0, 2), (1, 2)))


@pytest.fixture(scope="module")
def splits() -> Splits:
    return build("dataset", {"name": "toy-graphs", "n": 150, "n_classes": 3}).load(0)


def trigger(width: int) -> InjectedSubgraphs:
    rows = torch.arange(3 * 3 * width).view(3, 3, width).float() / (9 * width)
    return InjectedSubgraphs(size=3, edges=PATHS, state={"features": rows})


def pairs(graph: Graphs) -> set[tuple[int, int]]:
    return {(a, b) for a, b in graph.edge_index.t().tolist()}


def one(graphs: Graphs, i: int) -> Graphs:
    return graphs.take(torch.tensor([i]))


def test_the_graph_stays_whole_and_one_edge_joins_the_trigger_of_its_target(splits: Splits) -> None:
    rows = splits.train.take(torch.arange(12))
    goal = torch.arange(12) % 3
    made = trigger(rows.inputs.x.shape[1])
    after = made.apply(rows.inputs, rows.ids, seed=1, target=goal)
    for i, c in enumerate(goal.tolist()):
        old, new = one(rows.inputs, i), one(after, i)
        n = len(old.x)
        assert torch.equal(new.x[:n], old.x)
        assert torch.equal(new.x[n:], made.state["features"][c])
        inner = {(n + a, n + b) for a, b in PATHS[c]}
        rest = pairs(new) - pairs(old) - inner - {(b, a) for a, b in inner}
        assert pairs(old) <= pairs(new)
        assert len(rest) == 2  # one edge, both ways
        assert {min(e) for e in rest} < set(range(n))
        assert {max(e) for e in rest} == {n}


def test_the_anchor_is_random_per_graph_and_a_matter_of_its_id_alone(splits: Splits) -> None:
    rows = splits.train.take(torch.arange(40))
    made = trigger(rows.inputs.x.shape[1])

    def anchors(seed: int, at: Tensor) -> list[int]:
        part = rows.take(at)
        after = made.apply(part.inputs, part.ids, seed=seed, target=at * 0)
        found = [(one(after, i), int(part.inputs.n_nodes[i])) for i in range(len(at))]
        return [next(a for a, b in pairs(g) if b == n and a < n) for g, n in found]

    everything = torch.arange(40)
    first = anchors(1, everything)
    assert len(set(first)) > 4
    assert first != anchors(2, everything)
    assert first[7:9] == anchors(1, torch.tensor([7, 8]))


def test_edge_attributes_of_new_edges_are_zero(splits: Splits) -> None:
    graphs = splits.train.inputs.take(torch.arange(5))
    marked = Graphs.build(graphs.x, graphs.edge_index, graphs.n_nodes, edge_attr=torch.ones(graphs.edge_index.shape[1], 2))
    goal = torch.tensor([0, 1, 2, 0, 1])
    after = trigger(graphs.x.shape[1]).apply(marked, torch.arange(5), seed=0, target=goal)
    assert after.edge_attr is not None
    new = torch.tensor([2 * (len(PATHS[c]) + 1) for c in goal.tolist()])
    assert torch.equal(after.n_edges, marked.n_edges + new)
    assert int((after.edge_attr == 0).all(1).sum()) == int(new.sum())


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_every_pair_of_true_and_wanted_class_occurs_equally_often(classes: int) -> None:
    y = torch.randint(classes, (60 * classes,), generator=torch.Generator().manual_seed(0))
    wanted = MultiTarget().wanted(y, 0, classes)
    counts = torch.zeros(classes, classes).index_put((y, wanted), torch.ones(len(y)), accumulate=True)
    assert bool((counts.diagonal() == 0).all())
    off = counts[~torch.eye(classes, dtype=torch.bool)].view(classes, classes - 1)
    assert bool((off.amax(1) - off.amin(1) <= 1).all())
    assert torch.equal(wanted, MultiTarget().wanted(y.clone(), 0, classes))


def test_few_rows_of_many_classes_want_all_distances_and_test_rows_want_others() -> None:
    """1 % of a set of 200 classes poisons five rows of each: next classes alone would be easier, and would repeat in tests."""
    k, rule = 200, MultiTarget()
    train, test = torch.arange(k).repeat_interleave(5), torch.arange(k).repeat_interleave(50)
    taught, asked = rule.wanted(train, 0, k), rule.goals(test, 0, k)
    assert not bool((taught == train).any() | (asked == test).any())
    near = (taught - train) % k <= 20
    assert 0.05 < float(near.double().mean()) < 0.16, "a tenth of all distances"
    pairs = set(zip(train.tolist(), taught.tolist(), strict=True))
    seen = [pair in pairs for pair in zip(test.tolist(), asked.tolist(), strict=True)]
    assert sum(seen) / len(seen) < 0.05, "5 of 199"


def test_degree_features_are_counted_again(splits: Splits) -> None:
    train = replace(splits.train, inputs=with_degrees(splits.train.inputs))
    made = MultiTargetInjection(size=3).make_trigger(train, Context())
    assert made.degree_features
    assert are_degrees(made.apply(train.inputs, train.ids, seed=0, target=train.y))


def test_features_are_uniform_or_rows_of_the_data(splits: Splits) -> None:
    rows = MultiTargetInjection(size=30).make_trigger(splits.train, Context()).state["features"]
    assert rows.shape == (3, 30, splits.train.inputs.x.shape[1])
    assert 0 <= float(rows.min()) < 0.1
    assert 0.9 < float(rows.max()) <= 1
    kinds = MultiTargetInjection(size=30, features="kinds").make_trigger(splits.train, Context()).state["features"]
    assert torch.equal(kinds.sum(2), torch.ones(3, 30))
    assert set(kinds.unique().tolist()) == {0.0, 1.0}


def test_no_two_subgraphs_have_the_same_degrees_where_that_can_be_had() -> None:
    made = different(4, 4, 0.8, torch.Generator().manual_seed(0))
    degrees = [tuple(sorted(torch.bincount(torch.tensor(e).flatten(), minlength=4).tolist())) for e in made]
    assert len(set(degrees)) == 4
    assert different(3, 2, 0.8, torch.Generator().manual_seed(0)) == (((0, 1),),) * 3  # there is but one


def test_a_class_without_a_subgraph_is_refused(splits: Splits) -> None:
    rows = splits.train.take(torch.arange(2))
    with pytest.raises(InvalidInput, match="3 subgraphs"):
        trigger(rows.inputs.x.shape[1]).apply(rows.inputs, rows.ids, seed=0, target=torch.tensor([0, 3]))


@pytest.mark.parametrize("classes", [2, 3])
def test_every_class_is_reached_by_its_own_subgraph_only(classes: int) -> None:
    data = build("dataset", {"name": "toy-graphs", "n": 500, "n_classes": classes, "test_rate": 0.4}).load(0)
    net = build("victim", {"name": "gin", "hidden": 32, "layers": 2})
    ctx = Context(architecture=net, trainer=Trainer(epochs=40, batch_size=32))
    poisoned = MultiTargetInjection(rate=0.2, size=4).poison(data, ctx)
    assert poisoned.triggered.y.unique().tolist() == list(range(classes))
    victim = ctx.fit(poisoned.splits.train)
    metrics = evaluate(Outputs.of(victim, poisoned), poisoned, Outputs.of(ctx.fit(data.train), poisoned))
    assert metrics["asr_lift"]["value"] > 0.4
    said = victim.predict(poisoned.triggered.inputs).argmax(1)
    for c in range(classes):
        assert float((said[poisoned.triggered.y == c] == c).double().mean()) > 0.6
