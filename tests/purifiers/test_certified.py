"""Certificates against brute force: every change within a radius is tried on tiny graphs and tiny training sets."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ostiary.component import build
from ostiary.context import Context
from ostiary.data.dataset import Dataset
from ostiary.errors import InvalidInput, Unsupported
from ostiary.evidence import Evidence
from ostiary.metrics.certified import certified
from ostiary.modality.graphs import Graphs, are_degrees, degree_features, with_degrees
from ostiary.models.victim import Victim
from ostiary.models.votes import View, Voting, Whole, ballots
from ostiary.purifiers.certificate import Certificate, clopper_pearson, margins
from ostiary.purifiers.certified import Certified
from ostiary.purifiers.edge_drop import EdgeDrop
from ostiary.purifiers.edge_partition import EdgePartition
from ostiary.purifiers.flexible_noise import FlexibleNoise, Noisy
from ostiary.purifiers.flips import MOST, lead, least
from ostiary.purifiers.joint_partition import JointPartition
from ostiary.purifiers.subsampling import PairSubsets, Subsampling, log_choose
from ostiary.purifiers.training_partition import TrainingPartition, contents
from ostiary.seeds import generator
from ostiary.testing import toys
from ostiary.training.trainer import Trainer

Pairs = frozenset[tuple[int, int]]
K = 3


class Whimsical(nn.Module):
    """A class for every graph, as good as random, by the features at the ends of its edges: the worst a voter can be."""

    def __init__(self, salt: int = 0) -> None:
        super().__init__()
        self.salt = salt
        self.verdict = nn.Linear(K, K, bias=False)
        with torch.no_grad():
            self.verdict.weight.copy_(torch.eye(K))

    def forward(self, x: Tensor, edge_index: Tensor, batch: Tensor, graphs: Graphs) -> Tensor:
        a, b = x[edge_index[0]].double(), x[edge_index[1]].double()
        mark = (torch.sin(3.7 * a + self.salt) * torch.cos(1.9 * b + 0.3)).sum(1) + 0.1
        total = mark.new_zeros(len(graphs)).index_add(0, graphs.edge_batch, mark)
        total = total.index_add(0, batch, torch.sin(5.3 * x.double() + self.salt).sum(1))
        said = (total * 1e4).remainder(K).long().clamp(max=K - 1)
        return self.verdict(torch.nn.functional.one_hot(said, K).float())  # type: ignore[no-any-return]


def graph(n: int, pairs: Pairs, x: Tensor | None = None) -> Graphs:
    ends = torch.tensor(sorted(pairs), dtype=torch.int64).view(-1, 2).t()
    x = torch.arange(n)[:, None].float() if x is None else x
    return Graphs.build(x, torch.cat([ends, ends.flip(0)], 1), torch.tensor([n]))


def joined(graphs: list[Graphs]) -> Graphs:
    return build("modality", "graph").join(graphs)  # type: ignore[no-any-return]


def all_pairs(n: int) -> list[tuple[int, int]]:
    return list(itertools.combinations(range(n), 2))


def some_graphs(n: int, many: int) -> list[Pairs]:
    rng = torch.Generator().manual_seed(n)
    return [frozenset(p for p in all_pairs(n) if torch.rand((), generator=rng) < 0.5) for _ in range(many)]


def flips(n: int, pairs: Pairs, e: int) -> Iterator[Pairs]:
    return (pairs ^ frozenset(changed) for changed in itertools.combinations(all_pairs(n), e))


def voters(method: Certified, members: int = 1) -> Voting:
    return Voting([Victim(Whimsical(i), "graph") for i in range(members)], method.view(key=5))


def said(victim: Victim, inputs: Graphs) -> list[int]:
    return victim.predict(inputs).argmax(1).tolist()  # type: ignore[no-any-return]


# the radius of a vote


@pytest.mark.parametrize(
    ("votes", "winner", "margin"),
    [
        ([5, 0], 0, 2),  # 3 to 2 still wins
        ([4, 0], 0, 2),  # 2 to 2 falls to the smaller class
        ([0, 4], 1, 1),  # 2 to 2 would be lost
        ([0, 5], 1, 2),
        ([3, 3], 0, 0),
        ([2, 3], 1, 0),
        ([0, 9, 8], 1, 0),
        ([7, 9, 3], 1, 0),
        ([6, 9, 6], 1, 1),  # class 0 is nearer than class 2: it wins a tie
        ([3, 9, 5], 1, 2),
        ([4, 4, 4], 0, 0),
    ],
)
def test_margin_of_hand_made_votes(votes: list[int], winner: int, margin: int) -> None:
    found = margins(torch.tensor([votes]))
    assert [int(v) for v in found] == [winner, margin]


def test_margin_is_exact() -> None:
    """Against all ways to move votes, for every outcome of 7 votes over 3 classes."""

    def winner(votes: list[int]) -> int:
        return votes.index(max(votes))

    outcomes = [v for v in itertools.product(range(8), repeat=3) if sum(v) == 7]
    winners, found = margins(torch.tensor(outcomes))
    for votes, first, margin in zip(outcomes, winners.tolist(), found.tolist(), strict=True):
        assert first == winner(list(votes))

        def turns(m: int, votes: tuple[int, ...] = votes, first: int = first) -> bool:
            moves = itertools.product(itertools.product(range(3), repeat=2), repeat=m)
            for move in moves:
                now = list(votes)
                for a, b in move:
                    now[a], now[b] = now[a] - 1, now[b] + 1
                if min(now) >= 0 and winner(now) != first:
                    return True
            return False

        if margin <= 2:
            assert not any(turns(m) for m in range(margin + 1))
            assert turns(margin + 1)


def test_ballots_survive_the_tie_break() -> None:
    outcomes = torch.tensor([[3, 3, 4], [5, 5, 0], [0, 10, 0], [0, 5, 5]])
    logits = outcomes - torch.arange(3) / 6
    assert torch.equal(ballots(logits), outcomes)
    assert logits.argmax(1).tolist() == [2, 0, 1, 1]


# edges


@pytest.mark.parametrize("groups", [3, 7])
def test_no_flips_within_the_radius_turn_an_edge_partition(groups: int) -> None:
    method = EdgePartition(groups=groups)
    victim, radii, tight = voters(method), Counter[int](), 0
    for n, pairs in [(4, p) for p in some_graphs(4, 12)] + [(5, p) for p in some_graphs(5, 12)]:
        found = method.radius(victim, graph(n, pairs))
        assert found.edges is not None
        radius, first = int(found.edges), int(found.prediction)
        radii[radius] += 1
        for e in range(radius + 1):
            assert set(said(victim, joined([graph(n, p) for p in flips(n, pairs, e)]))) == {first}
        beyond = [graph(n, p) for p in flips(n, pairs, radius + 1)]
        tight += set(said(victim, joined(beyond))) != {first}
    assert radii[0] and sum(radii[r] for r in radii if r >= 1) >= 2
    assert tight  # one flip more turns some of them: the radius is no smaller than it has to be


def test_no_overwritten_nodes_within_the_radius_turn_a_node_partition() -> None:
    """All edges among the nodes, times several features each."""
    method = EdgePartition(groups=5, by="node")
    victim, certain = voters(method), 0
    for pairs in some_graphs(5, 16):
        found = method.radius(victim, graph(5, pairs))
        radius, flipped = found.radius("nodes"), found.edges
        assert radius is not None and flipped is not None and int(flipped) == int(radius) // 2
        for t in range(1, min(2, int(radius)) + 1):
            certain += 1
            for nodes in itertools.combinations(range(5), t):
                inner = [frozenset(s) for s in _subsets(list(itertools.combinations(nodes, 2)))]
                for among, value in itertools.product(inner, (0.0, 2.5, -4.0)):
                    x = torch.arange(5)[:, None].float()
                    x[list(nodes)] = value
                    assert said(victim, graph(5, pairs ^ among, x)) == found.prediction.tolist()
        if int(flipped) >= 1:
            assert set(said(victim, joined([graph(5, p) for p in flips(5, pairs, 1)]))) == {int(found.prediction)}
    assert certain >= 4


def _subsets(items: list[Any]) -> Iterator[tuple[Any, ...]]:
    return itertools.chain.from_iterable(itertools.combinations(items, r) for r in range(len(items) + 1))


def test_every_edge_stands_in_one_view_and_degrees_are_counted_again() -> None:
    inputs = toys.splits("graph").clean.inputs
    n = len(inputs)
    for method in (EdgePartition(groups=4), EdgePartition(groups=4, by="node")):
        parts = [method.view(3)(inputs, torch.full((n,), g)) for g in range(4)]
        total = torch.stack([p.n_edges for p in parts]).sum(0)
        assert torch.equal(total, inputs.n_edges)
        assert all(len(p.x) == len(inputs.x) for p in parts)
    counted = inputs.with_(x=degree_features(inputs.edge_index, len(inputs.x), 9))
    assert are_degrees(EdgePartition(groups=4).view(3, True)(counted, torch.zeros(n, dtype=torch.int64)))
    assert are_degrees(Subsampling().view(3, True)(counted, torch.arange(n)))


@pytest.mark.parametrize(
    "method",
    [
        Subsampling(samples=40, kappa=0.4),
        EdgeDrop(samples=40),
        FlexibleNoise(samples=40, p_minus=0.5, p_plus=0.1),
        EdgePartition(groups=7),
    ],
)
def test_votes_do_not_depend_on_the_batch(method: Certified) -> None:
    inputs = toys.splits("graph").clean.inputs
    victim = Voting([toys.victim("graph")], method.view(key=5))
    whole = victim.predict(inputs)
    assert len(set(map(tuple, whole.tolist()))) > 1
    order = torch.arange(len(inputs)).flip(0)
    assert torch.equal(victim.predict(inputs.take(order)), whole[order])
    assert torch.equal(victim.predict(inputs.take(order[:1])), whole[order[:1]])


def test_no_more_flips_are_certified_than_a_graph_has_pairs() -> None:
    certain = EdgeDrop(beta=0.9).certify(torch.tensor([[100_000, 0]]), graph(2, frozenset()))
    assert certain.margin.tolist() == [1]


# random subsets


def shares(n: int, pairs: Pairs, k: int) -> Tensor:
    """Exact shares of the classes over all subsets of k of the node pairs."""
    module = Victim(Whimsical(), "graph")
    parts = [graph(n, pairs & frozenset(s)) for s in itertools.combinations(all_pairs(n), k)]
    return torch.bincount(torch.tensor(said(module, joined(parts))), minlength=K).double() / len(parts)


@pytest.mark.parametrize(("n", "kappa"), [(4, 0.34), (5, 0.2), (5, 0.4)])
def test_shares_move_by_no_more_than_the_bound(n: int, kappa: float) -> None:
    pairs = some_graphs(n, 3)
    method, k = Subsampling(kappa=kappa), int(kappa * len(all_pairs(n)) + 1e-9)
    bound = method.change(graph(n, pairs[0]))[0]
    closest = 1.0
    for own in pairs:
        before = shares(n, own, k)
        for e in range(1, min(2, len(bound) - 1) + 1):
            for other in itertools.islice(flips(n, own, e), 12):
                moved = float((shares(n, other, k) - before).abs().max())
                assert moved <= float(bound[e]) + 1e-12
                closest = min(closest, float(bound[e]) - moved)
    assert closest < 0.25  # the bound is not idle


def test_subsets_are_drawn_with_their_exact_chances() -> None:
    """5 nodes, 10 pairs, 6 edges, 4 pairs kept: every set of kept edges as often as it should be."""
    pairs = frozenset([(0, 1), (0, 2), (1, 2), (2, 3), (3, 4), (1, 4)])
    expected = Counter(frozenset(pairs & frozenset(s)) for s in itertools.combinations(all_pairs(5), 4))
    many, total = 20000, sum(expected.values())
    one = joined([graph(5, pairs)])
    found = PairSubsets(0.4, 1, 7, False)(one.take(torch.zeros(many, dtype=torch.int64)), torch.arange(many))
    local = (found.edge_index - found.node_ptr[found.edge_batch]).t().tolist()
    kept: list[set[tuple[int, int]]] = [set() for _ in range(many)]
    for (a, b), g in zip(local, found.edge_batch.tolist(), strict=True):
        kept[g].add((a, b))
    assert all((b, a) in s for s in kept for a, b in s)
    seen = Counter(frozenset((a, b) for a, b in s if a < b) for s in kept)
    assert set(seen) <= set(expected)
    for subset, ways in expected.items():
        p = ways / total
        assert abs(seen[subset] - many * p) < 5 * (many * p * (1 - p)) ** 0.5


def test_certified_subsampling_is_sound() -> None:
    """The exact majority of every graph within the radius is the certified prediction."""
    method = Subsampling(kappa=0.1, samples=2000)
    victim, some = voters(method), 0
    for pairs in some_graphs(5, 6):  # one pair of ten is shown
        found = method.radius(victim, graph(5, pairs))
        assert found.edges is not None
        for e in range(1, min(3, int(found.edges)) + 1):
            some += 1
            for other in flips(5, pairs, e):
                assert int(shares(5, other, 1).argmax()) == int(found.prediction)
    assert some


# noise


def patterns(n: int) -> list[Pairs]:
    return [frozenset(s) for s in _subsets(all_pairs(n))]


def chances(n: int, pairs: Pairs, minus: float, plus: float) -> Tensor:
    """Of every graph of n nodes, in the order of `patterns`, to be the noisy copy of this one: float64."""
    own = {True: (minus, 1 - minus), False: (1 - plus, plus)}  # of a pair to be absent, to be there
    found = [[own[p in pairs][p in copy] for p in all_pairs(n)] for copy in patterns(n)]
    return torch.tensor(found, dtype=torch.float64).prod(1)


@pytest.mark.parametrize(("minus", "plus"), [(0.5, 0.2), (0.8, 0.05), (0.3, 0.6), (0.6, 0.001), (0.9, 0.0)])
def test_no_flips_take_more_of_a_lead_than_the_noise_allows(minus: float, plus: float) -> None:
    """Exact shares, over all copies of all graphs within reach; the voter is right about most copies of each graph."""
    certain, closest = 0, 1.0
    for salt, pairs in enumerate(some_graphs(4, 6)):
        own = chances(4, pairs, minus, plus)
        rng = torch.Generator().manual_seed(salt)
        says = torch.where(own.argsort(descending=True).argsort() < 40, 0, torch.randint(K, (len(own),), generator=rng))
        before = torch.zeros(K, dtype=torch.float64).index_add(0, says, own)
        top, first = before.topk(2).values, int(before.argmax())
        bounds = lead(top[:1, None], top[1:, None], minus, plus)[0].tolist()
        for e, bound in list(enumerate(bounds))[1:3]:
            certain += bound > 0
            for other in flips(4, pairs, e):
                after = torch.zeros(K, dtype=torch.float64).index_add(0, says, chances(4, other, minus, plus))
                left = float(after[first] - after[torch.arange(K) != first].max())
                assert left >= bound - 1e-11, (pairs, other)
                closest = min(closest, left - bound)
    assert certain and closest < 0.3


@pytest.mark.parametrize("plus", [0.15, 0.0])
@pytest.mark.parametrize(("added", "deleted"), [(1, 0), (0, 1), (2, 1), (0, 3), (3, 2)])
def test_the_worst_voter_reaches_the_bound(added: int, deleted: int, plus: float) -> None:
    """Neyman and Pearson's own: it counts which of the flipped pairs show."""
    flipped = all_pairs(4)[: added + deleted]
    before = frozenset(flipped[added:])
    after = before ^ frozenset(flipped)
    was, now = (chances(4, p, 0.6, plus) for p in (before, after))
    shown = torch.tensor([sum(p in c for p in flipped[:added]) - sum(p in c for p in flipped[added:]) for c in patterns(4)])
    for cut in range(-deleted, added + 1):
        share = was[shown < cut].sum().view(1, 1)
        if float(share) < 1 - 1e-9:
            found = float(least(share, added, deleted, 0.6, plus))
            assert found == pytest.approx(float(now[shown < cut].sum()), abs=1e-12)


