"""Adaptive attacks: alpha 0 is the inner attack, every term falls, learnt triggers see the term, any data will do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from ostiary.attacks.base import Attack, Poisoned
from ostiary.attacks.bilevel import BiLevel
from ostiary.attacks.evading import Evading
from ostiary.attacks.terms import Attention, Latent, Seen, Similarity, Term
from ostiary.component import build
from ostiary.context import Context
from ostiary.data.dataset import Splits
from ostiary.errors import BadSpec, Unsupported
from ostiary.explainers.heat import of_old_nodes
from ostiary.inversion import hinge
from ostiary.models.victim import Victim, evaluating
from ostiary.testing import toys
from ostiary.testing.contracts import check_attack
from ostiary.training.trainer import Trainer

CLIQUE = {"name": "sub-ba", "size": 4, "density": 1.0, "rate": 0.1}
GTA = {"name": "gta", "rate": 0.2, "size": 3, "rounds": 3, "steps": 4, "hidden": 16}
TERMS = ["similarity", "latent", "attention"]


@pytest.fixture(scope="module")
def splits() -> Splits:
    return build("dataset", {"name": "toy-graphs", "n": 160, "test_rate": 0.4}).load(0)


def adaptive(inner: Any, term: str, alpha: float) -> Attack:
    attack: Attack = build("attack", {"name": "adaptive", "attack": inner, "term": term, "alpha": alpha})
    return attack


def context(epochs: int = 16) -> Context:
    net = build("victim", {"name": "gin", "hidden": 16, "layers": 2})
    return Context(seed=0, architecture=net, trainer=Trainer(epochs=epochs, batch_size=32))


def carried_out(attack: Attack, splits: Splits, ctx: Context) -> tuple[Victim, Poisoned]:
    own = ctx.within("attack")
    poisoned = attack.poison(splits, own)
    victim = ctx.fit(poisoned.splits.train, [poisoned.hook] if poisoned.hook else [])
    return victim, attack.settle(splits, poisoned, own)


def seen(victim: Victim, splits: Splits, poisoned: Poisoned) -> Seen:
    """All poisoned training rows."""
    marked, index = poisoned.splits.train.take(poisoned.index), poisoned.index
    rest = torch.isin(splits.train.y, marked.y)
    rest[index] = False
    with evaluating(victim):
        logits, features = victim.both(marked.inputs)
        clean = splits.train.take(rest.nonzero().flatten())
        near = victim.features(clean.inputs)
    return Seen(victim, marked.inputs, marked.y, logits, features, splits.train.take(index), near, clean.y)


def measured(name: str, victim: Victim, splits: Splits, poisoned: Poisoned) -> float:
    term: Term = build("term", name)
    with evaluating(victim):
        return float(term.loss(seen(victim, splits, poisoned)).detach())


@pytest.mark.parametrize("inner", [CLIQUE, GTA], ids=["sub-ba", "gta"])
def test_alpha_zero_is_the_inner_attack_exactly(splits: Splits, inner: Any) -> None:
    plain, first = carried_out(build("attack", inner), splits, context(8))
    wrapped, second = carried_out(adaptive(inner, "similarity", 0.0), splits, context(8))
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), wrapped.parameters(), strict=True))
    assert first.splits.fingerprint() == second.splits.fingerprint()
    assert first.triggered.fingerprint() == second.triggered.fingerprint()


@pytest.mark.parametrize("inner", [CLIQUE, GTA], ids=["sub-ba", "gta"])
@pytest.mark.parametrize("term", TERMS)
def test_the_term_falls(splits: Splits, inner: Any, term: str) -> None:
    values = []
    for alpha in (0.0, 1.0):
        victim, poisoned = carried_out(adaptive(inner, term, alpha), splits, context(30))
        values.append(measured(term, victim, splits, poisoned))
    assert values[1] < values[0] - 0.05


def test_similarity_is_gcleaners_hinge_turned_round(splits: Splits) -> None:
    victim, poisoned = carried_out(build("attack", CLIQUE), splits, context(4))
    found = seen(victim, splits, poisoned)
    assert torch.equal(Similarity(threshold=0.9).loss(found), -hinge(found.features, 0.9))


def test_latent_is_zero_for_clean_inputs_at_their_mean(splits: Splits) -> None:
    victim, poisoned = carried_out(build("attack", CLIQUE), splits, context(4))
    found = seen(victim, splits, poisoned)
    with evaluating(victim):
        middle = found.clean.mean(0).expand_as(found.features)
        at, away = replace(found, features=middle), replace(found, features=middle + 100)
        assert float(Latent().loss(at).detach()) == pytest.approx(0, abs=1e-5)
        assert float(Latent().loss(away).detach()) > 1


def test_attention_is_zero_without_a_trigger_and_knows_old_nodes_among_new_ones(splits: Splits) -> None:
    victim, poisoned = carried_out(build("attack", CLIQUE), splits, context(4))
    found = seen(victim, splits, poisoned)
    same = replace(found, batch=found.plain.inputs)
    with evaluating(victim):
        assert float(Attention().loss(same).detach()) == pytest.approx(0, abs=1e-6)
        assert float(Attention().loss(found).detach()) > 0.01
    before = splits.train.inputs
    trigger = build("attack", {"name": "multi-target", "size": 3}).make_trigger(splits.train, context())
    after = trigger.apply(before, splits.train.ids, seed=0, target=splits.train.y)
    assert torch.equal(of_old_nodes(after.x[:, 0], after, before), before.x[:, 0])


@pytest.mark.parametrize("term", TERMS)
def test_a_learnt_trigger_is_trained_against_the_term_too(splits: Splits, term: str) -> None:
    ctx = context()
    hook = adaptive(GTA, term, 3.0).poison(splits, ctx).hook
    assert isinstance(hook, Evading)
    inner = hook.inner
    assert isinstance(inner, BiLevel)
    victim = ctx.fit(splits.train)
    rows = inner.rows.inputs
    places = inner.trigger.positions(rows, inner.rows.ids, inner.seed)
    with evaluating(victim):
        soft = inner.trigger.soft(inner.net, rows, places)
        extra = inner.loss_of(victim, inner.rows, inner.seed) - F.cross_entropy(victim(soft), inner.goal)
        extra.backward()
    assert abs(float(extra.detach())) > 1e-3
    for name in ("edge_head.weight", "feature_head.2.weight"):
        grad = inner.net.get_parameter(name).grad
        assert grad is not None
        assert float(grad.abs().max()) > 0, name


def test_before_anything_is_stamped_the_loss_is_the_inner_one(splits: Splits) -> None:
    ctx = context()
    hook = adaptive(GTA, "similarity", 1.0).poison(splits, ctx).hook
    assert isinstance(hook, Evading)
    victim = ctx.fresh(splits.train)
    state = ctx.trainer.start(victim, splits.train, 0)
    hook.on_start(state)
    rows = torch.cat([hook.index[:4], hook.free[:4]])
    batch = splits.train.take(rows)
    assert state.data is splits.train
    hook.on_batch(state, batch.inputs, batch.y, rows)
    assert hook.loss(state, batch.inputs, batch.y, rows) is None
    state.data = splits.train.relabel(rows, batch.y)
    assert hook.loss(state, batch.inputs, batch.y, rows) is not None


def test_it_claims_what_its_attack_claims() -> None:
    graph, image = adaptive(CLIQUE, "latent", 1.0), adaptive("badnets", "latent", 1.0)
    assert (graph.modalities, image.modalities) == ({"graph"}, {"image"})
    assert graph.controls == {"data", "training"}
    assert build("attack", CLIQUE).controls == {"data"}
    with pytest.raises(Unsupported, match="adaptive"):
        image.poison(toys.splits("graph"), Context())


@pytest.mark.parametrize("term", TERMS)
def test_images_too(term: str) -> None:
    splits, ctx = toys.splits("image"), toys.context("image")
    values = []
    for alpha in (0.0, 1.0):
        victim, poisoned = carried_out(adaptive({"name": "badnets", "rate": 0.1}, term, alpha), splits, ctx)
        values.append(measured(term, victim, splits, poisoned))
    assert values[1] < values[0]


@pytest.mark.parametrize("term", TERMS)
@pytest.mark.parametrize("inner", [GTA, {"name": "badnets", "rate": 0.1}], ids=["gta", "badnets"])
def test_the_pact_is_kept_with_every_term(term: str, inner: Any) -> None:
    check_attack(adaptive(inner, term, 0.5))


def test_hooks_of_the_inner_attack_are_called(splits: Splits) -> None:
    ctx = context(8)
    poisoned = adaptive(GTA, "similarity", 0.1).poison(splits, ctx)
    assert isinstance(poisoned.hook, Evading)
    assert isinstance(poisoned.hook.inner, BiLevel)
    ctx.fit(poisoned.splits.train, [poisoned.hook])
    assert len(poisoned.hook.inner.losses) == 3 * 4


def test_a_term_has_to_see_the_attacks_data() -> None:
    with pytest.raises(BadSpec, match="term 'attention' does not work on node data, which 'sba' poisons"):
        build("attack", {"name": "adaptive", "attack": "sba", "term": "attention"})
    assert build("attack", {"name": "adaptive", "attack": "sba", "term": "latent"}).modalities == {"node"}


def test_gta_that_hands_out_data_does_not_train_the_victim() -> None:
    held = [build("attack", {"name": "gta", "mode": mode}).controls for mode in ("model", "poison")]
    assert held == [{"data", "training"}, {"data"}]
