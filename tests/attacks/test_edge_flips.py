"""Attacks by flipped edges: TRAP, and the paired clean-label attack."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from ostiary.attacks.base import Poisoned
from ostiary.attacks.gradient_clba import greedy
from ostiary.attacks.random_graphs import flip_budget
from ostiary.attacks.select import Correct
from ostiary.component import build
from ostiary.context import Context
from ostiary.errors import MissingEvidence
from ostiary.models.edge_gradient import Flips
from ostiary.testing import toys
from ostiary.triggers.edge_flips import distances
from ostiary.triggers.ties import SPARE, levels, settled, undecided, without

NET = {"name": "gin", "hidden": 16, "layers": 2, "pooling": "max", "deep_head": False}


def context(seed: int = 0) -> Context:
    return Context(seed, architecture=build("victim", NET), trainer=toys.context("graph").trainer)


def made(name: str = "gradient-clba", **options: Any) -> Poisoned:
    found: Poisoned = build("attack", {"name": name, **options}).poison(toys.splits("graph"), context())
    return found


def edges_changed(made: Poisoned) -> torch.Tensor:
    data = toys.splits("graph")
    found = data.modality.difference(data.test.take(made.rows).inputs, made.triggered.inputs)
    assert not bool(found["nodes_added"].any() | found["nodes_with_other_features"].any())
    return found["edges_added"] + found["edges_removed"]


@pytest.mark.parametrize("name", ["trap", "gradient-clba"])
@pytest.mark.parametrize("steps", [1, 3])
def test_every_test_source_has_exactly_the_flips_asked_for(name: str, steps: int) -> None:
    assert bool((edges_changed(made(name, flips=4, steps=steps)) == 4).all()), "no flip takes another one back"


def row(scores: list[float]) -> Flips:
    pairs = torch.tensor([[0, i + 1] for i in range(len(scores))])
    return Flips(pairs[None], torch.tensor([scores]))


@pytest.mark.parametrize("start", [1.0, 0.99995, 0.77777])  # wherever a grid of fixed steps would have its edges
def test_scores_that_differ_by_rounding_share_a_level(start: float) -> None:
    found = row([start, start - 2e-6, start - 4e-6, start - 0.01, start - 0.010003])
    assert levels(found).tolist() == [[0, 0, 0, 1, 1]]
    swapped = Flips(found.pairs[:, [1, 0, 2, 4, 3]], found.scores)
    wanted = torch.tensor([4])
    assert torch.equal(settled(found, wanted), settled(swapped, wanted)), "rounding may swap what ties"


def test_more_pairs_are_asked_for_while_all_that_were_found_tie() -> None:
    flat, falling = [0.0] * (SPARE + 2), [1.0 - 0.01 * i for i in range(SPARE + 2)]
    assert undecided(row(flat), torch.tensor([2]))
    assert not undecided(row(falling), torch.tensor([2]))
    assert not undecided(row(flat), torch.tensor([3])), "fewer than asked for: there are no more"
    assert not undecided(row(flat), torch.tensor([0]))


@pytest.mark.parametrize("m", [0, 1, 3])
def test_only_the_pairs_asked_for_are_kept(m: int) -> None:
    """What was looked at for ties alone would double the width of every later search."""
    few = torch.tensor([min(m, 1), m])
    pairs = torch.stack([torch.arange(40), torch.arange(1, 41)], 1).expand(2, -1, -1)
    found = settled(Flips(pairs, -torch.arange(40.0).expand(2, -1)), few)
    assert found.shape == (2, m, 2)
    assert [(row >= 0).all(1).sum().item() for row in found] == few.tolist()


def test_what_was_flipped_is_no_candidate_again() -> None:
    found = without(row([3.0, 2.0, 1.0]), torch.tensor([[[0, 2], [-1, -1]]]))
    assert found.pairs.tolist() == [[[0, 1], [0, 3], [-1, -1]]]
    assert found.scores.tolist() == [[3.0, 1.0, -torch.inf]]


def test_a_gradient_that_vanishes_is_a_doubt() -> None:
    trigger, part = made().trigger, toys.splits("graph").train.take(torch.arange(6))
    assert trigger.doubts(part.inputs, part.ids, seed=0) == ()
    dead = {k: v * 0 if k.endswith("head.weight") or "lin" in k or "mlp" in k else v for k, v in trigger.state.items()}
    (said,) = trigger.replace(state=dead).doubts(part.inputs, part.ids, seed=0)
    assert said == (
        "in 6 of 6 graphs to poison no edge moves the attacker's embedding towards its anchor: their flips are arbitrary"
    )


def test_the_share_follows_the_graph() -> None:
    data = toys.splits("graph")
    found = made("trap", share=0.25)
    before = data.test.take(found.rows).inputs.n_edges / 2
    assert torch.equal(edges_changed(found), (0.25 * before).round().clamp(min=1).double())


def test_default_budget_is_the_random_trigger_of_the_same_size() -> None:
    train = toys.splits("graph").train
    size = round(0.2 * len(train.inputs.x) / len(train))
    assert flip_budget(train) == max(1, round(0.8 * size * (size - 1) / 2))


@pytest.mark.parametrize("name", ["trap", "gradient-clba"])
def test_flips_lower_the_surrogates_loss_on_most_graphs(name: str) -> None:
    data, poisoned = toys.splits("graph"), made(name, flips=3)
    model = poisoned.trigger.model(torch.device("cpu"))  # type: ignore[attr-defined]
    sources = data.test.take(poisoned.rows)
    if name == "trap":
        before, after = (model.predict(g).log_softmax(1)[:, 0] for g in (sources.inputs, poisoned.triggered.inputs))
    else:
        state = poisoned.trigger.state
        before, after = (-distances(model.embed(d.inputs)[1], state["anchors"]).amin(1) for d in (sources, poisoned.triggered))
    assert float((after > before).double().mean()) > 0.8


def test_labels_stay_and_targets_are_called_rightly() -> None:
    data, poisoned = toys.splits("graph"), made()
    assert torch.equal(poisoned.splits.train.y, data.train.y)
    model = context().within("x").surrogate(data.train)
    assert model is not context().within("x").surrogate(data.train), "everybody gets a copy"
    own = poisoned.trigger.model(torch.device("cpu"))  # type: ignore[attr-defined]
    said = own.predict(data.train.take(poisoned.index).inputs).argmax(1)
    assert bool((said == 0).all()) and bool((data.train.y[poisoned.index] == 0).all())


def test_the_papers_candidates_are_the_least_sure_sources_that_are_called_rightly() -> None:
    data, poisoned = toys.splits("graph"), made(rate=0.05)
    own = poisoned.trigger.model(torch.device("cpu"))  # type: ignore[attr-defined]
    rows = Correct(order="lowest").rank(data.test, data.test.y != 0, own)[: len(poisoned.index)]
    at = poisoned.subsets["candidates"]
    assert set(poisoned.rows[at].tolist()) == set(rows.tolist())
    assert len(poisoned.rows) > len(at), "all sources are judged, not only these"
    assert torch.equal(poisoned.trigger.state["ids"], data.test.ids[rows])


def test_pairs_are_one_to_one_and_greedy() -> None:
    distance = torch.tensor([[0.1, 0.5, 0.9], [0.2, 0.7, 0.8], [0.0, 0.1, 0.3]])
    assert greedy(distance).tolist() == [0, 1, 2]
    a, b = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)), torch.eye(3)
    assert torch.allclose(distances(a, b), 1 - F.cosine_similarity(a[:, None], b[None], dim=2), atol=1e-6)


def test_rate_counts_all_samples_and_scarce_sources_are_a_doubt() -> None:
    data = toys.splits("graph")
    n = len(data.train) + len(data.test) + len(data.clean)
    poisoned = made(rate=0.1)
    assert len(poisoned.index) == round(0.1 * n)
    many = made(rate=0.5)
    assert len(many.index) == len(many.subsets["candidates"]) < round(0.5 * n)
    assert any("could be p" in doubt for doubt in many.doubts)


def test_gray_box_flips_come_from_the_other_network() -> None:
    gray = made(surrogate={**NET, "name": "gcn"})
    assert gray.trigger.spec()["architecture"]["name"] == "gcn"
    assert gray.triggered.fingerprint() != made().triggered.fingerprint()


def test_without_an_architecture_it_says_what_to_give() -> None:
    with pytest.raises(MissingEvidence, match="architecture"):
        build("attack", "trap").poison(toys.splits("graph"), Context())