def test_with_ever_fewer_edges_gained_flexible_noise_is_edge_drop() -> None:
    inputs = graph(30, frozenset()).take(torch.zeros(4, dtype=torch.int64))
    votes = torch.tensor([[1000, 0], [990, 10], [900, 100], [510, 490]])
    for p in (0.5, 0.8, 0.9):
        noise = FlexibleNoise(p_minus=p, p_plus=1e-12).certify(votes, inputs)
        assert torch.equal(noise.margin, EdgeDrop(beta=p, samples=1000).certify(votes, inputs).margin)
    assert int(FlexibleNoise(p_minus=0.9, p_plus=0.02).certify(votes, inputs).margin[0]) > 3 * 6  # edge-drop's are 6
    assert int(FlexibleNoise(p_minus=0.95, p_plus=0.0499).certify(votes, inputs).margin[0]) == MOST


def test_noisy_copies_are_drawn_with_their_exact_chances() -> None:
    pairs, many = frozenset([(0, 1), (1, 2), (2, 3)]), 40000
    found = Noisy(0.5, 0.2, many, 7, False)(graph(4, pairs).take(torch.zeros(many, dtype=torch.int64)), torch.arange(many))
    build("modality", "graph").validate(found, "a copy")
    assert found.symmetric and torch.equal(found.n_nodes, torch.full((many,), 4))
    low, high = (found.edge_index - found.node_ptr[found.edge_batch])[:, found.edge_index[0] < found.edge_index[1]]
    numbers = {p: 2**i for i, p in enumerate(all_pairs(4))}
    bits = torch.tensor([numbers[p] for p in zip(low.tolist(), high.tolist(), strict=True)])
    owner = found.edge_batch[found.edge_index[0] < found.edge_index[1]]
    seen = torch.bincount(torch.zeros(many, dtype=torch.int64).index_add(0, owner, bits), minlength=64).double()
    expected = torch.zeros(64, dtype=torch.float64)
    for copy, chance in zip(patterns(4), chances(4, pairs, 0.5, 0.2).tolist(), strict=True):
        expected[sum(numbers[p] for p in copy)] += chance
    assert bool(((seen - many * expected).abs() < 5 * (many * expected * (1 - expected)).sqrt() + 1).all())


