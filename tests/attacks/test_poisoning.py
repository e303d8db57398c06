"""What every poisoning attack gets from its base: counts, labels, sources, refusals; and the parts it is built of."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import networkx as nx
import pytest
import torch

from ostiary.attacks.base import PoisoningAttack
from ostiary.attacks.labels import AllToAll, AllToOne, CleanLabel, CleanMultiTarget
from ostiary.attacks.random_graphs import erdos_renyi, trigger_size
from ostiary.attacks.select import Random
from ostiary.attacks.sub_ba import SubBA
from ostiary.component import build
from ostiary.context import Context
from ostiary.data.dataset import Dataset, Splits
from ostiary.data.user import images, split_data
from ostiary.errors import InvalidInput, Unsupported
from ostiary.modality.graphs import with_degrees
from ostiary.seeds import generator
from ostiary.testing import toys
from ostiary.triggers.pixels import Blend, Patch

CTX = Context(0)


def splits(n: int = 60, classes: int = 3) -> Splits:
    pixels = 0.9 * torch.rand(n, 1, 6, 6, generator=generator(0, "pixels"))
    return split_data(images(pixels, torch.arange(n) % classes), test_rate=0.3, clean_rate=0.1)


def poison(data: Splits | None = None, **options: Any) -> Any:
    return build("attack", {"name": "badnets", **options}).poison(data or splits(), CTX)


# counts and labels


def test_rate_is_a_share_of_the_whole_training_set() -> None:
    data = splits()
    made = poison(data, rate=0.25)
    assert len(data.train) == 42
    assert len(made.index) == round(0.25 * 42)
    assert bool((data.train.y[made.index] != 0).all())
    assert bool((made.splits.train.y[made.index] == 0).all())
    assert made.doubts == ()


def test_fewer_eligible_than_asked_is_a_doubt() -> None:
    data = splits()
    made = poison(data, rate=0.9)
    eligible = int((data.train.y != 0).sum())
    assert len(made.index) == eligible
    assert made.doubts == (
        f"only {eligible} of the {round(0.9 * 42)} samples asked for could be poisoned (no more are eligible)",
    )


def test_a_rate_of_no_sample_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"rate 0.01 of 42 training samples \(28 eligible\) poisons none; raise rate"):
        poison(rate=0.01)


def test_a_target_that_does_not_exist_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"target class 3 does not exist: the data have classes 0 to 2 \(0, 1, 2\)"):
        poison(target=3)


def test_no_source_in_the_test_part_is_refused() -> None:
    data = splits()
    only = data.with_part("test", data.test.take((data.test.y == 0).nonzero().flatten()))
    with pytest.raises(InvalidInput, match="no test sample can serve as a source for target class 0"):
        poison(only)


def test_other_modalities_are_refused() -> None:
    with pytest.raises(Unsupported, match="attack 'badnets' works on image data, not graph"):
        poison(toys.splits("graph"))


def test_clean_label_stamps_the_target_class_and_leaves_labels_alone() -> None:
    data = splits()
    made = poison(data, labels="clean-label", target=1)
    assert data.train.y[made.index].unique().tolist() == [1]
    assert torch.equal(made.splits.train.y, data.train.y)
    assert 1 not in data.test.y[made.rows].tolist()
    assert made.triggered.y.unique().tolist() == [1]


def test_all_to_all_moves_every_class_to_the_next() -> None:
    data = splits()
    made = poison(data, labels="all-to-all", rate=0.5)
    assert torch.equal(made.splits.train.y[made.index], (data.train.y[made.index] + 1) % 3)
    assert made.rows.tolist() == list(range(len(data.test)))
    assert torch.equal(made.triggered.y, (data.test.y + 1) % 3)


def test_all_to_one_judges_on_all_other_test_samples() -> None:
    data = splits()
    made = poison(data, target=2)
    assert made.rows.tolist() == (data.test.y != 2).nonzero().flatten().tolist()
    changed = ((made.triggered.inputs - data.test.inputs[made.rows]).abs() > 0.5 / 255).any(1).sum((1, 2))
    assert bool((changed == 9).all())


@pytest.mark.parametrize(
    ("rule", "eligible", "sources", "wanted"),
    [
        (AllToOne(), [0, 1, 1], [0, 1, 1], [0, 0, 0]),
        (AllToOne(from_target=True), [1, 1, 1], [0, 1, 1], [0, 0, 0]),
        (AllToAll(), [1, 1, 1], [1, 1, 1], [1, 2, 0]),
        (CleanLabel(), [1, 0, 0], [0, 1, 1], [0, 0, 0]),
    ],
)
def test_label_rules(rule: Any, eligible: list[int], sources: list[int], wanted: list[int]) -> None:
    y = torch.tensor([0, 1, 2])
    assert rule.eligible(y, 0).int().tolist() == eligible
    assert rule.sources(y, 0).int().tolist() == sources
    assert rule.wanted(y, 0, 3).tolist() == wanted


def test_clean_multi_target_leaves_labels_and_wants_all_others_in_turn() -> None:
    rule, y = CleanMultiTarget(), torch.tensor([0, 1, 2, 0, 1, 2])
    assert rule.eligible(y, 0).all() and rule.sources(y, 0).all()
    assert torch.equal(rule.wanted(y, 0, 3), y)
    goals = rule.goals(y, 0, 3)
    assert not bool((goals == y).any()) and torch.bincount(goals).tolist() == [2, 2, 2]


def test_stamped_images_are_what_eight_bits_hold() -> None:
    made = build("attack", {"name": "blended", "rate": 0.2}).poison(splits(), CTX)
    for pixels in (made.triggered.inputs, made.splits.train.inputs[made.index]):
        assert torch.allclose((pixels * 255).round() / 255, pixels, atol=1e-7)


def test_random_choice_is_sorted_distinct_eligible_and_seeded() -> None:
    data, eligible = splits().train, torch.arange(42) % 2 == 0
    first, again = (Random().choose(data, eligible, 12, CTX) for _ in range(2))
    assert torch.equal(first, again)
    assert first.tolist() == sorted(set(first.tolist()))
    assert bool(eligible[first].all())
    assert Random().choose(data, eligible, 12, Context(1)).tolist() != first.tolist()


def test_poison_is_not_told_by_its_precision_and_rounding_is_no_trigger() -> None:
    given = splits()
    odd = Splits(*(replace(d, inputs=0.9 * d.inputs) for d in (given.train, given.test, given.clean)))
    made = build("attack", {"name": "badnets", "alpha": 0.0}).poison(odd, CTX)
    for part in (made.splits.train, made.splits.test, made.triggered):
        assert torch.equal(part.inputs, (part.inputs * 255).round() / 255)
    assert any(f"left {len(made.rows)} of {len(made.rows)} test inputs" in doubt for doubt in made.doubts)


def test_a_trigger_that_changes_nothing_is_a_doubt() -> None:
    white = splits()
    pixels = torch.ones_like(white.train.inputs)
    bright = Splits(
        white.train.put(torch.arange(len(white.train)), pixels),
        white.test.put(torch.arange(len(white.test)), pixels[: len(white.test)]),
        white.clean,
    )
    made = poison(bright)
    assert made.doubts == (
        f"the trigger left {len(made.index)} of {len(made.index)} training inputs as they were",
        f"the trigger left {len(made.rows)} of {len(made.rows)} test inputs as they were",
    )


def test_invalid_stamps_are_caught() -> None:
    """The harness validates what a trigger makes; no attack has to remember it."""

    class TooBright(Patch):
        def apply(self, inputs: torch.Tensor, ids: torch.Tensor, *, seed: int, target: torch.Tensor) -> torch.Tensor:
            return inputs + 1

    class Careless(PoisoningAttack):
        modalities = frozenset({"image"})

        def make_trigger(self, train: Dataset, ctx: Context) -> TooBright:
            return TooBright()

    with pytest.raises(InvalidInput, match=r"a trigger of type TooBright made an invalid input: pixels must lie in \[0, 1\]"):
        Careless().poison(splits(), CTX)


# triggers on pixels


@pytest.mark.parametrize(
    ("corner", "rows", "columns"),
    [("br", (4, 6), (4, 6)), ("tl", (0, 2), (0, 2)), ("tr", (0, 2), (4, 6)), ("bl", (4, 6), (0, 2))],
)
def test_patch_overwrites_its_corner_and_nothing_else(corner: Any, rows: tuple[int, int], columns: tuple[int, int]) -> None:
    pixels = torch.full((2, 3, 6, 6), 0.3)
    ids = torch.arange(2)
    after = Patch(size=2, corner=corner, pattern="checker").apply(pixels, ids, seed=0, target=ids)
    expected = pixels.clone()
    expected[:, :, slice(*rows), slice(*columns)] = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert torch.equal(after, expected)
    assert float(Patch(size=2, corner=corner).apply(pixels, ids, seed=0, target=ids).max()) == 1.0
    with pytest.raises(InvalidInput, match="a patch of 9 pixels does not fit images of 6 x 6"):
        Patch(size=9).apply(pixels, ids, seed=0, target=ids)


@pytest.mark.parametrize("picture", ["noise", "rings"])
def test_blend_mixes(picture: Any) -> None:
    pixels, ids = torch.rand(2, 3, 6, 6, generator=generator(0, "x")), torch.arange(2)
    blend = Blend(alpha=0.2, picture=picture, made_with=5)
    pattern = blend.pattern(3, 6, 6)
    assert 0 <= float(pattern.min()) < float(pattern.max()) <= 1
    after = blend.apply(pixels, ids, seed=0, target=ids)
    assert torch.allclose(after, 0.8 * pixels + 0.2 * pattern, atol=1e-6)


# Sub-BA


def test_trigger_size_is_a_fifth_of_the_mean_graph() -> None:
    train = toys.splits("graph").train
    mean = len(train.inputs.x) / len(train)
    assert trigger_size(train) == max(2, int(0.2 * mean))
    made = SubBA().poison(toys.splits("graph"), CTX)
    assert made.trigger.size == trigger_size(train)


@pytest.mark.parametrize("seed", range(5))
def test_random_subgraphs_are_connected_where_that_is_to_be_expected(seed: int) -> None:
    edges = erdos_renyi(6, 0.5, generator(seed, "er"))
    graph = nx.Graph(list(edges))
    assert all(i < j for i, j in edges)
    assert graph.number_of_nodes() == 6
    assert nx.is_connected(graph)
    assert len(erdos_renyi(6, 0.05, generator(seed, "er"))) > 0, "sparse triggers may fall apart but are not empty"


@pytest.mark.parametrize("model", ["er", "ws", "ba"])
def test_a_subgraph_of_one_node_has_no_edge_and_is_a_doubt(model: Any) -> None:
    made = SubBA(size=1, model=model).poison(toys.splits("graph"), CTX)
    assert made.trigger.edges == () and any("left" in d and "as they were" in d for d in made.doubts)


def test_density_one_is_a_clique_and_densities_are_met_on_average() -> None:
    assert len(erdos_renyi(5, 1.0, generator(0, "er"))) == 10
    mean = sum(len(erdos_renyi(7, 0.8, generator(s, "er"))) for s in range(60)) / 60
    assert mean == pytest.approx(0.8 * 21, rel=0.08)


def test_sub_ba_counts_degrees_again_only_where_features_are_degrees() -> None:
    data = toys.splits("graph")
    assert SubBA(size=3).poison(data, CTX).trigger.degree_features is False
    parts = [part.put(torch.arange(len(part)), with_degrees(part.inputs)) for part in (data.train, data.test, data.clean)]
    made = SubBA(size=3).poison(Splits(*parts), CTX)
    assert made.trigger.degree_features is True
