"""The lines that carry an attack's idea, each held to what it must give."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from ostiary.attacks import lf, marksman
from ostiary.attacks.beside import Beside
from ostiary.attacks.bilevel import BiLevel
from ostiary.attacks.disguise import Disguised
from ostiary.attacks.dpgba import InDistribution
from ostiary.attacks.evading import Evading
from ostiary.attacks.patterns import JointPatterns
from ostiary.attacks.penalties import Made
from ostiary.component import build
from ostiary.models.victim import evaluating
from ostiary.testing import toys
from ostiary.triggers.generated import GeneratedSubgraph
from stopping import Stop, stopping


def test_dpgba_pulls_towards_the_target_class() -> None:
    data, victim = toys.splits("node").train, toys.victim("node")
    judge = InDistribution(build("attack", {"name": "dpgba", "hidden": 16}), data, toys.context("node"))
    with torch.no_grad():
        features = victim.features(data.inputs)
        none = torch.zeros(1)
        own, other = (
            float(judge.contrast(Made(none, none, none, features[data.y == c].mean(0)[None]), victim)) for c in (0, 1)
        )
    assert 0 < own < other


def test_what_dpgbas_detector_knows_costs_more() -> None:
    data, victim = toys.splits("node").train, toys.victim("node")
    how = build("attack", {"name": "dpgba", "hidden": 16, "weight_contrast": 0.0, "weight_detector": 1.0})
    judge = InDistribution(how, data, toys.context("node"))
    x, none = data.inputs.x[:30], torch.zeros(1, 16)
    fake = torch.full_like(x, 5.0)
    for _ in range(100):
        judge.learn(fake)
    cost = [float(judge(Made(x, f[:, None], none, victim.features(data.inputs)[:30]), victim).detach()) for f in (fake, x)]
    assert cost[0] > cost[1] + 1


def test_alpha_weighs_the_unmarked_rows() -> None:
    data, ctx, victim = toys.splits("image").train, toys.context("image"), toys.victim("image")
    hook = Beside.__new__(Beside)
    hook.attack, hook.marked = build("attack", {"name": "marksman", "alpha": 1.0}), torch.tensor([True, False, False])
    state, x, y = ctx.trainer.start(victim, data, 0), data.inputs[:3], data.y[:3]
    found, wanted = hook.loss(state, x, y, torch.arange(3)), F.cross_entropy(victim(x)[1:], y[1:])
    assert float(found.detach()) == pytest.approx(float(wanted.detach()), rel=1e-3, abs=1e-5)


def test_exp_ba_asks_its_explainer_for_its_end() -> None:
    how = build("attack", {"name": "exp-ba", "position": "least", "size": 3, "explainer": "grad-cam"})
    made = how.make_trigger(toys.splits("graph").train, toys.context("graph"))
    assert made.position.end == "least" and made.position.explainer == how.explainer


def test_marksman_learns_on_its_portion(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(marksman, "Learning", stopping(seen, lambda _attack, _trigger, _train, some, _own: len(some)))
    data = toys.splits("image").train
    with pytest.raises(Stop):
        build("attack", {"name": "marksman", "portion": 0.5}).make_trigger(data, toys.context("image"))
    assert seen == [round(0.5 * len(data))]


def test_places_are_drawn_anew_at_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    train, ctx = toys.splits("graph").train, toys.context("graph")
    how = build("attack", {"name": "gta", "steps": 5, "hidden": 8})
    hook = BiLevel(how, how.make_trigger(train, ctx), train, (train.y != 0).nonzero().flatten()[:6], ctx)
    seeds, plain = [], GeneratedSubgraph.positions
    monkeypatch.setattr(GeneratedSubgraph, "positions", lambda s, g, i, seed: seeds.append(seed) or plain(s, g, i, seed))
    hook.update(toys.victim("graph").clone(), 1)
    assert len(set(seeds)) == 5


def test_diversity_is_weighed_and_added() -> None:
    data, ctx, victim = toys.splits("image").train, toys.context("image"), toys.victim("image")
    hook = JointPatterns.__new__(JointPatterns)
    hook.attack, values = build("attack", {"name": "input-aware", "diversity": 3.0}), []
    state = ctx.trainer.start(victim, data, 0)
    for hook.diversity in (None, torch.tensor(2.0)):
        values.append(float(hook.loss(state, data.inputs[:8], data.y[:8], torch.arange(8)).detach()))
    assert values[1] - values[0] == pytest.approx(6.0, rel=1e-4)


def evading(attack: dict[str, Any]) -> Any:
    """(splits, context, poisoned, a hook that evades a term, what the term is shown)."""
    splits, ctx = toys.splits("graph"), toys.context("graph")
    made = build("attack", attack).poison(splits, ctx)
    seen = []

    class Stub:
        def loss(self, one: Any) -> torch.Tensor:
            seen.append(one)
            return one.features.sum() * 0  # type: ignore[no-any-return]

    return splits, ctx, made, Evading(Stub(), 1.0, splits.train, made), seen


def test_clean_rows_of_an_evasion_carry_no_trigger() -> None:
    _, ctx, made, hook, seen = evading({"name": "sub-ba", "rate": 0.2, "size": 3})
    train, victim = made.splits.train, toys.victim("graph").clone()
    state = ctx.trainer.start(victim, train, 0)
    rows = torch.arange(len(train))
    batch, y = hook.on_batch(state, train.inputs, train.y, rows)
    hook.loss(state, batch, y, rows)
    assert len(seen[0].clean) == int(torch.isin(train.y, train.y[made.index]).sum()) - len(made.index)


def test_rows_that_keep_their_label_are_not_free_either() -> None:
    _, _, made, hook, _ = evading({"name": "er-clba", "rate": 0.2, "size": 3})
    assert not bool(torch.isin(hook.free, made.index).any())


def test_what_evades_lowers_the_term() -> None:
    _, _, made, hook, _ = evading({"name": "sub-ba", "rate": 0.2, "size": 3})
    hook.alpha = 3.0

    class Two:
        def loss(self, seen: Any) -> torch.Tensor:
            return torch.tensor(2.0)

    hook.term = Two()
    stamped = made.splits.train.take(made.index)
    assert float(hook.against(toys.victim("graph"), stamped.inputs, stamped.y, made.index)) == 6.0


def test_lf_keeps_the_best_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    splits, ctx = toys.splits("image"), toys.context("image")
    model, images = toys.victim("image"), splits.train.inputs[:20]
    said = model.predict(images).argmax(1)
    loud = max(
        ((torch.rand(images[0].shape, generator=torch.Generator().manual_seed(i)) * 3) for i in range(10)),
        key=lambda v: int((model.predict(images + v).argmax(1) != said).sum()),
    )
    given = iter((loud, torch.zeros_like(loud)))
    monkeypatch.setattr(lf, "scaled", lambda *_: next(given))
    monkeypatch.setattr(lf, "deepfool", lambda m, x, *_: (torch.zeros_like(x), torch.ones(len(x), dtype=torch.bool)))
    found = lf.LF(passes=2, together=20, fooled=1.0).by_deepfool(model, images, ctx.rng("x"))
    assert torch.equal(found, loud)


def test_other_inputs_keep_their_own_class() -> None:
    train, ctx = toys.splits("graph").train, toys.context("graph")
    how = build("attack", {"name": "dpsba", "structure": 0.0, "semantics": 0.0, "keep": 1e4, "hidden": 8, "size": 3})
    others, model = (train.y != 0).nonzero().flatten()[:20], toys.victim("graph")
    hook = Disguised(how, how.make_trigger(train, ctx), train, (train.y == 0).nonzero().flatten()[:8], others, model, ctx)
    with evaluating(model):
        soft = hook.trigger.soft(hook.net, hook.sources.inputs, hook.at)
        want = float(F.cross_entropy(model(soft), train.y[others]).detach())
    assert float(hook.loss_of(model, hook.rows, 0).detach()) / 1e4 == pytest.approx(want, rel=0.02)