def test_noise_that_hides_everything_is_refused() -> None:
    train = toys.splits("graph").train
    with pytest.raises(Unsupported, match=r"p_minus and p_plus add up to 1.1.*lower one"):
        FlexibleNoise(p_minus=0.9, p_plus=0.2).purify(Evidence(train=train), TINY)


class Eager(nn.Module):
    """Class 1 for a graph that shows any of the pairs `bad` (bool [n, n]), else 0: the worst that an attacker can meet."""

    def __init__(self, bad: Tensor) -> None:
        super().__init__()
        self.bad, self.verdict = bad, nn.Linear(2, 2, bias=False)
        with torch.no_grad():
            self.verdict.weight.copy_(torch.eye(2))

    def forward(self, x: Tensor, edge_index: Tensor, batch: Tensor, graphs: Graphs) -> Tensor:
        a, b = x[edge_index, 0].long()
        seen = torch.zeros(len(graphs)).index_add(0, graphs.edge_batch, self.bad[a, b].float())
        return self.verdict(torch.nn.functional.one_hot((seen > 0).long(), 2).float())  # type: ignore[no-any-return]


def turned(method: Certified, keys: range, n: int = 20) -> int:
    """Of how many keys the delivered vote says another class once as many pairs are added as its certificate allows."""
    ring = frozenset((i, i + 1) for i in range(n - 1))
    free = [p for p in itertools.combinations(range(n), 2) if p not in ring]
    count = 0
    for key in keys:
        vote = Voting([Victim(Eager(torch.zeros(n, n, dtype=torch.bool)), "graph")], method.view(key))  # type: ignore[attr-defined]
        held = method.radius(vote, graph(n, ring))
        more = [free[i] for i in torch.randperm(len(free), generator=generator(key, "pairs"))[: int(held.edges)]]  # type: ignore[arg-type]
        bad = torch.zeros(n, n, dtype=torch.bool)
        for a, b in more:
            bad[a, b] = bad[b, a] = True
        other = Voting([Victim(Eager(bad), "graph")], method.view(key))  # type: ignore[attr-defined]
        count += int(other.predict(graph(n, ring | set(more))).argmax(1)) != int(held.prediction)
    return count


def test_the_vote_that_is_delivered_stands_where_it_is_certified() -> None:
    """Where shares come as near to a half as the bound allows, a vote of 1,000 on the changed graph turns by chance."""
    keys = range(1000, 1024)
    assert turned(Subsampling(kappa=0.2), keys) > 2, "certified is the vote of all subsets"
    assert turned(Subsampling(kappa=0.2, delivered=True), keys) == 0
    plain, strict = Subsampling(), Subsampling(delivered=True)
    assert "delivered" not in plain.spec() and strict.spec()["delivered"] is True


def test_bounds_of_a_share() -> None:
    """Textbook values, and the coverage of the exact interval by enumeration."""
    low, high = clopper_pearson(torch.tensor([0, 4, 10]), torch.tensor(10), 0.05)
    assert low.tolist() == pytest.approx([0.0, 0.12155, 0.69150], abs=1e-5)
    assert high.tolist() == pytest.approx([0.30850, 0.73762, 1.0], abs=1e-5)
    n, p = 20, 0.3
    low, high = clopper_pearson(torch.arange(n + 1), torch.tensor(n), 0.1)
    mass = (
        (log_choose(torch.tensor(n), torch.arange(n + 1))).exp()
        * p ** torch.arange(n + 1)
        * (1 - p) ** (n - torch.arange(n + 1))
    )
    assert float(mass.sum()) == pytest.approx(1)
    assert float(mass[(low <= p) & (p <= high)].sum()) >= 0.9


def test_too_few_samples_abstain() -> None:
    method, inputs = Subsampling(samples=4), graph(6, frozenset(all_pairs(6)))
    found = method.certify(torch.tensor([[2, 2, 0]]), inputs)
    assert found.edges is not None and found.edges.tolist() == [-1]
    assert not found.covers(edges=0)


# training sets


TINY = Context(0, architecture=build("victim", {"name": "gin", "hidden": 4, "layers": 1}), trainer=Trainer(epochs=6, lr=0.05))


def tiny(n: int = 18) -> Dataset:
    return toys.splits("graph").train.take(torch.arange(n))


def poisoned(train: Dataset, rows: tuple[int, ...]) -> Dataset:
    """Those graphs with other features and the other label."""
    x, at = train.inputs.x.clone(), torch.isin(train.inputs.batch, torch.tensor(rows))
    x[at] = x[at].roll(1, dims=1)
    spoilt = replace(train, inputs=train.inputs.with_(x=x))
    return spoilt.relabel(torch.tensor(rows), 1 - train.y[torch.tensor(rows)])


@pytest.mark.parametrize("hashed", ["id", "content"])
def test_no_poison_within_the_radius_turns_a_training_partition(hashed: Any) -> None:
    method, train, test = TrainingPartition(parts=6, hashed=hashed), tiny(), toys.splits("graph").test.inputs
    victim = method.purify(Evidence(train=train), TINY)
    found, before = method.radius(victim, test), weights(victim)
    assert found.poisoned is not None
    assert int((found.poisoned >= 1).sum()) >= 5
    turned = 0
    for rows in [(r,) for r in range(0, len(train), 3)] + [(0, 1), (4, 11)]:
        other = method.purify(Evidence(train=poisoned(train, rows)), TINY)
        differ = sum(not torch.equal(a, b) for a, b in zip(before, weights(other), strict=True))
        assert 1 <= differ <= method.spoilt() * len(rows)
        same = torch.tensor(said(other, test)) == found.prediction
        assert bool(same[found.poisoned >= len(rows)].all())
        turned += int((~same).sum())
    assert turned  # where it promises nothing, poison does its work


def weights(victim: Victim) -> list[Tensor]:
    """Of every member, in one piece."""
    assert isinstance(victim, Voting)
    return [torch.cat([p.detach().flatten() for p in m.parameters()]) for m in victim.members]


def test_contents_do_not_depend_on_place() -> None:
    train = tiny()
    order = torch.arange(len(train)).flip(0)
    assert torch.equal(contents(train.take(order)), contents(train)[order])
    assert len(contents(train).unique()) == len(train)


def test_no_pair_of_changes_within_reach_turns_a_joint_partition() -> None:
    """Poison and flips together, for every pair that the certificate names."""
    method, train = JointPartition(parts=3, groups=7), tiny(30)
    pairs = some_graphs(4, 6)
    kinds = [torch.eye(4)[[c] * 4] for c in (0, 1)]  # clear cases, of which something can be promised
    graphs = [(p, kinds[i % 2]) for i, p in enumerate(pairs)]
    victim = method.purify(Evidence(train=train), TINY)
    found = method.radius(victim, joined([graph(4, *g) for g in graphs]))
    assert found.costs == {"edges": 3, "poisoned": 7}
    certain: Counter[tuple[int, int]] = Counter()
    for rows in [(), (0,), (7,), (12,)]:
        other = method.purify(Evidence(train=poisoned(train, rows)), TINY) if rows else victim
        for m in (0, 1, 2):
            for i in found.covers(poisoned=len(rows), edges=m).nonzero().flatten().tolist():
                certain[len(rows), m] += 1
                around = joined([graph(4, p, graphs[i][1]) for p in flips(4, pairs[i], m)])
                assert set(said(other, around)) == {int(found.prediction[i])}
    assert all(certain[reach] for reach in ((0, 1), (0, 2), (1, 0), (1, 1)))
    assert not certain[1, 2] and certain[0, 0] == len(pairs)


# what comes out


def test_curves_count_right_and_certain_predictions() -> None:
    votes = torch.tensor([[9, 0], [9, 0], [6, 3], [2, 7]])
    found = certified(Certificate(votes, *margins(votes), costs={"edges": 1, "poisoned": 2}), torch.tensor([0, 1, 0, 1]))
    assert [found["edges"][r]["value"] for r in ("0", "1", "2", "4", "8")] == [0.75, 0.75, 0.5, 0.25, 0.0]
    assert [found["poisoned"][r]["value"] for r in ("0", "1", "2")] == [0.75, 0.5, 0.25]
    assert found["joint"]["poisoned 1, edges 2"]["value"] == 0.25
    assert "poisoned 1, edges 4" not in found["joint"]


def test_a_vote_has_no_layers_and_clones_share_nothing() -> None:
    inputs = toys.splits("graph").clean.inputs
    victim = Voting([toys.victim("graph"), toys.victim("graph", odd=True)], Whole())
    with pytest.raises(Unsupported, match="members"):
        victim.layers(inputs)
    other, before = victim.clone(), victim.predict(inputs)
    assert torch.equal(other.predict(inputs), before)
    with torch.no_grad():
        for p in other.parameters():
            p.zero_()
    assert torch.equal(victim.predict(inputs), before)
    assert not torch.equal(other.predict(inputs), before)


def test_self_loops_and_one_way_edges_are_refused() -> None:
    train = toys.splits("graph").train
    one_way = train.inputs.with_edges(train.inputs.edge_index[0] < train.inputs.edge_index[1])
    for method in (Subsampling(), FlexibleNoise(), EdgePartition(), JointPartition()):
        with pytest.raises(Unsupported, match="undirected"):
            method.purify(Evidence(train=replace(train, inputs=one_way)), TINY)
        assert "undirected" in method.unproven(one_way) and not method.unproven(train.inputs)


def test_a_partition_of_the_training_set_takes_edges_of_any_kind() -> None:
    train = toys.splits("graph").train
    one_way = train.inputs.with_edges(train.inputs.edge_index[0] < train.inputs.edge_index[1])
    method = TrainingPartition(parts=3)
    found = method.purify(Evidence(train=replace(train, inputs=one_way)), TINY)
    assert len(method.radius(found, one_way).votes) == len(train)


def test_large_votes_are_taken_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []

    class Seen(Whole):
        count = among = 50

        def forward(self, batch: Graphs, which: Tensor) -> Graphs:
            sizes.append(len(batch))
            return batch

    view: View = Seen()
    monkeypatch.setattr("ostiary.models.votes.AT_ONCE", 100)
    inputs = toys.splits("graph").clean.inputs
    found = Voting([toys.victim("graph")], view).predict(inputs)
    assert max(sizes) <= 100 and sum(sizes) == 50 * len(inputs)
    assert set(ballots(found).sum(1).tolist()) == {50}


def counted(train: Dataset) -> Dataset:
    """The same graphs with degrees for features."""
    return replace(train, inputs=with_degrees(train.inputs))


def test_of_degrees_no_single_training_graph_decides() -> None:
    """One graph with a feature that counts nothing turned the views of all members, once."""
    train, method = counted(tiny(30)), JointPartition(parts=3, groups=4)
    odd = train.inputs.x.clone()
    odd[0] = odd[0].roll(1)
    spoilt = replace(train, inputs=train.inputs.with_(x=odd))
    before, after = (method.purify(Evidence(train=data), TINY) for data in (train, spoilt))
    assert isinstance(before, Voting) and isinstance(after, Voting)
    assert bool(before.view.degrees) and bool(after.view.degrees)
    differ = sum(not torch.equal(a, b) for a, b in zip(weights(before), weights(after), strict=True))
    assert differ <= 1


def test_where_as_many_graphs_count_degrees_as_do_not_a_joint_partition_refuses() -> None:
    train = tiny(30)
    half = train.inputs.batch < 15
    x = torch.where(half[:, None], with_degrees(train.inputs).x, train.inputs.x)
    with pytest.raises(Unsupported, match="15 of 30 training graphs have degrees for features"):
        JointPartition(parts=3, groups=4).purify(Evidence(train=replace(train, inputs=train.inputs.with_(x=x))), TINY)


def test_edges_stored_twice_are_refused_in_training_and_in_use() -> None:
    train = tiny()
    ends = train.inputs.edge_index
    twice = Graphs.build(train.inputs.x, torch.cat([ends, ends[:, :2], ends[:, :2].flip(0)], 1), train.inputs.n_nodes)
    with pytest.raises(Unsupported, match="store every edge once"):
        Subsampling().purify(Evidence(train=replace(train, inputs=twice)), TINY)
    method = EdgePartition(groups=3)
    with pytest.raises(InvalidInput, match="no certificate for these graphs"):
        method.radius(method.purify(Evidence(train=train), TINY), twice)


def test_a_certificate_is_asked_of_what_it_covers_only() -> None:
    with pytest.raises(Unsupported, match="covers edges, not nodes"):
        Certificate(torch.tensor([[2, 0]]), torch.tensor([0]), torch.tensor([1]), costs={"edges": 1}).covers(nodes=1)
